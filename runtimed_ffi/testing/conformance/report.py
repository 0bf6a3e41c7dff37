"""Judges a daemon by the rules and says what came of it.

Storey: testing.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from runtimed_ffi.errors import RuntimedError
from runtimed_ffi.testing.conformance import execution, framing, notebooks, services  # noqa: F401  (they register rules)
from runtimed_ffi.testing.conformance.rules import Rule, Skipped, World, selected
from runtimed_ffi.testing.wire import Json, Violation

KEPT, BROKEN, SKIPPED = "kept", "broken", "skipped"


@dataclass(frozen=True)
class Finding:
    """What came of one rule."""

    rule: Rule
    outcome: str
    """``kept``, ``broken`` or ``skipped``."""
    reason: str = ""
    """What is wrong, or why the rule could not be judged."""
    seconds: float = 0.0


@dataclass
class Report:
    """What came of all of them."""

    findings: list[Finding] = field(default_factory=list)

    def broken(self, strict: bool = False) -> list[Finding]:
        """Rules that are broken and that clients rely on; with `strict`, also those for new daemons only."""
        return [one for one in self.findings if one.outcome == BROKEN and (one.rule.must or strict)]

    def counts(self) -> Counter[str]:
        """How many of each outcome."""
        return Counter(one.outcome for one in self.findings)

    def json(self) -> Json:
        """Everything as a JSON object: ``rules`` with name, section, title, must, kernel, outcome, reason, seconds."""
        rules = [
            {
                "name": one.rule.name,
                "section": one.rule.section,
                "title": one.rule.title,
                "must": one.rule.must,
                "kernel": one.rule.kernel,
                "outcome": one.outcome,
                "reason": one.reason,
                "seconds": round(one.seconds, 3),
            }
            for one in self.findings
        ]
        return {"protocol": 2, "rules": rules, "counts": dict(self.counts())}

    def text(self, one: Finding) -> str:
        """A finding in one line."""
        mark = {KEPT: "kept   ", BROKEN: "BROKEN ", SKIPPED: "skipped"}[one.outcome]
        weight = "" if one.rule.must else " (for new daemons)"
        reason = f"\n                {one.reason}" if one.reason else ""
        return f"{mark} {one.rule.section:<7} {one.rule.title}{weight} [{one.rule.name}]{reason}"


def check(
    socket_path: str,
    *,
    timeout: float = 30.0,
    rules: list[str] | None = None,
    kernel: bool = True,
    kernel_type: str = "python",
    env_source: str = "uv:prewarmed",
) -> Report:
    """Judge a daemon.

    Args:
        socket_path: where it listens.
        timeout: seconds that one rule may take; a daemon that does not answer by then breaks it.
        rules: names or sections; all if `None`.
        kernel: whether to judge the rules that need a kernel.
        kernel_type: the type of kernel to ask for; its language must be Python.
        env_source: the environment to ask for.

    Raises:
        OSError: no daemon accepts at the socket.
        ValueError: a name in `rules` is none.
    """
    report = Report()
    report.findings.extend(judge_all(socket_path, timeout, rules, kernel, kernel_type, env_source))
    return report


def judge_all(
    socket_path: str, timeout: float, rules: list[str] | None, kernel: bool, kernel_type: str, env_source: str
) -> Iterator[Finding]:
    """As `check`, each finding as soon as it is there."""
    for word in rules or []:
        if not any(selected([word], True)):
            raise ValueError(f"no such rule or section: {word}")
    first = World(socket_path, timeout, kernel_type, env_source)
    try:
        first.link()
    finally:
        first.close()
    for each in selected(rules, kernel):
        yield judge(each, World(socket_path, timeout, kernel_type, env_source))


def judge(each: Rule, world: World) -> Finding:
    """One rule. What its clearing up finds counts as well."""
    start = time.monotonic()
    outcome, reason = KEPT, ""
    try:
        try:
            each.judge(world)
        finally:
            world.close()
    except Skipped as skipped:
        outcome, reason = SKIPPED, str(skipped)
    except Violation as violation:
        outcome, reason = BROKEN, str(violation)
    except (OSError, EOFError, RuntimedError, ValueError, KeyError, TypeError) as problem:
        # What came could not even be read: a message without its members, a sync message that is none, a hang-up.
        outcome, reason = BROKEN, f"{type(problem).__name__}: {problem}"
    return Finding(each, outcome, reason, time.monotonic() - start)


def dumps(report: Report) -> str:
    """The report as indented JSON."""
    return json.dumps(report.json(), ensure_ascii=False, indent=2)
