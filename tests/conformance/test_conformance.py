"""The conformance suite: our daemon keeps every rule, and a daemon that breaks one is found."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Callable

import pytest
from interop.reference_daemon import reference

import runtimed_ffi
from conformance.fault_proxy import FAULTS, FaultProxy
from runtimed_ffi.testing.conformance import RULES, Report, check

pytestmark = pytest.mark.timeout(600)

BY_KERNEL = sorted(name for name, rule in RULES.items() if rule.kernel)


@pytest.fixture(scope="module")
def socket() -> Iterator[str]:
    with runtimed_ffi.Daemon() as daemon:
        yield daemon.socket_path


def test_our_daemon_keeps_every_rule_that_needs_no_kernel(socket: str) -> None:
    report = check(socket, timeout=60, kernel=False)
    assert [(one.rule.name, one.outcome, one.reason) for one in report.findings if one.outcome != "kept"] == []
    assert len(report.findings) == len(RULES) - len(BY_KERNEL)


@pytest.mark.kernel
@pytest.mark.parametrize("name", BY_KERNEL)
def test_our_daemon_keeps_every_rule_of_kernels(socket: str, name: str) -> None:
    (finding,) = check(socket, timeout=90, rules=[name]).findings
    assert (finding.outcome, finding.reason) == ("kept", "")


@pytest.fixture(scope="module")
def reports(socket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Report]]:
    """What the suite finds at a proxy with a fault.

    The first call checks all proxies, four at a time: most of the time is waiting for messages that do not come.
    """
    directory = tmp_path_factory.mktemp("f")
    futures: dict[str, Future[Report]] = {}

    def look(fault: str) -> Report:
        proxied, rules = FAULTS[fault]
        with FaultProxy(directory / f"{list(FAULTS).index(fault)}", socket, proxied) as proxy:
            return check(proxy.path, timeout=2.5, rules=list(rules))

    with ThreadPoolExecutor(4) as pool:

        def report(fault: str) -> Report:
            if not futures:
                futures.update((name, pool.submit(look, name)) for name in FAULTS)
            return futures[fault].result()

        yield report


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(reports: Callable[[str], Report], fault: str) -> None:
    report = reports(fault)
    assert {one.rule.name for one in report.broken()} == set(FAULTS[fault][1])
    assert all(one.reason for one in report.broken())


def test_most_rules_are_seen_to_fail() -> None:
    """A rule that no fault breaks could be one that cannot fail; these remain: broken elsewhere, or too costly."""
    seen = {name for _, rules in FAULTS.values() for name in rules}
    left = {name for name, rule in RULES.items() if not rule.kernel} - seen
    assert left == {
        *(
            "any-pieces",
            "torn-frame",
            "unknown-members",
            "unknown-members-of-pool-requests",
            "first-synchronisation",
            "barrier",
        ),
        *("bad-blob-requests", "blob-over-http", "blob-not-found", "settings-speak-first"),  # the emulated reference
        *("blobs-route", "save-notebook", "slow-reader"),
    }


def test_the_emulated_reference_breaks_what_is_known_of_it(tmp_path: Path) -> None:
    """It has no settings and no files, and serves blobs without their headers; what the reference does differently
    is among the rules for new daemons."""
    with reference(tmp_path / "d") as daemon:
        report = check(daemon.path, timeout=5, kernel=False)
        broken = {one.rule.name for one in report.broken()}
        assert broken >= {"settings-speak-first", "save-notebook", "pool-state", "blob-over-http", "blob-not-found"}
        assert not broken & {
            "version-2",
            "fan-out",
            "concurrent-edits",
            "responses-in-order",
            "late-joiner",
            "unknown-cell",
        }
        assert "blobs-route" in {one.rule.name for one in report.broken(strict=True)}


def test_the_emulated_reference_ends_failing_cells_twice(tmp_path: Path) -> None:
    with reference(tmp_path / "d") as daemon:
        report = check(daemon.path, timeout=20, rules=["one-end", "count-in-the-document", "failing-cell"])
    outcomes = {one.rule.name: one.outcome for one in report.findings}
    assert outcomes == {"one-end": "broken", "count-in-the-document": "broken", "failing-cell": "kept"}
    assert report.broken() == [] and len(report.broken(strict=True)) == 2


def test_without_a_kernel_the_rules_of_kernels_are_skipped(socket: str) -> None:
    (finding,) = check(socket, rules=["launch"], kernel_type="no-such-type").findings
    assert finding.outcome == "skipped" and "no kernel" in finding.reason


# -- the command


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "runtimed_ffi.testing.conformance", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=120)


def test_the_command_says_what_is_kept(socket: str) -> None:
    done = command("--socket", socket, "2.2", "any-pieces")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("kept    2.1") and lines[-1] == "5 kept"


def test_the_command_says_what_is_broken_as_json(socket: str, tmp_path: Path) -> None:
    with FaultProxy(tmp_path / "s", socket, FAULTS["no pong"][0]) as relay:
        done = command("--socket", relay.path, "--json", "--timeout", "5", "pool-in-order", "status")
    assert done.returncode == 1, done.stderr
    printed = json.loads(done.stdout)
    assert printed["protocol"] == 2 and printed["counts"] == {"broken": 1, "kept": 1}
    (rule,) = [one for one in printed["rules"] if one["outcome"] == "broken"]
    assert (rule["name"], rule["section"], rule["must"], rule["kernel"]) == ("pool-in-order", "4", True, False)
    assert "ok" in rule["reason"]


def test_the_command_refuses_what_it_cannot_do(socket: str, tmp_path: Path) -> None:
    absent = command("--socket", str(tmp_path / "absent"))
    assert absent.returncode == 2 and "No such file" in absent.stderr and absent.stdout == ""
    unknown = command("--socket", socket, "no-such-rule")
    assert unknown.returncode == 2 and "no-such-rule" in unknown.stderr
    assert command().returncode == 2
    listed = command("--list")
    assert listed.returncode == 0 and len(listed.stdout.splitlines()) == len(RULES) >= 60
