"""The embedded daemon: a program that hosts notebook rooms and runs their cells on Jupyter kernels.

Storey: daemon (7).  It stands on the public handles ``runtimed_ffi.host`` and ``runtimed_ffi.blobs`` only; it knows
neither wire bytes nor Automerge.  One asyncio loop does everything; nothing here is called from another thread
unless its docstring says so.

====================  =====================================================================
module                noun
====================  =====================================================================
``service``           the life of the process: lock, socket, signals, end
``state``             the directory with the files of the daemon
``rooms``             the rooms that are open; events of the host about them
``room``              one room: its peers, its kernel
``notebook_files``    the notebook files of the rooms, seen from the loop
``notebook_file``     the file of one room: filling, merging, saving
``merging``           what a changed file means for a document
``notebooks``         the bytes of a notebook file
``snapshots``         the part of a file's metadata that lives in the document
``bases``             what file and document were when they were last the same
``files``             paths, reading, replacing
``watching``          who tells when a file changes
``requests``          requests of peers of a room
``pool``              requests on the pool channel
``launcher``          from a request for a kernel to a running one
``environments``      what a request for a kernel means
``wishes``            what a notebook wishes for
``trust``             whether its dependencies were approved
``pools``             the pools of environments
``warmer``            one pool at work
``stock``             when a pool builds, and what it hands out
``recipes``           how pooled environments are made
``inline``            environments cached by content
``claims``            directories of environments, and their owners
``uv``                the program uv
``conda``             the programs that make conda environments
``deno``              the program deno
``tools``             external programs, with deadlines
``diagnosis``         why they failed, and what to do
``standby``           kernels that are started ahead of time, and every launch
``kernels``           one kernel: ready, asked, interrupted, ended
``provisioned``       what runs a kernel, here or elsewhere
``kernel_directory``  where its files are, and what a crash has left there
``kernel_main``       what a Python kernel of ours runs, in its own process
``processes``         the end of a child process, and its last words
``channels``          the ZeroMQ sockets of one kernel
``execution``         the queue of a room and the life of one execution
``outputs``           kernel messages become document changes and broadcasts
``ports``             what these modules need from each other
``cli``               ``python -m runtimed_ffi daemon ...``
====================  =====================================================================
"""
