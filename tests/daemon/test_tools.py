"""External programs: deadlines, process groups, their last output and the diagnosis of it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from daemon.fakes import eventually
from runtimed_ffi.daemon.environments import conda, deno, uv
from runtimed_ffi.daemon.environments.diagnosis import explain
from runtimed_ffi.daemon.environments.plans import Choice
from runtimed_ffi.daemon.environments.tools import ToolError, ToolMissing, run


def sh(text: str) -> list[str]:
    return ["/bin/sh", "-c", text]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # A zombie, a child we have not waited for yet, is dead as well.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


def test_output_and_failure() -> None:
    async def body() -> None:
        assert await run(sh("echo out; echo err >&2"), 30) == "out\nerr"
        with pytest.raises(ToolError) as caught:
            await run(sh("echo words; exit 3"), 30)
        assert (caught.value.program, caught.value.reason, caught.value.output) == ("sh", "exit code 3", "words")
        with pytest.raises(ToolError, match="No such file"):
            await run(["/nonexistent/program"], 30)
        long = await run(sh("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done"), 30)
        assert long.endswith("line 2999")
        assert len(long) <= 4096

    asyncio.run(body())


def test_the_deadline_ends_the_whole_group(tmp_path: Path) -> None:
    async def body() -> None:
        # Long enough for a shell on a busy machine to print something.
        with pytest.raises(ToolError, match="not finished after 3 s") as caught:
            await run(sh("echo before; sleep 100 & echo $! > pid; wait"), 3, cwd=str(tmp_path))
        assert caught.value.output == "before"
        await eventually(lambda: gone(int((tmp_path / "pid").read_text())))

    asyncio.run(body())


def test_cancellation_ends_it(tmp_path: Path) -> None:
    async def body() -> None:
        task = asyncio.ensure_future(
            run(sh("sleep 100 & echo $! > pid.tmp; mv pid.tmp pid; wait"), 60, cwd=str(tmp_path))
        )
        await eventually((tmp_path / "pid").exists)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: gone(int((tmp_path / "pid").read_text())))

    asyncio.run(body())


def test_children_it_leaves_behind_are_ended(tmp_path: Path) -> None:
    async def body() -> None:
        await run(sh("sleep 100 & echo $! > pid"), 30, cwd=str(tmp_path))
        await eventually(lambda: gone(int((tmp_path / "pid").read_text())))

    asyncio.run(body())


def test_priority(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    gate = os.open(tmp_path / "gate", os.O_RDWR)

    async def body() -> str:
        loop = asyncio.get_running_loop()
        says = sh("read line < gate; nice; cat /proc/self/autogroup 2>/dev/null || :")
        work = loop.create_task(run(says, 30, cwd=str(tmp_path), background=True))
        # Behind the first step of the task, which starts the shell and lowers its priority.
        loop.call_soon(os.write, gate, b"go\n")
        return await work

    try:
        niceness, _, of_session = asyncio.run(body()).partition("\n")
    finally:
        os.close(gate)
    assert niceness == "10"
    if os.access("/proc/self/autogroup", os.W_OK):
        assert of_session.endswith("nice 10")


@pytest.mark.parametrize(
    ("output", "advice", "package"),
    [
        ("error: failed to write: No space left on device (os error 28)", "no space left: free some", None),
        ("OSError: [Errno 122] Disk quota exceeded", "no space left: free some", None),
        (
            "  cause: Failed to fetch: http://x/simple/pandas/\n  cause: tcp connect error",
            "cannot be reached",
            None,
        ),
        ("failed to lookup address information: Temporary failure in name resolution", "cannot be reached", None),
        ("CondaHTTPError: HTTP 000 CONNECTION FAILED for url", "cannot be reached", None),
        ("cause: Because nosuch was not found in the package registry and you require", "no package nosuch", "nosuch"),
        ("Because there is no version of ipykernel==99 and you require", "no package ipykernel", "ipykernel"),
        ("nothing provides requested nosuch-1 *", "no package nosuch-1", "nosuch-1"),
        ("PackagesNotFoundError: not available:\n\n  - nosuch\n", "no package nosuch", "nosuch"),
        ("Failed to build `broken==1.0`", "uv failed", "broken"),
        ("Failed to fetch: http://x/simple/pandas/\n  cause: HTTP status 403", "uv failed", "pandas"),
        ("something else", "uv failed", None),
    ],
)
def test_diagnosis(output: str, advice: str, package: str | None) -> None:
    error = explain(ToolError("uv", "exit code 1", output), "/envs/x")
    assert advice in str(error).splitlines()[0]
    assert output in str(error)
    assert error.failed_package == package


def test_a_program_that_was_too_slow() -> None:
    assert "too slow" in str(explain(ToolError("uv", "not finished after 60 s", ""), "/envs/x"))


def test_users_settings_for_uv_hold() -> None:
    variables = uv.environment({"UV_LINK_MODE": "copy", "UV_OFFLINE": "1", "VIRTUAL_ENV": "/v", "HOME": "/h"})
    assert (variables["UV_LINK_MODE"], variables["UV_OFFLINE"], variables["HOME"]) == ("copy", "1", "/h")
    assert variables["UV_PYTHON_DOWNLOADS"] == "never"
    assert "VIRTUAL_ENV" not in variables


def test_the_requirement_is_that_of_this_package() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    for requirement in uv.KERNEL_REQUIREMENTS:
        assert f'"{requirement}"' in text


def program(directory: Path, name: str, script: str = "exit 0") -> str:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_missing_programs_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in (*conda.VARIABLES, "UV"):
        monkeypatch.delenv(name, raising=False)
    for module in ("uv", "deno"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(deno, "kernelspecs", list)
    with pytest.raises(ToolMissing, match="pip install uv"):
        uv.find()
    with pytest.raises(ToolMissing, match="micromamba, mamba, conda or pixi"):
        conda.find()
    choice = Choice("deno", "deno", str(tmp_path), "deno")
    with pytest.raises(ToolMissing, match=r"runtimed-ffi\[deno\]"):
        deno.plan(choice)
    for name in ("pixi", "conda", "micromamba", "uv", "deno"):
        program(tmp_path, name)
    assert uv.find() == str(tmp_path / "uv")
    assert conda.find() == ("micromamba", str(tmp_path / "micromamba"))
    assert deno.plan(choice).argv[0] == str(tmp_path / "deno")
    assert deno.plan(choice).transport == "tcp"
    monkeypatch.setenv("CONDA_EXE", str(tmp_path / "conda"))
    assert conda.find().kind == "conda"
    monkeypatch.setenv("UV", str(tmp_path / "none"))
    with pytest.raises(ToolMissing, match="no program"):
        uv.find()


def test_conda_commands() -> None:
    def lines(kind: str) -> Any:
        return conda.create_commands(conda.Tool(kind, f"/b/{kind}"), "/e/x", ["python>=3.9", "scipy"], ["a", "b"])

    assert lines("micromamba") == [
        [
            "/b/micromamba",
            "create",
            "-y",
            "-p",
            "/e/x",
            "--override-channels",
            "-c",
            "a",
            "-c",
            "b",
            "python>=3.9",
            "scipy",
        ]
    ]
    assert lines("pixi") == [
        ["/b/pixi", "init", "/e/x", "-c", "a", "-c", "b"],
        ["/b/pixi", "add", "--manifest-path", "/e/x/pixi.toml", "python>=3.9", "scipy"],
    ]
    assert conda.Tool("pixi", "p").python_of("/e/x") == "/e/x/.pixi/envs/default/bin/python"
