"""Whatever happens to the child, the parent gets an answer or one error."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tfmpq.deploy.runtime.sandbox import Sandbox
from tfmpq.errors import TfmpqError, UsageError


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("file.tflite", seconds=20, memory=1 << 30) as sandbox:
        yield sandbox


def test_values_go_both_ways(sandbox: Sandbox) -> None:
    value = {"bytes": 3, "dtype": [b"\0\xff", None, 1.5, "text"], "empty": b""}
    assert sandbox.call("copy:copy", value) == value
    array = np.arange(12, dtype=np.int16).reshape(3, 4)[:, ::2]
    found = sandbox.call("copy:copy", array)
    assert (found.dtype, found.shape) == (np.int16, (3, 2))
    np.testing.assert_array_equal(found, array)
    assert sandbox.call("copy:copy", np.empty((0, 3))).shape == (0, 3)


def test_what_is_printed_does_not_get_between(sandbox: Sandbox) -> None:
    assert sandbox.call("builtins:print", "chatter") is None
    assert sandbox.call("os:system", "echo chatter") == 0
    assert sandbox.call("builtins:len", "four") == 4


def test_errors_keep_their_kind(sandbox: Sandbox) -> None:
    with pytest.raises(UsageError, match="A file is rewritten for"):
        sandbox.call("tfmpq.deploy.conversion.specialize:specialize", b"", "storage")
    with pytest.raises(TfmpqError, match="carries the identifier") as caught:
        sandbox.call("tfmpq.deploy.conversion.specialize:specialize", b"", "litert")
    assert not isinstance(caught.value, UsageError)


def test_a_crash_is_an_error_and_the_next_call_works(sandbox: Sandbox) -> None:
    with pytest.raises(TfmpqError, match=r"Received: file\.tflite, on which it crashed with SIGSEGV"):
        sandbox.call("ctypes:string_at", 0)
    with pytest.raises(TfmpqError, match="crashed with SIGABRT"):
        sandbox.call("os:abort")
    with pytest.raises(TfmpqError, match="stopped with exit code 3"):
        sandbox.call("os:_exit", 3)
    with pytest.raises(TfmpqError, match="exit code 1 and said: ZeroDivisionError"):
        sandbox.call("operator:truediv", 1, 0)
    assert sandbox.call("builtins:len", "four") == 4


def test_memory_is_limited(sandbox: Sandbox) -> None:
    with pytest.raises(TfmpqError, match="at most 1024 MiB of memory"):
        sandbox.call("numpy:ones", 1 << 28)


def test_time_is_limited() -> None:
    with Sandbox("file.tflite", seconds=1) as sandbox:
        with pytest.raises(TfmpqError, match="at most 1 seconds"):
            sandbox.call("time:sleep", 60)
        assert sandbox.call("builtins:len", "four") == 4
