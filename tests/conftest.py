"""What holds for all tests."""

import os

# Daemons that tests start start no kernels ahead of time unless the test is about that: two cores have enough to do.
os.environ["RUNTIMED_FFI_KERNEL_POOL_SIZE"] = "0"
