"""Checks a daemon, ours or another, against protocol 2, rule by rule.

Storey: testing. From the command line::

    python -m runtimed_ffi.testing.conformance --socket /path/to/runtimed.sock

From a program::

    report = check("/path/to/runtimed.sock", timeout=10)
    for finding in report.findings:
        print(finding.rule.section, finding.outcome, finding.rule.title, finding.reason)

Each rule uses connections and rooms of its own, so that one that is broken spoils no other. Nothing is asked of the
daemon that would take something from its users: no environment is taken or deleted, and it is not shut down. Rooms are
named ``conformance-`` and a UUID; one notebook file is saved into a temporary directory.
"""

from runtimed_ffi.testing.conformance.report import Finding, Report, check
from runtimed_ffi.testing.conformance.rules import RULES, Rule, Skipped

__all__ = ["RULES", "Finding", "Report", "Rule", "Skipped", "check"]
