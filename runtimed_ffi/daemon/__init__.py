"""The embedded daemon: a program that hosts notebook rooms and runs their cells on Jupyter kernels.

Storey: daemon (7).  It stands on the public handles ``runtimed_ffi.host`` and ``runtimed_ffi.blobs`` only; it knows
neither wire bytes nor Automerge.  One asyncio loop does everything; nothing here is called from another thread
unless its docstring says so.

=================  =====================================================================
module             noun
=================  =====================================================================
``service``        the life of the process: lock, socket, signals, end
``state``          the directory with the files of the daemon
``rooms``          the rooms that are open; events of the host about them
``room``           one room: its peers, its kernel
``notebook_files`` the notebook files of the rooms, seen from the loop
``notebook_file``  the file of one room: filling, merging, saving
``merging``        what a changed file means for a document
``notebooks``      the bytes of a notebook file
``snapshots``      the part of a file's metadata that lives in the document
``bases``          what file and document were when they were last the same
``files``          paths, reading, replacing
``watching``       who tells when a file changes
``requests``       requests of peers of a room
``pool``           requests on the pool channel
``environments``   what to start when a kernel is asked for
``kernels``        one kernel process
``kernel_main``    what a Python kernel of ours runs, in its own process
``processes``      the end of a child process, and its last words
``channels``       the ZeroMQ sockets of one kernel
``execution``      the queue of a room and the life of one execution
``outputs``        kernel messages become document changes and broadcasts
``ports``          what these modules need from each other
``cli``            ``python -m runtimed_ffi daemon ...``
=================  =====================================================================
"""
