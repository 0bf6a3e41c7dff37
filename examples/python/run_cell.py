"""Runs one cell of a shared notebook and prints its outputs as they come; the same on CPython and PyPy.

    pip install runtimed-ffi
    python run_cell.py SOCKET NOTEBOOK_ID 'print(6 * 7)'

Exit status: 0 the cell ran, 1 it failed, 2 anything else.
"""

import sys

import runtimed_ffi as runtimed


def show(output):
    """Called for each output at the moment it arrives, on the thread that waits in `run`."""
    if output.output_type == "stream":
        text = output.text
    elif output.output_type == "error":
        text = "\n".join(output.traceback)
    else:
        text = output.data["text/plain"]
    print(text.rstrip("\n"), flush=True)


def main(socket_path, notebook_id, code):
    """Returns the exit status."""
    session = runtimed.Session(notebook_id, socket_path=socket_path, autostart=False)
    try:
        session.start_kernel()  # connects, too
        cell = session.create_cell(code)
        result = session.execute_cell(cell, on_output=show)
        print(f"In [{result.execution_count}]")
    finally:
        session.disconnect()  # the kernel stays for the others in the room
    if not result.success:
        print(f"ended with an error: {result.error.ename}: {result.error.evalue}", file=sys.stderr)
    return 0 if result.success else 1


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(print("usage: run_cell.py SOCKET NOTEBOOK_ID CODE", file=sys.stderr) or 2)
    try:
        sys.exit(main(*sys.argv[1:]))
    except runtimed.RuntimedError as error:
        sys.exit(print(error, file=sys.stderr) or 2)
