"""What the README claims about speed, measured: ``python -m benchmarks``, or ``make bench``.

Each figure stands beside a floor, the same work done by a program that knows only sockets, taken in the same run and
interleaved with it, so that a busy machine slows both. Goals are printed, never checked: a benchmark is no test.

============  =======================================================================
module        noun
============  =======================================================================
``figure``    one measured figure, its floor, its goal; medians of interleaved samples
``report``    figures as rows of a table or as JSON
``world``     what is measured against: a private daemon, an echo process
``echo``      the process behind the floors of connecting and editing
``raw``       a client of a kernel that knows ZeroMQ and nothing else
``connect``, ``cells``, ``edits``, ``kernels``, ``runs``, ``outputs``, ``calls``: the figures
============  =======================================================================
"""
