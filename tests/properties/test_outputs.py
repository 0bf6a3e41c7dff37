"""Outputs, manifests and blobs through the C ABI. Source: protocol 2, section 8."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from properties.documented import CODES, call
from runtimed_ffi._binding.ffi import bytes_in, ffi, lib, new_buffer, take_buf, text_in
from runtimed_ffi.testing import strategies
from runtimed_ffi.testing.profiles import examples
from runtimed_ffi.testing.wire import Json, encode

THRESHOLD = 8192


class Store:
    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)
        out = ffi.new("rtd_blobs **")
        assert call("rtd_blobs_open", *text_in(directory), out) == lib.RTD_OK
        self.handle = ffi.gc(out[0], lib.rtd_blobs_free)

    def put(self, data: bytes, media_type: str) -> str:
        out = new_buffer()
        assert call("rtd_blobs_put", self.handle, *bytes_in(data), *text_in(media_type), out) == lib.RTD_OK
        return take_buf(out).decode()

    def get(self, name: str) -> tuple[int, bytes]:
        out = new_buffer()
        return call("rtd_blobs_get", self.handle, *text_in(name), out), take_buf(out)

    def store(self, output: Any) -> tuple[int, str]:
        out = new_buffer()
        return call("rtd_output_store", self.handle, *bytes_in(encode(output)), out), take_buf(out).decode()

    def resolve(self, element: bytes, handle: Any = None) -> tuple[int, Any]:
        out = new_buffer()
        code = call("rtd_output_resolve", self.handle if handle is None else handle, *bytes_in(element), out)
        raw = take_buf(out)
        return code, json.loads(raw) if code == lib.RTD_OK else None

    def place(self, name: str) -> Path:
        return self.directory / name[:2] / name[2:]


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory(prefix="rtd-") as directory:
        yield Store(directory)


@examples(2)
@given(output=strategies.output())
def test_an_output_comes_back_as_it_was(store: Store, output: Json) -> None:
    code, element = store.store(output)
    assert code == lib.RTD_OK
    assert store.resolve(element.encode()) == (lib.RTD_OK, output)
    small = len(encode(output)) < THRESHOLD
    if small:
        assert json.loads(element) == output
        assert store.resolve(element.encode(), ffi.NULL) == (lib.RTD_OK, output)
        return
    assert store.resolve(element.encode(), ffi.NULL) == (lib.RTD_E_NOT_FOUND, None)
    manifest = store.place(element).read_bytes()
    assert hashlib.sha256(manifest).hexdigest() == element
    assert next(iter(json.loads(manifest))) == "output_type"
    for text, reference in _references(output, json.loads(manifest)):
        data = text.encode()
        if len(data) < THRESHOLD:
            assert reference == {"inline": text}
        else:
            name = hashlib.sha256(data).hexdigest()
            assert reference == {"blob": name, "size": len(data)}
            assert store.place(name).read_bytes() == data


def _references(output: Json, manifest: Json) -> Iterator[tuple[str, Json]]:
    """Texts and the content references that stand for them (8.1, 8.2)."""
    if output["output_type"] == "stream":
        yield output["text"], manifest["text"]
    elif output["output_type"] == "error":
        yield encode(output["traceback"]).decode(), manifest["traceback"]
    else:
        for mime, value in output["data"].items():
            yield value if isinstance(value, str) else encode(value).decode(), manifest["data"][mime]


@examples(2)
@given(case=strategies.manifest())
def test_manifests_of_others_are_read(store: Store, case: tuple[Json, Json, dict[str, tuple[bytes, str]]]) -> None:
    """Whichever texts lie in blobs, and whether hashes are written in upper or lower case."""
    output, manifest, blobs = case
    for name, (data, media_type) in blobs.items():
        assert store.put(data, media_type) == name
    element = store.put(encode(manifest), "application/x-jupyter-output+json")
    for written in (element, element.upper()):
        assert store.resolve(written.encode()) == (lib.RTD_OK, output)


@examples()
@given(case=strategies.manifest(), data=st.data())
def test_a_missing_blob_is_reported_as_missing(
    case: tuple[Json, Json, dict[str, tuple[bytes, str]]], data: st.DataObject
) -> None:
    _, manifest, blobs = case
    with tempfile.TemporaryDirectory(prefix="rtd-") as directory:
        store = Store(directory)
        for name, (content, media_type) in blobs.items():
            assert store.put(content, media_type) == name
        element = store.put(encode(manifest), "application/x-jupyter-output+json")
        gone = data.draw(st.sampled_from([element, *sorted(blobs)]))
        if data.draw(st.booleans()):
            store.place(gone).unlink()
            assert store.resolve(element.encode()) == (lib.RTD_E_NOT_FOUND, None)
            assert store.get(gone) == (lib.RTD_E_NOT_FOUND, b"")
        else:
            store.place(gone).chmod(0o600)
            with open(store.place(gone), "ab") as file:
                file.write(b"!")
            assert store.resolve(element.encode()) == (lib.RTD_E_CORRUPT, None)
            assert store.get(gone) == (lib.RTD_E_CORRUPT, b"")


@examples()
@given(content=st.binary(max_size=300), media_type=strategies.text(3))
def test_a_blob_is_found_by_its_hash(store: Store, content: bytes, media_type: str) -> None:
    name = store.put(content, media_type)
    assert name == hashlib.sha256(content).hexdigest()
    assert store.put(content, "another/type") == name
    assert store.get(name) == store.get(name.upper()) == (lib.RTD_OK, content)
    assert store.place(name).read_bytes() == content
    meta = json.loads(Path(f"{store.place(name)}.meta").read_text(encoding="utf-8"))
    assert meta["size"] == len(content) and set(meta) >= {"media_type", "size", "created_at"}
    assert not [each for each in os.listdir(store.place(name).parent) if each.startswith(".tmp")]


@examples(2)
@given(
    name=st.one_of(strategies.text(), st.sampled_from(["../" + "a" * 61, "a" * 63, "a" * 65, "g" * 64, "", "/" * 64]))
)
def test_what_is_no_hash_names_no_blob(store: Store, name: str) -> None:
    assert store.get(name) == (lib.RTD_E_NOT_FOUND, b"")


@examples(2)
@given(
    value=st.one_of(strategies.json_value(), strategies.manifest().map(lambda case: case[1]), st.binary(max_size=30))
)
def test_any_element_is_an_output_or_a_clear_error(store: Store, value: Any) -> None:
    raw = value if isinstance(value, bytes) else encode(value)
    code, output = store.resolve(raw)
    assert code != lib.RTD_OK or output["output_type"] in ("stream", "error", "display_data", "execute_result")
    element = store.put(raw, "x")
    assert store.resolve(element.encode())[0] in CODES["rtd_output_resolve"]
    if not isinstance(value, bytes):
        code, _ = store.store(value)
        assert code == lib.RTD_OK or (code == lib.RTD_E_ARG)


@pytest.mark.parametrize(("character", "bytes_"), [("x", 1), ("é", 2), ("中", 3), ("😀", 4)])
def test_the_threshold_counts_bytes(store: Store, character: str, bytes_: int) -> None:
    for length in range(THRESHOLD - 4, THRESHOLD + 4):
        text = character * (length // bytes_) + "x" * (length % bytes_)
        # Two texts, so that the output as a whole is large in any case.
        output = {"output_type": "display_data", "data": {"text/plain": text, "text/html": "y" * 9000}, "metadata": {}}
        _, element = store.store(output)
        reference = json.loads(store.place(element).read_bytes())["data"]["text/plain"]
        assert ("inline" in reference) == (length < THRESHOLD)
    empty = len(encode({"output_type": "stream", "name": "stdout", "text": ""}))
    for size in (THRESHOLD - 1, THRESHOLD):
        _, element = store.store({"output_type": "stream", "name": "stdout", "text": "x" * (size - empty)})
        assert (len(element) == 64) == (size == THRESHOLD)


def test_the_largest_blob_is_stored_and_no_larger_one(store: Store) -> None:
    most, out = bytes(104_857_600), new_buffer()
    name = store.put(most, "x")
    assert store.get(name) == (lib.RTD_OK, most)
    store.place(name).unlink()
    assert call("rtd_blobs_put", store.handle, *bytes_in(most + b"!"), *text_in("x"), out) == lib.RTD_E_TOO_BIG


def test_every_function_of_outputs_and_blobs_refuses_null(store: Store) -> None:
    out, handle, null = new_buffer(), ffi.new("rtd_blobs **"), ffi.NULL
    assert call("rtd_blobs_open", null, 1, handle) == call("rtd_blobs_open", null, 0, null) == lib.RTD_E_NULL
    for arguments in (
        (null, null, 0, null, 0, out),
        (store.handle, null, 1, null, 0, out),
        (store.handle, null, 0, null, 0, null),
    ):
        assert call("rtd_blobs_put", *arguments) == lib.RTD_E_NULL
    name = store.put(b"x", "x")
    assert call("rtd_blobs_get", null, *text_in(name), out) == lib.RTD_E_NULL
    assert call("rtd_blobs_get", store.handle, *text_in(name), null) == lib.RTD_E_NULL
    assert call("rtd_output_store", null, *bytes_in(b"{}"), out) == lib.RTD_E_NULL
    assert call("rtd_output_resolve", store.handle, null, 1, out) == lib.RTD_E_NULL
    assert call("rtd_output_resolve", null, *bytes_in(b'{"output_type":"stream"}'), null) == lib.RTD_E_NULL
