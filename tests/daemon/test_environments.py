"""What a request for a kernel means (protocol 2, sections 9.5, 9.6, 10.1, 10.2, 10.5)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from daemon.vectors import derived
from runtimed_ffi.daemon.channels.settings import Values
from runtimed_ffi.daemon.environments import plans, requirements, trust
from runtimed_ffi.daemon.environments.plans import LaunchRequest, automatic, resolve
from runtimed_ffi.daemon.ports import LaunchError

UV = {"runt": {"schema_version": "1", "uv": {"dependencies": ["pandas>=2.0"]}}}
CONDA = {"runt": {"schema_version": "1", "conda": {"dependencies": ["scipy"], "channels": ["bioconda"]}}}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "kernelspecs", lambda: ["ir", "python3"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory below the home directory."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    directory = tmp_path / "home" / "work" / "deep"
    directory.mkdir(parents=True)
    return directory


def notebook(folder: Path, metadata: Any) -> str:
    path = folder / "n.ipynb"
    path.write_text(json.dumps({"cells": [], "metadata": metadata}))
    return str(path)


@pytest.mark.parametrize("vector", derived("inline-"), ids=lambda vector: vector["id"])
def test_inline_directories(vector: Any) -> None:
    given = vector["input"]
    metadata = {"runt": {"conda" if "channels" in given else "uv": given}}
    found = requirements.dependencies(metadata, "conda" if "channels" in given else "uv")
    assert found is not None
    assert found.directory_name == vector["expect"]["dir"]


@pytest.mark.parametrize("vector", derived("uuid-room-"), ids=lambda vector: vector["id"])
def test_rooms_without_a_file(vector: Any) -> None:
    request = automatic(vector["input"]["notebook_id"], Values(), "/nonexistent")
    assert (request is not None) is vector["expect"]["auto_launch"]


def test_a_wanted_python_is_another_environment() -> None:
    plain, wanted = requirements.Dependencies("uv", ("a",)), requirements.Dependencies("uv", ("a",), python=">=3.12")
    assert plain.directory_name != wanted.directory_name
    channels = requirements.Dependencies("conda", ("a",), ("x", "y"))
    assert channels.directory_name == requirements.Dependencies("conda", ("a",), ("y", "x")).directory_name
    assert channels.directory_name != requirements.Dependencies("conda", ("a",)).directory_name


@pytest.mark.parametrize(
    ("source", "reported", "needs"),
    [
        ("uv:prewarmed", "uv:prewarmed", "default"),
        ("whatever", "whatever", "default"),
        ("conda:prewarmed", "conda:prewarmed", "conda"),
        ("conda:something", "conda:something", "conda"),
        ("auto", "uv:prewarmed", "default"),
        ("prewarmed", "uv:prewarmed", "default"),
        ("", "uv:prewarmed", "default"),
    ],
)
def test_sources(source: str, reported: str, needs: str, folder: Path) -> None:
    choice = resolve(LaunchRequest("python", source, notebook(folder, {})))
    assert (choice.env_source, choice.needs, choice.cwd) == (reported, needs, str(folder))


def test_dependencies_come_before_the_project_and_uv_before_conda(folder: Path) -> None:
    (folder / "pyproject.toml").write_text("")

    def source(metadata: Any) -> str:
        return resolve(LaunchRequest("python", "auto", notebook(folder, metadata))).env_source

    assert source(UV) == "uv:inline"
    assert source(CONDA) == "conda:inline"
    assert source({"runt": {**UV["runt"], **CONDA["runt"]}}) == "uv:inline"
    assert source({"uv": {"dependencies": ["x"]}}) == "uv:inline", "legacy members"
    assert source({"runt": {"uv": {"dependencies": []}}}) == "uv:pyproject"
    assert source({}) == "uv:pyproject"


def test_metadata_of_the_room_counts_before_the_file(folder: Path) -> None:
    path = notebook(folder, CONDA)
    choice = resolve(LaunchRequest("python", "auto", path, metadata=UV))
    assert (choice.env_source, choice.dependencies) == ("uv:inline", requirements.Dependencies("uv", ("pandas>=2.0",)))
    with pytest.raises(LaunchError, match=r"conda:inline requires a prepared environment"):
        resolve(LaunchRequest("python", "conda:inline", path, metadata=UV))
    in_file = resolve(LaunchRequest("python", "conda:inline", path))
    assert in_file.dependencies == requirements.Dependencies("conda", ("scipy",), ("bioconda",))
    by_room = resolve(LaunchRequest("python", "auto", None, path))
    assert (by_room.env_source, by_room.cwd) == ("conda:inline", str(folder))


def test_project_files(folder: Path) -> None:
    def found() -> str | None:
        project = requirements.project(str(folder))
        return None if project is None else str(Path(project.path).relative_to(folder.parent.parent)) + project.source

    assert found() is None
    (folder.parent.parent.parent / "pyproject.toml").write_text("")
    assert found() is None, "above the home directory"
    (folder.parent.parent / "environment.yaml").write_text("")
    assert found() == "environment.yamlconda:env_yml"
    (folder.parent / "pixi.toml").write_text("")
    assert found() == "work/pixi.tomlconda:pixi"
    (folder.parent / "pyproject.toml").write_text("")
    assert found() == "work/pyproject.tomluv:pyproject"
    (folder / ".git").mkdir()
    assert found() is None, "a repository ends the walk"
    (folder / "environment.yml").write_text("")
    assert found() == "work/deep/environment.ymlconda:env_yml"
    choice = resolve(LaunchRequest("python", "auto", str(folder / "n.ipynb")))
    assert (choice.needs, choice.project and choice.project.path) == ("project", str(folder / "environment.yml"))
    with pytest.raises(LaunchError, match=r"uv:pyproject requires pyproject\.toml beside or above"):
        resolve(LaunchRequest("python", "uv:pyproject", str(folder / "n.ipynb")))


def test_kernel_types(folder: Path) -> None:
    path = notebook(folder, UV)
    deno = resolve(LaunchRequest("deno", "auto", path))
    assert (deno.env_source, deno.needs) == ("deno", "deno")
    assert resolve(LaunchRequest("deno", "conda:prewarmed", path)).env_source == "conda:prewarmed"
    other = resolve(LaunchRequest("ir", "uv:prewarmed", path))
    assert (other.kernel_type, other.env_source, other.needs) == ("ir", "kernelspec:ir", "kernelspec")
    text = r"^Failed to launch kernel: Unsupported kernel type: julia\. Supported types: python, deno, ir, python3$"
    with pytest.raises(LaunchError, match=text):
        resolve(LaunchRequest("julia", "uv:prewarmed", None))
    with pytest.raises(LaunchError, match="no such directory"):
        resolve(LaunchRequest("python", "auto", "/nonexistent/n.ipynb"))


@pytest.mark.parametrize("name", ["--index-url=http://evil", " -r x", "", 5, None, "a\nb", "a\0b"])
def test_what_a_package_manager_must_not_get(name: Any) -> None:
    for metadata in ({"uv": {"dependencies": ["ok", name]}}, {"conda": {"dependencies": ["ok"], "channels": [name]}}):
        with pytest.raises(LaunchError, match="cannot be a dependency"):
            requirements.dependencies(metadata, next(iter(metadata)))


def test_automatic_launch_of_files(folder: Path) -> None:
    def launch(metadata: Any, settings: Any = None) -> tuple[str, str] | None:
        request = automatic(notebook(folder, metadata), settings or Values(), str(folder / "key"))
        return None if request is None else (request.kernel_type, request.env_source)

    python = ("python", "uv:prewarmed")
    assert launch({}) == python
    assert launch({"kernelspec": {"name": "Python3"}}) == python
    assert launch({"kernelspec": {"name": "x", "language": "python"}}) == python
    assert launch({"kernelspec": {"name": "DENO"}}) == ("deno", "deno")
    assert launch({"kernelspec": {"name": "x", "language": "typescript"}}) == ("deno", "deno")
    assert launch({"language_info": {"name": "deno"}}) == ("deno", "deno")
    assert launch({"kernelspec": {"name": "x", "language": "deno"}}) == python, "no such language in a kernelspec"
    assert launch({"runt": {"deno": {}}}) == ("deno", "deno")
    assert launch({"runt": {"deno": {}}, "kernelspec": {"name": "python3"}}) == python
    assert launch({}, Values(default_runtime="deno")) == ("deno", "deno")
    assert launch({}, Values(default_python_env="conda")) == ("python", "conda:prewarmed")
    assert launch({"kernelspec": {"name": "ir"}}) == ("ir", "ir"), "an installed kernelspec"
    assert launch({"kernelspec": {"name": "sas"}}) == python
    assert automatic(str(folder), Values(), "") is None
    (folder / "pyproject.toml").write_text("")
    assert launch({}) == ("python", "uv:pyproject")


def test_dependencies_start_a_kernel_by_themselves_only_if_trusted(folder: Path) -> None:
    key = str(folder / "key")

    def launch(metadata: Any) -> LaunchRequest | None:
        return automatic(notebook(folder, metadata), Values(), key)

    assert launch(UV) is None
    assert launch({"conda": {"dependencies": ["x"]}}) is None
    signature = trust.signatures(UV, trust.load_key(key))[0]
    signed = {"runt": {**UV["runt"], "trust_signature": signature}}
    request = launch(signed)
    assert request is not None
    assert (request.env_source, request.metadata) == ("uv:inline", signed)
    notebook(folder, {"uv": {"dependencies": ["evil"]}})
    assert resolve(request).dependencies == requirements.Dependencies("uv", ("pandas>=2.0",)), (
        "the checked value is used"
    )
    (folder / "key").write_bytes(b"short")
    assert launch(signed) is None, "no notebook is trusted by a broken key"


def test_unreadable_notebooks_have_no_requirements(folder: Path) -> None:
    path = folder / "n.ipynb"
    for content in (b"", b"\xff", b"[]", b'{"metadata": 5}', b"[" * 100_000):
        path.write_bytes(content)
        assert requirements.of_file(str(path)) == {}
    assert requirements.of_file(str(folder / "none")) == {}
    for text in ("", "[]", "{}", '{"runt": 5}'):
        assert requirements.of_document({"notebook_metadata": text}) is None
    assert requirements.of_document({}) is None
    assert requirements.of_document({"notebook_metadata": json.dumps(UV)}) == UV
