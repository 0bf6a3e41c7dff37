"""The embedded daemon: a program that hosts notebook rooms and runs their cells on Jupyter kernels.

Storey: daemon (7).  It uses the public handles ``runtimed_ffi.host`` and ``runtimed_ffi.blobs`` only; it knows
neither wire bytes nor Automerge.  One asyncio loop does everything; nothing here is called from another thread
unless its docstring says so.

=================  ===================================================
module             noun
=================  ===================================================
``main``           the entry point: from options to an exit status
``options``        how a daemon is to run
``service``        the life of the process: lock, socket, signals, end
``state``          the directory with the files of the daemon
``approval``       the approval of what a notebook file lists
``limits``         descriptors and peers
``logging_setup``  the log
``report``         what a status request can ask about the daemon
``dispatch``       hands the events of the host to their handlers
``reply``          the answer to one request
``tasks``          tasks that run beside the events of the loop
``lazy_import``    importing libraries late
``processes``      the end of a child process, and its last words
``ports``          the types that these modules share
=================  ===================================================

================  =============================================
package           noun
================  =============================================
``rooms``         rooms, their requests, executions and outputs
``files``         the notebook files of the rooms
``kernels``       kernels, from the launch to the end
``environments``  what kernels need before they can start
``channels``      pool, settings, blobs
================  =============================================

Imports point this way: the modules above -> channels -> rooms -> files, kernels -> environments ->
``processes``, ``lazy_import``, ``ports``.
"""
