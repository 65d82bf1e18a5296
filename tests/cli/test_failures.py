"""From an exception to one line and an exit code."""

from __future__ import annotations

import errno
import signal

import pytest

from tfmpq.errors import TfmpqError, UsageError

SEARCH = "search --model resnet8 --proxy digits --out o --json"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            UsageError("Bits are 2 to 8.\nReceived: 9. Choose others."),
            2,
            "Bits are 2 to 8. Received: 9. Choose others.",
        ),
        (TfmpqError("A file must be whole. Received: half."), 1, "A file must be whole. Received: half."),
        (TfmpqError("Received: layer \x1b[2J\x07."), 1, "Received: layer ?[2J?."),
        (
            OSError(errno.ENOSPC, "No space left on device", "o/log"),
            1,
            "No space left on device: o/log. Free some",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "Received: No space left on device. Free some"),
        (
            PermissionError(errno.EACCES, "Permission denied", "o"),
            1,
            "Permission denied: o. Change the permissions",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "w.npz"), 1, "directory: w.npz. Check"),
        (OSError(errno.EFBIG, "File too large", "o.npz"), 1, "File too large: o.npz. Raise the limit"),
        (
            ModuleNotFoundError("No module named 'ai_edge_litert'", name="ai_edge_litert.interpreter"),
            1,
            "an environment without ai_edge_litert. Run: pip install ai-edge-litert",
        ),
        (MemoryError(), 1, "--batch-size"),
        (KeyError("conv1"), 1, "Internal error: KeyError: 'conv1'. Please report it"),
        (OSError("odd"), 1, "Internal error: OSError: odd. Please report it"),
        (ValueError(), 1, "Internal error: ValueError: no message."),
    ],
)
def test_a_failure_is_one_line_on_stderr(error, code, line, calls, tfmpq):
    calls["search"].error = error
    result = tfmpq(SEARCH)
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: ")
    assert line in result.stderr


def test_ctrl_c_says_how_to_go_on(calls, tfmpq):
    calls["search"].error = KeyboardInterrupt()
    result = tfmpq(SEARCH)
    assert result.exit_code == 130
    assert result.stdout == ""
    assert result.stderr.strip() == "Interrupted. Run the same command again to go on."


def test_sigterm_is_an_interruption_with_a_code_of_its_own(calls, tfmpq):
    before = signal.getsignal(signal.SIGTERM)
    calls["search"].error = signal.SIGTERM
    result = tfmpq(SEARCH)
    assert (result.exit_code, result.stdout) == (143, "")
    assert result.stderr.strip() == "Interrupted. Run the same command again to go on."
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_traceback_is_shown_on_request(calls, tfmpq, monkeypatch):
    monkeypatch.setenv("TFMPQ_TRACEBACK", "1")
    calls["search"].error = ZeroDivisionError("by zero")
    result = tfmpq(SEARCH)
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: Internal error: ZeroDivisionError: by zero.")


def test_a_backend_without_gradients_is_refused(calls, tfmpq, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    result = tfmpq(SEARCH)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "Error: KERAS_BACKEND is tensorflow or jax. Received: torch. Set it to one of these, or unset it.\n"
    )
