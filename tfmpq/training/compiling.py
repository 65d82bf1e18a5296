"""Whether XLA compiles the steps of a training: `--jit`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras

from tfmpq.errors import UsageError
from tfmpq.progress import Reporter
from tfmpq.training.backend import accelerated, has_xla

_choice: ContextVar[bool | None] = ContextVar("tfmpq_jit", default=None)


@contextmanager
def compiling(jit: str, reporter: Reporter) -> Iterator[None]:
    """Decide for the trainings meanwhile.

    On TensorFlow, `auto` compiles where an accelerator computes: there, each of the many small operations of
    quantizers costs more than it computes. On a CPU, XLA's code for convolutions is several times slower.

    Args:
        jit: `auto`, `on` or `off`.
        reporter: Told what was decided, where it is not the usual.

    Raises:
        UsageError: It cannot be done here.
    """
    if keras.backend.backend() == "jax":
        if jit == "off":
            raise UsageError("JAX always compiles. Received: --jit off. Leave it out, or use TensorFlow.")
        chosen = True
    else:
        if jit == "on" and not has_xla():
            raise UsageError(
                "This TensorFlow has no XLA for the device at hand. Received: --jit on. Leave it out."
            )
        chosen = jit == "on" or (jit == "auto" and accelerated() and has_xla())
        if chosen or jit != "auto":
            reporter.log(f"Steps are compiled {'with' if chosen else 'without'} XLA (--jit {jit}).")
    token = _choice.set(chosen)
    try:
        yield
    finally:
        _choice.reset(token)


def compile_step(model: keras.Model, optimizer: Any) -> None:
    """Compile a training model as `compiling` has decided; without it, with XLA on JAX only."""
    chosen = _choice.get()
    model.compile(
        optimizer=optimizer, jit_compile=keras.backend.backend() == "jax" if chosen is None else chosen
    )
