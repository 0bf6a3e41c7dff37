"""Objects that are collected at any moment, in any order and on any thread."""

from __future__ import annotations

import gc
import sys
import warnings

import runtimed_ffi
from integration.tools import finish, python


def test_sessions_that_are_forgotten_warn_and_do_no_harm(shared_daemon: runtimed_ffi.Daemon) -> None:
    gc.collect()  # Sessions of tests before this one warn now.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(20):
            session = shared_daemon.session("forgotten")
            session.connect()
            session.create_cell("x")
            cycle = [session]
            cycle.append(cycle)  # type: ignore[arg-type]
            del session, cycle
            gc.collect()
        gc.collect()
    resource = [warning for warning in caught if warning.category is ResourceWarning]
    assert any("Session" in str(warning.message) for warning in resource)
    if sys.implementation.name == "cpython":
        assert len([warning for warning in resource if "Session" in str(warning.message)]) == 20
    with shared_daemon.session("forgotten") as session:
        session.connect()
        assert len(session.get_cells()) == 20
        session.disconnect()


ANY_ORDER = """
    import gc, itertools, os, random, sys, tempfile, threading, warnings
    import runtimed_ffi
    from runtimed_ffi.blobs import Blobs
    from runtimed_ffi.host import Host
    warnings.simplefilter("ignore", ResourceWarning)  # things are forgotten here

    path = sys.argv[1]
    randomly = random.Random(7)
    directory = tempfile.TemporaryDirectory()
    numbers = itertools.count()
    ENDS = {
        "Session": ["close", "disconnect", "stop_pump"],
        "Host": ["close", "stop"],
        "Document": ["close"],
        "Blobs": ["close"],
        "Subscription": ["remove"],
        "Cell": ["__repr__"],
        "Last": ["__del__"],
    }

    class Last:
        # Calls what it can reach while it is collected itself, perhaps after its friends.
        def __init__(self, *friends):
            self.friends = friends
        def __del__(self):
            for friend in self.friends:
                try:
                    friend()
                except (runtimed_ffi.RuntimedError, ValueError):
                    pass

    def family():
        session = runtimed_ffi.Session("garbage", socket_path=path)
        session.connect()
        cell = session.create_cell("1")
        host = Host(os.path.join(directory.name, f"s{next(numbers)}"))
        host.prepare_room("r")
        document, blobs = host.fork("r"), Blobs(directory.name)

        def on_change(change):
            try:
                session.get_cells()
            except runtimed_ffi.RuntimedError:
                pass  # the test compares what was collected

        subscription = session.on_change(on_change)
        last = Last(session.get_cells, host.rooms, document.cells, lambda: blobs.put(b"x", "text/plain"))
        return [session, session.get_cell(cell), host, document, blobs, subscription, last]

    def end():
        members = family()
        if randomly.random() < 0.3:
            members[0].start_pump()
        randomly.shuffle(members)
        for member in members[: randomly.randrange(len(members))]:
            # Explicit ends before, in any order.
            getattr(member, randomly.choice(ENDS[type(member).__name__]))()
        if randomly.random() < 0.5:
            members.append(members)
        while len(members) > 1 and randomly.random() < 0.9:
            members.pop(randomly.randrange(len(members)))
            if randomly.random() < 0.3:
                gc.collect()

    # Another session works meanwhile, and collects in its callbacks.
    working = runtimed_ffi.Session("garbage", socket_path=path)
    working.start_kernel()
    received = []
    working.on_change(lambda change: gc.collect(0))
    working.on_output(lambda output: (received.append(output), gc.collect()))
    threads = [threading.Thread(target=lambda: [end() for _ in range(10)]) for _ in range(2)]
    for thread in threads:
        thread.start()
    result = working.run("for i in range(50): display(i)", on_output=lambda output: gc.collect())
    assert result.success and len(result.outputs) == 50, result
    for thread in threads:
        thread.join()
    for _ in range(3):
        gc.collect()
    assert working.run("'alive'").success
    assert len(received) == 51, len(received)
    working.disconnect()
    directory.cleanup()
"""


def test_objects_are_collected_in_any_order_while_callbacks_run(shared_daemon: runtimed_ffi.Daemon) -> None:
    finish(python(ANY_ORDER, shared_daemon.socket_path), 100.0)


EAGER = """
    import gc, sys
    import runtimed_ffi
    if hasattr(gc, "set_threshold"):
        gc.set_threshold(1, 1, 1)  # at nearly every allocation; PyPy has another collector, and does as it likes
    for number in range(3):
        session = runtimed_ffi.Session("eager", socket_path=sys.argv[1])
        session.start_kernel()
        outputs = []
        execution = session.submit_cell(session.create_cell("for i in range(20): display(i)\\n'end'"), outputs.append)
        for output in execution:
            gc.collect()
        assert execution.result().success and len(outputs) == 21
        del execution, outputs
        session.disconnect()
"""


def test_a_collection_at_every_allocation_changes_nothing(shared_daemon: runtimed_ffi.Daemon) -> None:
    finish(python(EAGER, shared_daemon.socket_path), 100.0)
