"""A Jupyter kernel that runs scripts (see `script`): an executable, started by a kernelspec as any other kernel.

It imports pyzmq and the standard library only, because a hundred of them must start on a small machine: the framing and
signing of the messaging protocol, twenty lines, are its own. Every step is noted in a file before it is done, so that a
test knows what the kernel has sent even if that was lost: `$RTD_SCRIPT_LOG/<first execution count>.jsonl`. Execution
counts start at a number of the process, so that one names a kernel and a run.
"""

import hashlib
import hmac
import json
import os
import signal
import sys
import uuid

import script
import zmq

DELIMITER = b"<IDS|MSG>"


class Interrupted(Exception):
    """The script has to end: an interrupt or a shutdown."""


class Kernel:
    def __init__(self, connection_file):
        with open(connection_file, encoding="utf-8") as file:
            info = json.load(file)
        self.key = info["key"].encode()
        context = zmq.Context()
        separator = "-" if info["transport"] == "ipc" else ":"

        def bind(name, kind):
            socket = context.socket(kind)
            socket.linger = 1000
            socket.sndhwm = socket.rcvhwm = 0
            socket.bind(f"{info['transport']}://{info['ip']}{separator}{info[name + '_port']}")
            return socket

        self.shell, self.control = bind("shell", zmq.ROUTER), bind("control", zmq.ROUTER)
        self.iopub = bind("iopub", zmq.PUB)
        self.context = context
        self.count = script.first_count(os.getpid())
        self.session = uuid.uuid4().hex
        self.parent = {}
        self.running = True
        self.executing = False
        self.interrupted = False
        self.deaf = False
        place = os.path.join(os.environ["RTD_SCRIPT_LOG"], f"{self.count}.jsonl")
        self.log = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        self.note(["pid", os.getpid()])
        # The handler only notes; a message that is half sent is never cut off.
        wake, self.wake = os.pipe()
        for descriptor in (wake, self.wake):
            os.set_blocking(descriptor, False)
        self.woken = wake
        signal.set_wakeup_fd(self.wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, self.on_signal)

    def on_signal(self, *_):
        if not self.deaf:
            self.interrupted = True

    # -- messages

    def sign(self, parts):
        digest = hmac.new(self.key, digestmod=hashlib.sha256)
        for part in parts:
            digest.update(part)
        return digest.hexdigest().encode()

    def parts(self, msg_type, content, parent):
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": msg_type,
            "session": self.session,
            "username": "script",
            "version": "5.3",
            "date": "2026-01-01T00:00:00.000000Z",
        }
        body = [json.dumps(value).encode() for value in (header, parent, {}, content)]
        return [DELIMITER, self.sign(body), *body]

    def publish(self, msg_type, content):
        self.iopub.send_multipart([msg_type.encode(), *self.parts(msg_type, content, self.parent)])

    def status(self, state):
        self.publish("status", {"execution_state": state})

    def reply(self, socket, ids, msg_type, content, parent):
        socket.send_multipart([*ids, *self.parts(msg_type, content, parent)])

    def receive(self, socket):
        parts = socket.recv_multipart()
        start = parts.index(DELIMITER)
        header, _, _, content = (json.loads(part) for part in parts[start + 2 : start + 6])
        return parts[:start], header, content

    # -- life

    def run(self):
        while self.running:
            self.pause(self.shell)
            if self.running and self.shell.poll(0):
                self.on_shell(*self.receive(self.shell))

    def pause(self, *others):
        """Until one of the sockets or descriptors is readable, or the run is interrupted, or a control message came."""
        poller = zmq.Poller()
        for other in (*others, self.control, self.woken):
            poller.register(other, zmq.POLLIN)
        ready = dict(poller.poll())
        if self.woken in ready:
            os.read(self.woken, 4096)
        if self.control in ready:
            self.on_control(*self.receive(self.control))
        return ready

    def on_control(self, ids, header, content):
        kind = header["msg_type"]
        if kind == "shutdown_request":
            self.reply(self.control, ids, "shutdown_reply", content, header)
            self.running = False
        elif kind == "interrupt_request":
            self.interrupted = self.executing
            self.reply(self.control, ids, "interrupt_reply", {"status": "ok"}, header)

    def on_shell(self, ids, header, content):
        kind = header["msg_type"]
        self.parent = header
        if kind == "execute_request":
            self.execute(ids, header, content["code"])
            return
        self.status("busy")
        if kind == "kernel_info_request":
            info = {"status": "ok", "protocol_version": "5.3", "implementation": "script", "banner": ""}
            info["language_info"] = {"name": "script", "version": "1", "mimetype": "", "file_extension": ".txt"}
            self.reply(self.shell, ids, "kernel_info_reply", info, header)
        elif kind == "complete_request":
            matches = {"status": "ok", "matches": ["out", "err"], "metadata": {}}
            place = {"cursor_start": 0, "cursor_end": content["cursor_pos"]}
            self.reply(self.shell, ids, "complete_reply", {**matches, **place}, header)
        elif kind == "history_request":
            history = {"status": "ok", "history": [[0, 1, "[]"]]}
            self.reply(self.shell, ids, "history_reply", history, header)
        self.status("idle")

    # -- a run

    def note(self, what):
        os.write(self.log, json.dumps([self.count, what]).encode() + b"\n")

    def execute(self, ids, header, code):
        self.count += 1
        self.executing, self.interrupted = True, False
        self.note(["run", code])
        self.first, self.lost, self.payload = "reply", None, []
        self.status("busy")
        self.publish("execute_input", {"code": code, "execution_count": self.count})
        reply = {"status": "ok", "user_expressions": {}}
        try:
            for step in script.parse(code):
                if step[0] == "fail":
                    reply = {"status": "error", **script.failure(*step[1:])}
                self.step(step)
                if step[0] == "fail":
                    break
        except Interrupted:
            reply = self.stumble("KeyboardInterrupt", "")
        except ValueError as error:
            reply = self.stumble("SyntaxError", str(error))
        self.executing = False
        self.note(["end", reply["status"]])
        reply.update(execution_count=self.count, payload=self.payload)
        halves = [("reply", lambda: self.reply(self.shell, ids, "execute_reply", reply, header))]
        halves.append(("idle", lambda: self.status("idle")))
        if self.first == "idle":
            halves.reverse()
        for name, send in halves:
            if name != self.lost:
                send()

    def stumble(self, name, text):
        self.step(["fail", name, text])
        return {"status": "error", **script.failure(name, text)}

    def step(self, step):
        verb = step[0]
        if verb != "fail":
            if self.control.poll(0):
                self.on_control(*self.receive(self.control))
            if self.interrupted or not self.running:
                raise Interrupted
        self.note(step)
        for msg_type, content in script.messages(step, self.count):
            self.publish(msg_type, content)
        if verb == "block":
            self.until_woken()
        elif verb == "wait":
            self.wait(step[1])
        elif verb == "order":
            self.first = step[1]
        elif verb == "lose":
            self.lost = step[1]
        elif verb == "page":
            page = {"source": "page", "data": {"text/plain": step[1]}, "start": 0}
            self.payload.append(page)
        elif verb == "garbage":
            self.garbage()
        elif verb == "deaf":
            self.deaf = True
            while True:
                signal.pause()
        elif verb == "exit":
            sys.stderr.write("script: exit\n")
            sys.stderr.flush()
            self.context.destroy(linger=1000)
            os._exit(step[1])
        elif verb == "die":
            os.kill(os.getpid(), step[1])
            signal.pause()

    def until_woken(self, *others):
        while True:
            if self.interrupted or not self.running:
                raise Interrupted
            ready = self.pause(*others)
            if any(other in ready for other in others):
                return

    def wait(self, path):
        fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        try:
            while True:
                self.until_woken(fifo)
                try:
                    os.read(fifo, 1)
                    return
                except BlockingIOError:  # Another kernel has this number.
                    continue
        finally:
            os.close(fifo)

    def garbage(self):
        """None of this may affect another message, the run, or the kernel's room."""
        good = self.parts("stream", {"name": "stdout", "text": "forged"}, self.parent)
        self.iopub.send_multipart([b"no delimiter"])
        self.iopub.send_multipart([b"stream", DELIMITER])
        self.iopub.send_multipart([b"stream", good[0], b"0" * 64, *good[2:]])
        for header, content in ((b"{", b"{}"), (b"[]", b"{}"), (b"{}", b"{}"), (b'{"msg_type": "stream"}', b"\xff")):
            body = [header, b"{}", b"{}", content]
            self.iopub.send_multipart([b"stream", DELIMITER, self.sign(body), *body])
        for msg_type, content in (
            ("status", {}),
            ("status", {"execution_state": 7}),
            ("execute_input", {"execution_count": "many"}),
            ("update_display_data", {"transient": [], "data": 5}),
            ("comm_msg", {}),
            ("unheard_of", {"x": [1]}),
        ):
            self.publish(msg_type, content)
        for peer in (b"unknown", b""):
            self.shell.send_multipart([peer, b"garbage"])


def main():
    kernel = Kernel(sys.argv[sys.argv.index("-f") + 1])
    kernel.run()


if __name__ == "__main__":
    main()
