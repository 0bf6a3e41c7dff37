"""The embedded daemon: a program that hosts notebook rooms and runs their cells on Jupyter kernels.

Storey: daemon (7).  It stands on the public handles ``runtimed_ffi.host`` and ``runtimed_ffi.blobs`` only; it knows
neither wire bytes nor Automerge.  One asyncio loop does everything; nothing here is called from another thread
unless its docstring says so.

====================  =============================================================="""
