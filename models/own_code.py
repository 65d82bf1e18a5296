"""Code in model files: not run, unless the user trusts it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_allowed: ContextVar[bool] = ContextVar("tfmpq_allow_code", default=False)


@contextmanager
def allow_code() -> Iterator[None]:
    """Run the functions of Lambda layers of the model files that are read while the context is open."""
    token = _allowed.set(True)
    try:
        yield
    finally:
        _allowed.reset(token)


def code_is_allowed() -> bool:
    """Whether such functions may be run."""
    return _allowed.get()
