"""Storey 5 (binding): the only modules that touch the C library, and small wrappers of the operating system."""
