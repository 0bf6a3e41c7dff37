"""The language of the scripted kernel: what one step of a script makes the kernel send.

A script is the source of a cell: one step per line, each a JSON array of a verb and its arguments. Kernel and tests
share only this module: the kernel sends what `messages` says, the tests compare what arrived with it.

=========================  ===========================================================================
step                       what the kernel does
=========================  ===========================================================================
``out TEXT``, ``err TEXT`` writes to stdout or stderr
``show TEXT [ID]``         displays, with a display id if one is given
``result TEXT``            gives an execute_result
``update ID TEXT``         updates the displays with this id
``clear WAIT``             clear_output; WAIT is true or false
``many N TEXT``            displays N times without a pause
``lines N TEXT``           writes N times to stdout without a pause
``comm KIND ID``           sends comm_open, comm_msg or comm_close
``page TEXT``              puts a page into the reply
``fail NAME TEXT``         ends the script with this error
``wait FIFO``              until a byte can be read from the FIFO; an interrupt ends it
``block``                  until it is interrupted
``order FIRST``            sends ``reply`` or ``idle`` first (default: the reply)
``lose HALF``              never sends the ``reply`` or the ``idle`` of this run
``garbage``                sends garbage, and messages of unknown types
``deaf``                   reads no messages and no interrupts any more, and never ends the run
``exit CODE``              ends the process
``die SIGNAL``             ends the process by a signal
=========================  ===========================================================================
"""

import json

WORDS = {
    "out": (str,),
    "err": (str,),
    "show": (str,),
    "result": (str,),
    "update": (str, str),
    "clear": (bool,),
    "many": (int, str),
    "lines": (int, str),
    "comm": (str, str),
    "page": (str,),
    "fail": (str, str),
    "wait": (str,),
    "block": (),
    "order": (str,),
    "lose": (str,),
    "garbage": (),
    "deaf": (),
    "exit": (int,),
    "die": (int,),
}


RUNS = 10_000
"""Executions of one kernel, at most."""


def first_count(pid):
    """The number below the count of a kernel's first execution; it is different for each kernel of a machine."""
    return pid % 100_000 * RUNS


def write(*steps):
    """The source of a cell with these steps."""
    return "\n".join(json.dumps(list(step), ensure_ascii=False) for step in steps)


def parse(source):
    """The steps of a source; `ValueError` for what is no script."""
    steps = []
    for line in source.splitlines():
        if not line.strip():
            continue
        step = json.loads(line)
        if not isinstance(step, list) or not step or step[0] not in WORDS:
            raise ValueError(f"no step: {line}")
        kinds = WORDS[step[0]]
        if not all(isinstance(value, kind) for value, kind in zip(step[1:], kinds)) or len(step) <= len(kinds):
            raise ValueError(f"wrong arguments: {line}")
        steps.append(step)
    return steps


def messages(step, count):
    """What a step publishes on iopub: pairs of message type and content. `count` is the execution count."""
    verb, arguments = step[0], step[1:]
    if verb in ("out", "err"):
        yield "stream", {"name": "stdout" if verb == "out" else "stderr", "text": arguments[0]}
    elif verb == "lines":
        for number in range(arguments[0]):
            yield "stream", {"name": "stdout", "text": f"{arguments[1]}{number}\n"}
    elif verb == "show":
        yield "display_data", _display(*arguments)
    elif verb == "many":
        for number in range(arguments[0]):
            yield "display_data", _display(f"{arguments[1]}{number}")
    elif verb == "update":
        yield "update_display_data", _display(arguments[1], arguments[0])
    elif verb == "result":
        yield "execute_result", {**_display(arguments[0]), "execution_count": count}
    elif verb == "clear":
        yield "clear_output", {"wait": arguments[0]}
    elif verb == "comm":
        content = {"comm_id": arguments[1], "data": {"state": {"value": count}}}
        if arguments[0] == "comm_open":
            content["target_name"] = "jupyter.widget"
        yield arguments[0], content
    elif verb == "fail":
        yield "error", failure(*arguments)


def failure(name, text):
    """The content of an error message."""
    return {"ename": name, "evalue": text, "traceback": [f"{name}: {text}"]}


def _display(text, display_id=None):
    transient = {} if display_id is None else {"display_id": display_id}
    return {"data": {"text/plain": text}, "metadata": {}, "transient": transient}
