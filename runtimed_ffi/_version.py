"""The package's version, the one place in Python where it is written; the library carries the same text.

Storey 5 (ground).
"""

__version__ = "0.1.0"
