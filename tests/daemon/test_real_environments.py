"""Environments made by the real programs: uv, without and with a package index, and Deno."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("runtimed_ffi._binding.ffi", reason="the C library is not built")

import runtimed_ffi
from daemon.fakes import eventually
from daemon.test_launcher import Scene
from daemon.test_tools import gone
from runtimed_ffi.daemon.environments import deno, uv
from runtimed_ffi.daemon.environments.diagnosis import BuildError
from runtimed_ffi.daemon.environments.tools import ToolMissing
from runtimed_ffi.daemon.ports import LaunchError

pytestmark = pytest.mark.slow


@pytest.fixture
def real_uv() -> str:
    try:
        return uv.find()
    except ToolMissing as error:
        pytest.skip(str(error))


def wheel(directory: Path, name: str, version: str, files: dict[str, str], requires: str = "") -> None:
    """A package, by hand."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"
    files = {
        **files,
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    directory.mkdir(exist_ok=True)
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of packages in place of an index, as a user without a network would have."""
    directory = tmp_path / "wheels"
    wheel(directory, "ipykernel", "6.99.0", {"ipykernel/__init__.py": "", "ipykernel/kernelapp.py": ""})
    wheel(directory, "ipywidgets", "8.0.0", {"ipywidgets/__init__.py": ""})
    wheel(directory, "tiny", "1.5", {"tiny.py": "answer = 42\n"})
    if sys.implementation.name == "pypy":
        wheel(directory, "psutil", "7.0.0", {"psutil.py": ""})
    for name, value in (("UV_FIND_LINKS", directory), ("UV_OFFLINE", 1), ("UV_CACHE_DIR", tmp_path / "cache")):
        monkeypatch.setenv(name, str(value))
    return directory


def test_uv_without_an_index(real_uv: str, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        scene = Scene(tmp_path, monkeypatch, uv=1)
        await scene.pools.start()
        pooled = await scene.launch()
        assert pooled.argv[0] != sys.executable, scene.listener.texts
        done = subprocess.run([pooled.argv[0], "-c", "import ipywidgets, sys; print(sys.version_info[:2])"], stdout=-1)
        assert done.stdout.decode().strip() == str(tuple(sys.version_info[:2]))
        inline = await scene.launch("uv:inline", {"uv": {"dependencies": ["tiny>=1"]}})
        done = subprocess.run([inline.argv[0], "-c", "import tiny; print(tiny.answer)"], stdout=-1)
        assert done.stdout == b"42\n"
        with pytest.raises(LaunchError, match=r"(?s)the package index cannot be reached.*nosuch"):
            await scene.launch("uv:inline", {"uv": {"dependencies": ["nosuch"]}})
        with pytest.raises(LaunchError, match=r"(?s)Failed to prepare inline environment: .*tiny"):
            await scene.launch("uv:inline", {"uv": {"dependencies": ["tiny>=2"]}})
        for plan in scene.plans:
            assert plan.on_end is not None
            plan.on_end()
        path = pooled.env["VIRTUAL_ENV"]
        await eventually(lambda: not os.path.exists(path + ".json"))
        await scene.pools.close(30)

    asyncio.run(body())


def test_uv_project_without_an_index(
    real_uv: str, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    project = '[project]\nname = "p"\nversion = "1"\nrequires-python = ">=3.9"\ndependencies = ["tiny"]\n'
    (folder / "pyproject.toml").write_text(project)

    async def body() -> None:
        scene = Scene(tmp_path, monkeypatch)
        monkeypatch.setenv("UV_PYTHON", sys.executable)
        plan = await scene.launch("auto", {}, str(folder / "n.ipynb"))
        assert plan.env_source == "uv:pyproject"
        program = [*plan.argv[: plan.argv.index("python") + 1], "-c", "import tiny, ipykernel; print(tiny.answer)"]
        assert subprocess.run(program, cwd=plan.cwd, stdout=-1).stdout == b"42\n"

    asyncio.run(body())


@pytest.mark.kernel
def test_a_whole_daemon_with_a_pool_and_dependencies(real_uv: str, tmp_path: Path) -> None:
    async def reachable() -> None:
        await uv.make(str(tmp_path / "probe"), ["six"], defaults=uv.IMPATIENT)

    try:
        asyncio.run(reachable())
    except BuildError as error:
        pytest.skip(f"no package index: {str(error).splitlines()[0]}")
    notebook = tmp_path / "n.ipynb"
    runt = {"schema_version": "1", "uv": {"dependencies": ["six"]}}
    notebook.write_text(json.dumps({"cells": [], "nbformat": 4, "nbformat_minor": 5, "metadata": {"runt": runt}}))
    with runtimed_ffi.Daemon(tmp_path / "d", arguments=["--uv-pool-size", "1"]) as daemon:
        environments = os.path.join(daemon.directory, "envs")
        # On a busy machine the build takes longer than a launch waits for it.
        asyncio.run(eventually(lambda: daemon.client().status()["uv_available"] == 1, 300.0))
        with daemon.session() as session:
            session.start_kernel()
            where = session.run("import sys, ipywidgets; print(sys.prefix)").stdout.strip()
            assert os.path.dirname(where) == environments, Path(daemon.log_path).read_text()
        with daemon.session(str(notebook)) as session:
            session.start_kernel(env_source="auto")
            assert session.env_source == "uv:inline"
            assert "inline-envs" in session.run("import six; print(six.__file__)").stdout


@pytest.mark.kernel
def test_a_deno_kernel_runs_a_cell(tmp_path: Path) -> None:
    if deno.find() is None:
        pytest.skip("deno is not installed (extra `deno`)")
    with runtimed_ffi.Daemon(tmp_path / "d") as daemon, daemon.session("nb") as session:
        session.start_kernel("deno", "auto")
        assert session.env_source == "deno"
        assert session.run('const x: number = 1; console.log("hi", x + 1)').stdout == "hi 2\n"
        assert not session.run('throw new Error("no")').success


@pytest.mark.kernel
def test_an_installed_kernelspec_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tmp_path / "jupyter" / "kernels" / "mine"
    spec.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    facts = {"argv": argv, "display_name": "Mine", "language": "python", "env": {"MINE": "yes"}}
    (spec / "kernel.json").write_text(json.dumps(facts))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    with runtimed_ffi.Daemon(tmp_path / "d") as daemon, daemon.session() as session:
        with pytest.raises(runtimed_ffi.RuntimedError, match=r"Unsupported kernel type: julia\..*, mine"):
            session.start_kernel("julia", "auto")
        session.start_kernel("mine", "auto")
        assert session.env_source == "kernelspec:mine"
        assert session.run("import os; print(os.environ['MINE'])").stdout == "yes\n"


@pytest.mark.kernel
def test_a_project_kernel_is_interrupted_and_ends(real_uv: str, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pyproject.toml").write_text('[project]\nname = "p"\nversion = "1"\nrequires-python = ">=3.9"\n')
    notebook = folder / "n.ipynb"
    notebook.write_text(json.dumps({"cells": [], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}))
    with runtimed_ffi.Daemon(tmp_path / "d") as daemon, daemon.session(str(notebook)) as session:
        try:
            session.start_kernel(env_source="auto")
        except runtimed_ffi.RuntimedError as error:
            if "package index" not in str(error):
                raise
            pytest.skip(f"no package index: {str(error).splitlines()[0]}")
        assert session.env_source == "uv:pyproject"
        pid = int(session.run("import os; print(os.getpid())").stdout)
        cell = session.create_cell("import time\nprint('go', flush=True)\ntime.sleep(600)")
        result = session.execute_cell(cell, timeout_secs=60, on_output=lambda output: session.interrupt())
        assert result.error is not None and "KeyboardInterrupt" in str(result.error), result
        session.shutdown_kernel()
    assert gone(pid)
