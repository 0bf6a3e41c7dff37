"""The exceptions: one base, fitting builtins, texts as arguments, and all of them pickle."""

from __future__ import annotations

import copy
import pickle

import pytest

import runtimed_ffi
from runtimed_ffi import errors
from runtimed_ffi._binding.ffi import check_versions, error, lib, library_file

CLASSES = [getattr(errors, name) for name in errors.__all__]


def test_the_base():
    assert errors.RuntimedError.__module__ == "runtimed_ffi"
    assert errors.RuntimedError.__bases__ == (Exception,)
    assert runtimed_ffi.RuntimedError is errors.RuntimedError


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_is_made_from_one_text_and_pickles(kind):
    original = kind("Cell not found: é")
    original.code = -10
    original.reason = "because"
    original.result = runtimed_ffi.ExecutionResult("c", success=False)
    for same in (pickle.loads(pickle.dumps(original)), copy.copy(original)):
        assert type(same) is kind
        assert str(same) == "Cell not found: é"
        assert same.args == ("Cell not found: é",)
        assert (same.code, same.reason, same.result) == (-10, "because", original.result)
    assert isinstance(original, errors.RuntimedError)
    assert kind.__name__ in errors.__doc__
    assert kind.__doc__


@pytest.mark.parametrize(
    "kind, builtin",
    [
        (errors.TimeoutError_, TimeoutError),
        (errors.ConnectError, ConnectionError),
        (errors.NotConnectedError, ConnectionError),
        (errors.DisconnectedError, ConnectionError),
        (errors.CellNotFoundError, LookupError),
        (errors.ArgumentError, ValueError),
    ],
)
def test_builtins(kind, builtin):
    with pytest.raises(builtin, match="text"):
        raise kind("text")


def test_codes_become_classes():
    known = error(lib.RTD_E_TIMEOUT, "late")
    assert isinstance(known, errors.TimeoutError_)
    assert (str(known), known.code) == ("late", lib.RTD_E_TIMEOUT)
    assert type(error(-12345, "new")) is errors.RuntimedError
    assert str(error(lib.RTD_E_STATE, "")), "there is always a text"


def test_a_library_that_does_not_fit_is_refused():
    major, minor = lib.RTD_ABI_MAJOR, lib.RTD_ABI_MINOR
    fitting = runtimed_ffi.__version__
    check_versions(major << 16 | minor, fitting)
    check_versions(major << 16 | minor + 1, fitting)
    for version, text in [((major + 1) << 16 | minor, fitting), (major << 16 | minor, "9.9.9")]:
        with pytest.raises(ImportError) as refused:
            check_versions(version, text)
        assert library_file() in str(refused.value)
        assert "_native" in str(refused.value)
    if minor:
        with pytest.raises(ImportError):
            check_versions(major << 16 | minor - 1, fitting)
