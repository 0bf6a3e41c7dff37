"""Kernels: started, kept ready, asked, ended.

Storey: daemon (7).

====================  ========================================================
module                noun
====================  ========================================================
``prewarmed``         kernels that are started ahead of time, and every launch
``kernel``            one kernel: ready, asked, interrupted, ended
``provisioned``       what runs a kernel, here or elsewhere
``kernel_directory``  where its files are, and what a crash has left there
``kernel_main``       what a Python kernel of ours runs, in its own process
``sockets``           the ZeroMQ sockets of one kernel
``launcher``          from a request for a kernel to a running one
====================  ========================================================
"""
