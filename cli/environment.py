"""What has to be set in the process before anything heavy is imported."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from tfmpq.errors import UsageError

_DEFAULTS = {
    "KERAS_BACKEND": "tensorflow",
    # 3 leaves errors of the C++ side only; its information lines drown the progress.
    "TF_CPP_MIN_LOG_LEVEL": "3",
}

_BACKENDS = ("tensorflow", "jax")


def prepare() -> None:
    """Choose backend and log level, as far as the user's environment has not.

    Must run before Keras or TensorFlow is imported: both read these variables once.

    Raises:
        UsageError: The environment names a backend that tfmpq has no gradients for.
    """
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend not in _BACKENDS:
        raise UsageError(
            f"KERAS_BACKEND is {' or '.join(_BACKENDS)}. Received: {backend}. "
            "Set it to one of these, or unset it."
        )
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    # Its warnings (retracing, ...) are advice to programmers.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def claim_stdout() -> TextIO:
    """Keep stdout for the result of the command.

    From here on, whatever else prints there, Python or C++, now or while the process ends, reaches stderr.

    Returns:
        The only stream that still leads to stdout.
    """
    stdout = sys.stdout
    if sys.__stdout__ is not None and stdout is sys.__stdout__:
        stdout.flush()
        stdout = os.fdopen(os.dup(1), "w", encoding=stdout.encoding, errors="replace")
        os.dup2(2, 1)
    sys.stdout = sys.stderr
    return stdout


@contextmanager
def hushed_stderr() -> Iterator[None]:
    """Hold back what reaches stderr meanwhile; it is shown only if that fails.

    For imports: TensorFlow's C++ side greets with several lines before it reads its log level.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
