"""The command line of ``runtimed``: commands, their options, their help, wrong values, exit statuses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from runtimed_ffi._version import __version__
from runtimed_ffi.cli.main import main
from runtimed_ffi.cli.parser import COMMANDS, daemon_options, parse, paths_of, run_options

PLACES = {"--socket", "--base-dir", "--dev"}
RUNS = {
    *("--blob-store-dir", "--cache-dir", "--settings-dir", "--uv-pool-size", "--conda-pool-size", "--log-level"),
    *("--kernel-pool-size", "--log-format", "--idle-timeout", "--eviction-delay", "--max-peers", "--blob-urls"),
}
OPTIONS = {
    "run": PLACES | RUNS | {"--ready-fd", "--exit-with-stdin"},
    "start": PLACES | RUNS,
    "stop": PLACES | {"--force", "--timeout"},
    "restart": PLACES | RUNS | {"--force", "--timeout"},
    "status": PLACES | {"--json"},
    "logs": PLACES | {"--lines", "--follow"},
    "unit": PLACES | RUNS,
    "trust": {"--dev"},
}
VALUES = {
    **dict.fromkeys(("--socket", "--base-dir", "--blob-store-dir", "--cache-dir", "--settings-dir"), "x"),
    **dict.fromkeys(("--uv-pool-size", "--conda-pool-size", "--kernel-pool-size", "--max-peers", "--ready-fd"), "1"),
    **dict.fromkeys(("--idle-timeout", "--eviction-delay", "--timeout", "--lines"), "2"),
    "--log-level": "warn",
    "--log-format": "json",
    "--blob-urls": "secret",
}
SUBJECTS = {"unit": ["systemd"], "trust": ["n.ipynb"]}


def words(command: str, option: str) -> list[str]:
    value = [VALUES[option]] if option in VALUES else []
    return [command, *SUBJECTS.get(command, []), option, *value]


def refused(line: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of the message with which a command line is refused."""
    with pytest.raises(SystemExit) as end:
        parse(line)
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_the_options_of_the_command_and_no_others(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse([command, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    named = set(re.findall(r"^  (?:-\w[^-]*, )?(--[\w-]+)", text, re.MULTILINE))
    assert named - {"--help"} == OPTIONS[command]
    assert COMMANDS[command].split("(")[0].strip()[1:] in " ".join(text.split()) and "exit status:" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_each_option_is_taken_where_it_acts_and_refused_elsewhere(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in sorted(set().union(*OPTIONS.values())):
        line = words(command, option)
        if option in OPTIONS[command] or option == "--log-level":
            assert parse(line).command == command
        else:
            assert option in refused(line, capsys)


def test_help_and_version_of_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    for line in (["--help"], ["--version"], ["--dev", "--version"]):
        with pytest.raises(SystemExit) as end:
            parse(line)
        assert end.value.code == 0
        text = capsys.readouterr().out
        assert all(name in text for name in COMMANDS) or text == f"runtimed-ffi {__version__}\n"


@pytest.mark.parametrize(
    "option, value, says",
    [
        ("--uv-pool-size", "-1", "must be a whole number, 0 or more, not '-1'"),
        ("--conda-pool-size", "many", "must be a whole number, 0 or more, not 'many'"),
        ("--kernel-pool-size", "1.5", "must be a whole number, 0 or more, not '1.5'"),
        ("--max-peers", "0", "must be a whole number, 1 or more, not '0'"),
        ("--idle-timeout", "-1", "must be a number of seconds, 0 or more, not '-1'"),
        ("--idle-timeout", "nan", "must be a number of seconds, 0 or more, not 'nan'"),
        ("--eviction-delay", "inf", "must be a number of seconds, 0 or more, not 'inf'"),
        ("--eviction-delay", "soon", "must be a number of seconds, 0 or more, not 'soon'"),
        ("--log-level", "loud", "'loud'"),
        ("--log-format", "xml", "'xml'"),
        ("--blob-urls", "none", "'none'"),
        ("--ready-fd", "-3", "must be a whole number, 0 or more, not '-3'"),
    ],
)
def test_wrong_values_are_refused_with_a_sentence(
    option: str, value: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(["run", f"{option}={value}"], capsys)
    assert option in message and says in message


@pytest.mark.parametrize(
    "line",
    [
        *(["unit"], ["unit", "upstart"], ["trust"], ["start", "systemd"], ["nothing"], ["trust", "a", "b"]),
        *(["stop", "--timeout", "-1"], ["logs", "-n", "-1"], ["run", "--sock", "x"], ["status", "--max-peers", "7"]),
    ],
)
def test_wrong_usage(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "error: " in refused(line, capsys)


def test_options_before_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = parse(["--log-level", "WARN", "--dev", "status"])
    assert (arguments.command, arguments.log_level, arguments.dev) == ("status", "warn", True)
    arguments = parse(["--log-level=warn", "status", "--dev", "--log-level", "info"])
    assert (arguments.command, arguments.log_level, arguments.dev) == ("status", "info", True)
    message = refused(["--socket", "s", "status"], capsys)
    assert message.endswith("--socket must stand behind the command: runtimed status --socket ...")


def test_reference_command_line() -> None:
    line = ["run", "--socket", "/s", "--cache-dir", "/c", "--blob-store-dir", "/b"]
    arguments = parse([*line, "--uv-pool-size", "1", "--conda-pool-size", "0"])
    assert (arguments.command, arguments.socket, arguments.uv_pool_size) == ("run", "/s", 1)
    assert parse([]).command == "run"
    assert parse(["--dev", "--log-level", "debug"]).command == "run"
    assert parse(["--dev", "--socket", "/s"]).socket == "/s"


def test_lasting_options_are_those_of_the_next_start() -> None:
    line = ["restart", "--socket", "s", "--force", "--timeout", "1", "--max-peers", "7", "--dev"]
    options = run_options(parse(line))
    assert options == ["--socket", os.path.abspath("s"), "--dev", "--max-peers", "7"]
    assert run_options(parse(["run", *options, "--ready-fd", "3", "--exit-with-stdin"])) == options
    assert run_options(parse(["run", *options, "--max-peers", "8"])) == [*options[:-1], "8"], "the last one wins"
    everything = [word for option in sorted(OPTIONS["start"]) for word in words("start", option)[1:]]
    lasting = run_options(parse(["start", *everything]))
    assert {word for word in lasting if word.startswith("--")} == OPTIONS["start"]
    assert run_options(parse(["run", *lasting])) == lasting


def test_options_of_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNTIMED_FFI_KERNEL_POOL_SIZE", raising=False)

    def options(*line: str):
        arguments = parse(["run", *line])
        return daemon_options(paths_of(arguments), arguments)

    plain = options("--base-dir", str(tmp_path))
    assert (plain.idle_timeout, plain.kernel_pool_size, plain.plain_blob_urls) == (4 * 3600.0, 1, True)
    named = options("--socket", str(tmp_path / "s"), "--exit-with-stdin", "--blob-urls", "secret")
    assert (named.idle_timeout, named.kernel_pool_size, named.plain_blob_urls) == (None, 0, False)
    assert options("--idle-timeout", "0").idle_timeout is None
    assert options("--idle-timeout", "5", "--socket", "s").idle_timeout == 5.0
    monkeypatch.setenv("RUNTIMED_FFI_KERNEL_POOL_SIZE", "-2")
    assert options().kernel_pool_size == 0


def test_status_and_stop_without_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--base-dir", str(tmp_path)]) == 3
    assert main(["stop", "--base-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"not running\nsocket: {tmp_path}/runtimed.sock\nnot running\n"
    assert main(["logs", "--base-dir", str(tmp_path)]) == 1
    assert main(["trust", str(tmp_path / "none.ipynb")]) == 1
    assert os.listdir(tmp_path) == []


def test_both_programs_and_their_names(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "runtimed_ffi", "daemon", "unit", "upstart"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("usage: runtimed-ffi daemon unit ")
    program = "import sys; from runtimed_ffi.__main__ import daemon_main; sys.exit(daemon_main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, "status", "--base-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 3 and done.stdout.startswith("not running\n")
