"""From a request to a kernel: which environment, what waits, what falls back, what is left.  Scripts play programs."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.fakes import ScriptedKernel, eventually
from runtimed_ffi.daemon.channels.settings import Values
from runtimed_ffi.daemon.environments import conda
from runtimed_ffi.daemon.environments.inline import InlineEnvironments
from runtimed_ffi.daemon.environments.plans import LaunchPlan, LaunchRequest
from runtimed_ffi.daemon.environments.pools import PoolSet
from runtimed_ffi.daemon.environments.recipes import CondaRecipe, UvRecipe
from runtimed_ffi.daemon.environments.removals import Removals
from runtimed_ffi.daemon.kernels import launcher
from runtimed_ffi.daemon.kernels.launcher import Launcher
from runtimed_ffi.daemon.ports import LaunchError, Launching

PYTHON = """
python() { mkdir -p "$1/bin"; printf '#!/bin/sh\\nexit 0\\n' > "$1/bin/python"; chmod +x "$1/bin/python"; }
"""

FAKE_UV = """
echo "$@" >> LOG
if [ "$1" = venv ]; then for last; do :; done; python "$last"; fi
"""

FAKE_CONDA = """
echo "$@" >> LOG
while [ $# -gt 0 ]; do
  if [ "$1" = -p ]; then python "$2"; fi
  shift
done
"""


class Listener:
    def __init__(self) -> None:
        self.progress: list[Launching] = []

    def on_progress(self, launching: Launching) -> None:
        self.progress.append(launching)

    def on_messages(self, kernel: Any, batch: Any) -> None: ...

    def on_death(self, kernel: Any, reason: str) -> None: ...

    @property
    def texts(self) -> list[str]:
        return [launching.text for launching in self.progress if launching.text]


class Scene:
    """A launcher whose kernels are plans."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, uv: int = 0, **settings: Any) -> None:
        self.directory = directory
        self.envs = directory / "envs"
        self.monkeypatch = monkeypatch
        self.settings = Values(**settings)
        self.plans: list[LaunchPlan] = []
        self.listener = Listener()
        self.failure: Exception | None = None
        recipes = {"uv": UvRecipe(self.settings), "conda": CondaRecipe(self.settings)}
        removals = Removals()
        self.pools = PoolSet(str(self.envs), {"uv": uv}, lambda state: None, recipes, removals)
        self.inline = InlineEnvironments(str(self.envs), removals)
        self.launcher = Launcher(self.start, self.pools, self.inline, self.settings, str(directory / "key"))

    async def start(self, plan: LaunchPlan, listener: Any) -> Any:
        self.plans.append(plan)
        if self.failure is not None:
            raise self.failure
        return ScriptedKernel(listener)

    async def launch(self, source: str = "uv:prewarmed", metadata: Any = None, path: str | None = None) -> LaunchPlan:
        await self.launcher(LaunchRequest("python", source, path, "nb", metadata), self.listener)
        return self.plans[-1]

    @property
    def left(self) -> list[str]:
        return sorted(
            os.path.join(folder, name) for folder, _, names in os.walk(self.envs) for name in names if name != "python"
        )


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for fake programs, alone on PATH with the system's."""
    for name in (*conda.VARIABLES, "UV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    directory = tmp_path / "programs"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}/usr/bin{os.pathsep}/bin")
    yield directory


def fake_uv(programs: Path, monkeypatch: pytest.MonkeyPatch, more: str = "") -> Path:
    return _script(programs / "uv", FAKE_UV, more, monkeypatch, "UV")


def _script(path: Path, text: str, more: str, monkeypatch: pytest.MonkeyPatch, variable: str) -> Path:
    log = path.with_suffix(".log")
    path.write_text("#!/bin/sh" + PYTHON + text.replace("LOG", str(log)) + more + "\n")
    path.chmod(0o755)
    monkeypatch.setenv(variable, str(path))
    return log


def test_without_a_pool_the_default_is_this_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        monkeypatch.setenv("UV", "/nonexistent")
        scene = Scene(tmp_path, monkeypatch)
        plan = await scene.launch()
        assert (plan.argv[0], plan.env_source) == (sys.executable, "uv:prewarmed")
        assert plan.argv[-2:] == ["-f", "{connection_file}"]
        assert scene.listener.texts == []

    asyncio.run(body())


def test_a_kernel_gets_its_environment_from_the_pool(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = fake_uv(programs, monkeypatch)

    async def body() -> None:
        scene = Scene(tmp_path, monkeypatch, uv=1, uv_packages=("pandas", "numpy>=2"))
        await scene.pools.start()
        plan = await scene.launch()
        path = plan.env["VIRTUAL_ENV"]
        assert plan.argv[0] == os.path.join(path, "bin", "python")
        assert plan.env["PATH"].startswith(os.path.join(path, "bin") + os.pathsep)
        assert os.path.dirname(path) == str(scene.envs)
        await eventually(lambda: scene.pools.stats()["uv_available"] == 1)
        assert Path(path).exists()
        assert plan.on_end is not None
        plan.on_end()
        await eventually(lambda: not os.path.exists(path + ".json"))
        assert not Path(path).exists(), "a used environment goes to no other kernel"
        await scene.pools.close(10)
        lines = log.read_text().splitlines()
        assert lines[0] == f"venv --no-project --python {sys.executable} {path}"
        assert lines[1].startswith(f"pip install --python {path}/bin/python -- ipykernel>=6.29,<8")
        assert lines[1].endswith(" ipywidgets pandas numpy>=2")

    asyncio.run(body())


def test_a_pool_that_fails_does_not_keep_a_plain_kernel_from_starting(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_uv(programs, monkeypatch, 'if [ "$1" = pip ]; then echo "No space left on device (os error 28)"; exit 2; fi')

    async def body() -> None:
        scene = Scene(tmp_path, monkeypatch, uv=1)
        await scene.pools.start()
        plan = await scene.launch()
        assert plan.argv[0] == sys.executable
        assert "no space left: free some space" in scene.listener.texts[-1]
        assert scene.listener.texts[-1].endswith("using the environment of the daemon")
        error = scene.pools.stats()["uv_error"]
        assert error["message"].startswith("no space left: free some space for " + str(scene.envs))
        assert scene.left == []
        plan = await scene.launch()
        assert plan.argv[0] == sys.executable, "at once: no launch waits for the next attempt"
        await scene.pools.close(10)

    asyncio.run(body())


def test_with_packages_in_the_settings_it_is_an_error(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_uv(programs, monkeypatch, 'if [ "$1" = pip ]; then echo "Because nosuch was not found in"; exit 1; fi')

    async def body() -> None:
        scene = Scene(tmp_path, monkeypatch, uv=1, uv_packages=("nosuch",))
        await scene.pools.start()
        text = "^UV pool empty - no environment available: there is no package nosuch"
        with pytest.raises(LaunchError, match=text):
            await scene.launch()
        assert scene.pools.stats()["uv_error"]["failed_package"] == "nosuch"
        await scene.pools.close(10)

    asyncio.run(body())


def test_a_slow_pool_is_not_waited_for_until_clients_give_up(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_uv(programs, monkeypatch, 'if [ "$1" = pip ]; then sleep 100; fi')
    monkeypatch.setattr(launcher, "DEFAULT_PATIENCE", 0.3)

    async def body() -> None:
        scene = Scene(tmp_path, monkeypatch, uv=1)
        await scene.pools.start()
        assert (await scene.launch()).argv[0] == sys.executable
        assert "still being built" in scene.listener.texts[-1]
        await scene.pools.close(10)
        assert scene.left == [], "the build was ended and removed"

    asyncio.run(body())


def test_dependencies_of_the_notebook(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = fake_uv(programs, monkeypatch)
    metadata = {"runt": {"uv": {"dependencies": ["pandas>=2.0", "numpy"], "requires-python": ">=3.10"}}}

    async def body() -> None:
        scene = Scene(tmp_path, monkeypatch)
        plan = await scene.launch("auto", metadata)
        assert plan.env_source == "uv:inline"
        assert scene.listener.progress[0] == Launching("python", "uv:inline")
        assert "preparing environment: installing ipykernel, pandas>=2.0, numpy" in scene.listener.texts
        assert log.read_text().splitlines()[0].startswith("venv --no-project --python >=3.10 ")
        before = log.read_text()
        again = await scene.launch("uv:inline", metadata)
        assert (again.argv, log.read_text()) == (plan.argv, before), "from the cache"
        for one in (plan, again):
            assert one.on_end is not None
            one.on_end()
        assert Path(plan.env["VIRTUAL_ENV"]).exists()

    asyncio.run(body())


def test_what_fails_names_its_reason_and_leaves_nothing(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_uv(programs, monkeypatch, 'echo "dns error"; exit 1')

    async def body() -> None:
        scene = Scene(tmp_path, monkeypatch)
        with pytest.raises(LaunchError, match=r"^Failed to prepare inline environment: the package index cannot be re"):
            await scene.launch("uv:inline", {"uv": {"dependencies": ["x"]}})
        assert scene.left == []
        text = "^Failed to prepare conda inline environment: no conda-compatible program is installed"
        with pytest.raises(LaunchError, match=text):
            await scene.launch("conda:inline", {"conda": {"dependencies": ["x"]}})
        with pytest.raises(LaunchError, match=r"^Conda pool empty - no environment available: no conda-compatible"):
            await scene.pools.start()
            await scene.launch("conda:prewarmed")
        await scene.pools.close(10)

    asyncio.run(body())


def test_a_cancelled_launch_leaves_nothing(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_uv(programs, monkeypatch, 'if [ "$1" = pip ]; then sleep 100; fi')

    async def body() -> None:
        scene = Scene(tmp_path, monkeypatch)
        launch = asyncio.ensure_future(scene.launch("uv:inline", {"uv": {"dependencies": ["x"]}}))
        await eventually(lambda: any("installing" in text for text in scene.listener.texts))
        launch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await launch
        assert scene.left == []
        assert scene.plans == []

    asyncio.run(body())


def test_a_kernel_that_does_not_start_gives_its_environment_up(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_uv(programs, monkeypatch)

    async def body() -> None:
        scene = Scene(tmp_path, monkeypatch, uv=1)
        await scene.pools.start()
        scene.failure = LaunchError("Failed to launch kernel: boom")
        with pytest.raises(LaunchError, match="boom"):
            await scene.launch()
        path = scene.plans[-1].env["VIRTUAL_ENV"]
        await eventually(lambda: not os.path.exists(path + ".json"))
        await scene.pools.close(10)

    asyncio.run(body())


@pytest.mark.parametrize("kind", ["micromamba", "mamba", "conda"])
def test_conda(kind: str, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = _script(programs / kind, FAKE_CONDA, "", monkeypatch, "CONDA_EXE")
    metadata = {"conda": {"dependencies": ["scipy"], "channels": ["bioconda"], "python": "3.11"}}

    async def body() -> None:
        scene = Scene(tmp_path, monkeypatch)
        await scene.pools.start()
        inline = await scene.launch("auto", metadata)
        path = inline.env["CONDA_PREFIX"]
        assert (inline.env_source, inline.argv[0]) == ("conda:inline", os.path.join(path, "bin", "python"))
        wanted = f"create -y -p {path} --override-channels -c bioconda python=3.11 ipykernel>=6.29,<8 scipy"
        assert log.read_text().splitlines() == [wanted]
        pooled = await scene.launch("conda:prewarmed")
        path = pooled.env["CONDA_PREFIX"]
        wanted = f"create -y -p {path} --override-channels -c conda-forge python>=3.9 ipykernel>=6.29,<8 ipywidgets"
        assert log.read_text().splitlines()[1:] == [wanted], "on demand, although none is kept ready"
        assert any(f"with {kind}" in text for text in scene.listener.texts)
        await scene.pools.close(10)

    asyncio.run(body())


def test_environment_yml(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = _script(programs / "micromamba", FAKE_CONDA, "", monkeypatch, "MAMBA_EXE")
    folder = tmp_path / "home" / "project"
    folder.mkdir(parents=True)
    (folder / "environment.yml").write_text("dependencies: [scipy]")

    async def body() -> None:
        scene = Scene(tmp_path, monkeypatch)
        plan = await scene.launch("auto", {}, str(folder / "n.ipynb"))
        path = plan.env["CONDA_PREFIX"]
        assert plan.env_source == "conda:env_yml"
        assert log.read_text().splitlines() == [
            f"create -y -p {path} -f {folder}/environment.yml",
            f"install -y -p {path} -c conda-forge ipykernel>=6.29,<8",
        ]
        await scene.launch("auto", {}, str(folder / "n.ipynb"))
        assert len(log.read_text().splitlines()) == 2
        (folder / "environment.yml").write_text("dependencies: [scipy, numpy]")
        other = await scene.launch("auto", {}, str(folder / "n.ipynb"))
        assert other.env["CONDA_PREFIX"] != path

    asyncio.run(body())


def test_projects(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = fake_uv(programs, monkeypatch)
    pixi_log = _script(programs / "pixi", FAKE_CONDA, "", monkeypatch, "MAMBA_EXE")
    folder = tmp_path / "home" / "project"
    folder.mkdir(parents=True)
    (folder / "pixi.toml").write_text("")

    async def body() -> None:
        scene = Scene(tmp_path, monkeypatch)
        pixi = await scene.launch("auto", {}, str(folder / "n.ipynb"))
        assert pixi.argv[:5] == [str(programs / "pixi"), "run", "--manifest-path", str(folder / "pixi.toml"), "python"]
        assert "import ipykernel" in pixi_log.read_text()
        (folder / "pyproject.toml").write_text("")
        plan = await scene.launch("auto", {}, str(folder / "n.ipynb"))
        assert (plan.env_source, plan.cwd) == ("uv:pyproject", str(folder))
        assert plan.argv[:5] == [str(programs / "uv"), "run", "--with", "ipykernel>=6.29,<8", "python"]
        assert log.read_text().startswith("run --with ipykernel>=6.29,<8 python -c import ipykernel")

    asyncio.run(body())


def test_a_kernelspec_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tmp_path / "jupyter" / "kernels" / "echo"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({"argv": ["true"], "display_name": "Echo", "language": "echo"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))

    async def body() -> None:
        scene = Scene(tmp_path, monkeypatch)
        await scene.launcher(LaunchRequest("echo", "auto"), scene.listener)
        assert (scene.plans[0].kernel_name, scene.plans[0].env_source) == ("echo", "kernelspec:echo")
        with pytest.raises(LaunchError, match=r"Unsupported kernel type: nope\. Supported types: python, deno,.* echo"):
            await scene.launcher(LaunchRequest("nope", "auto"), scene.listener)

    asyncio.run(body())
