"""Hypothesis, or an error that says where to get it.

Storey: testing.
"""

from __future__ import annotations

try:
    import hypothesis
    from hypothesis import strategies
except ImportError as problem:
    raise ImportError(
        f"this part of runtimed_ffi.testing needs Hypothesis ({problem}); install it with: "
        "pip install 'runtimed-ffi[testing]'"
    ) from problem

__all__ = ["hypothesis", "strategies"]
