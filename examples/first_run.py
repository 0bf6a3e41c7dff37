"""The main job, end to end: a session runs cells of a shared notebook on a real kernel.

Starts the daemon if none runs; needs nothing else. Run it with `make run`.
"""

import time

import runtimed_ffi as runtimed

CELLS = [
    "import time\nfor word in 'one two three'.split():\n    print(word, flush=True)\n    time.sleep(0.2)",
    "sum(range(101))",
    "1 / 0",
]
begin = time.perf_counter()


def say(text):
    """Prints a line with the seconds since the start."""
    print(f"{time.perf_counter() - begin:7.3f} s  {text}", flush=True)


def show(output):
    """Called for each output at the moment it arrives."""
    if output.output_type == "stream":
        text = output.text
    elif output.output_type == "error":
        text = f"{output.ename}: {output.evalue}"
    else:
        text = output.data["text/plain"]
    for line in text.rstrip("\n").split("\n"):
        say(f"    {output.output_type:14} | {line}")


def main():
    """Runs the cells; returns 0 when all went as it should, the failing one included."""
    with runtimed.Session() as session:
        session.connect()
        say(f"connected to a daemon, notebook {session.notebook_id}")
        session.start_kernel()
        say(f"started a Python kernel ({session.env_source})")
        results = []
        for source in CELLS:
            say("run   " + "\n                 ".join(source.split("\n")))
            results.append(session.run(source, on_output=show))
            state = "ok" if results[-1].success else "failed, as it should" if source == CELLS[-1] else "failed"
            say(f"done  [{results[-1].execution_count}] {state}")
        say(f"the shared document now has {len(session.get_cells())} cells; another session can join by its id")
    say("kernel stopped; the daemon stays for the next session and ends by itself when idle")
    return 0 if [result.success for result in results] == [True, True, False] else 1


if __name__ == "__main__":
    raise SystemExit(main())
