"""How long the stateful tests look: the profile of Hypothesis that `RTD_PROFILE` names."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_BASE = settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)

# In ci every run makes the same examples: what fails there fails here as well. The others look for new ones each time
# and say how to repeat what they found (--hypothesis-seed, or the blob that is printed).
PROFILES = {
    "ci": settings(_BASE, derandomize=True, database=None, max_examples=80, stateful_step_count=30),
    "dev": settings(_BASE, max_examples=10, stateful_step_count=25),
    "deep": settings(_BASE, max_examples=2000, stateful_step_count=60),
}


def profile() -> settings:
    """The settings for a stateful test."""
    return PROFILES[os.environ.get("RTD_PROFILE", "ci")]
