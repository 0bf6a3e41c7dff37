"""A script that imports the package in subinterpreters of every kind this CPython has, and then in the main one."""

SCRIPT = """
import sys

CODE = f'''
import sys
sys.path[:] = {sys.path!r}
try:
    import runtimed_ffi
except ImportError as error:
    print("refused:", error)
else:
    print("imported")
'''

try:
    import _interpreters as interpreters
    for kind in ("isolated", "legacy"):
        one = interpreters.create(kind)
        failure = interpreters.exec(one, CODE)
        assert failure is None, failure
        interpreters.destroy(one)
except ImportError:
    import _xxsubinterpreters as interpreters
    for isolated in (True, False):
        one = interpreters.create(isolated=isolated)
        interpreters.run_string(one, CODE)
        interpreters.destroy(one)

import runtimed_ffi
print("main:", runtimed_ffi.__version__)
"""


def check(printed: str) -> None:
    """What the script has to print."""
    *refused, main = (line for line in printed.splitlines() if line)
    assert len(refused) == 2 and main.startswith("main: "), printed
    for line in refused:
        assert line.startswith("refused: ") and "subinterpreter" in line and "threads or processes" in line, printed
