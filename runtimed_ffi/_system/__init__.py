"""The operating system as client, commands and daemon need it: locks, permissions, processes.

Storey 5 (ground); imports the standard library and `places`.
"""
