"""The command: ``python -m runtimed_ffi.testing.conformance --socket PATH``.

Storey: testing. Exit status: 0 when every rule that clients rely on is kept, 1 when one is broken (with ``--strict``
also one for new daemons), 2 when the command is wrong or no daemon listens at the socket.
"""

from __future__ import annotations

import argparse
import sys

from runtimed_ffi.testing.conformance.report import Report, dumps, judge_all
from runtimed_ffi.testing.conformance.rules import in_order


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m runtimed_ffi.testing.conformance",
        description="Say rule by rule of protocol 2 what a daemon keeps.",
    )
    parser.add_argument("--socket", metavar="PATH", help="where the daemon listens")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="S", help="seconds for one rule (default: 30)")
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of lines")
    parser.add_argument("--strict", action="store_true", help="rules for new daemons count as well")
    parser.add_argument("--no-kernel", action="store_true", help="leave out the rules that start a kernel")
    parser.add_argument("--kernel-type", default="python", help="kernel to launch; must run Python (default: python)")
    parser.add_argument("--env-source", default="uv:prewarmed", help="its environment (default: uv:prewarmed)")
    parser.add_argument("--list", action="store_true", help="print the rules and check nothing")
    parser.add_argument("rules", nargs="*", metavar="RULE", help="names or sections of rules (default: all)")
    options = parser.parse_args(arguments)
    if options.list:
        for each in in_order():
            needs = " (kernel)" if each.kernel else ""
            print(f"{each.section:<7} {each.name:<34} {each.title}{needs}")
        return 0
    if options.socket is None:
        parser.error("--socket is needed")
    report = Report()
    try:
        for finding in judge_all(
            options.socket,
            options.timeout,
            options.rules,
            not options.no_kernel,
            options.kernel_type,
            options.env_source,
        ):
            report.findings.append(finding)
            if not options.json:
                print(report.text(finding), flush=True)
    except (OSError, ValueError) as problem:
        print(f"{options.socket}: {problem}", file=sys.stderr)
        return 2
    if options.json:
        print(dumps(report))
    else:
        print(", ".join(f"{count} {outcome}" for outcome, count in sorted(report.counts().items())))
    return 1 if report.broken(options.strict) else 0


if __name__ == "__main__":
    sys.exit(main())
