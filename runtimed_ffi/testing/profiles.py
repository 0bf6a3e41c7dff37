"""How long property tests run: the profile that the environment variable `RTD_PROFILE` names.

Storey: testing.

========= ==========================================================================================================
``ci``    the default: every run makes the same examples, so what fails there fails everywhere
``dev``   few examples, new ones each time
``deep``  many, new ones each time
========= ==========================================================================================================

The last two say how to repeat what they found: ``--hypothesis-seed``, or the blob that is printed.
"""

from __future__ import annotations

import os
import platform

from runtimed_ffi.testing._hypothesis import hypothesis

PROFILE = os.environ.get("RTD_PROFILE", "ci")
"""The name of the profile."""

_BASE = hypothesis.settings(deadline=None, suppress_health_check=list(hypothesis.HealthCheck), print_blob=True)
_FIXED = hypothesis.settings(_BASE, derandomize=True, database=None)

# Within a test PyPy hardly compiles Hypothesis; it runs the first part of the same examples.
_CI = 25 if platform.python_implementation() == "PyPy" else 80

_STATELESS = {
    "ci": hypothesis.settings(_FIXED, max_examples=_CI),
    "dev": hypothesis.settings(_BASE, max_examples=25),
    "deep": hypothesis.settings(_BASE, max_examples=20_000),
}
_STATEFUL = {
    "ci": hypothesis.settings(_FIXED, max_examples=_CI, stateful_step_count=30),
    "dev": hypothesis.settings(_BASE, max_examples=10, stateful_step_count=25),
    "deep": hypothesis.settings(_BASE, max_examples=2000, stateful_step_count=60),
}


def profile() -> hypothesis.settings:
    """The settings for a state machine."""
    return _STATEFUL[PROFILE]


def examples(share: float = 1.0) -> hypothesis.settings:
    """The settings for a property.

    Args:
        share: how many examples, measured by those of a cheap property; below 1 for one that takes long.
    """
    chosen = _STATELESS[PROFILE]
    return hypothesis.settings(chosen, max_examples=max(1, round(chosen.max_examples * share)))
