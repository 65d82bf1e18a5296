"""Whether XLA compiles a step: by device, as asked, or one line why not."""

from __future__ import annotations

import keras
import pytest

from tfmpq.errors import UsageError
from tfmpq.progress import SilentReporter
from tfmpq.training import compiling as module
from tfmpq.training.compiling import compile_step, compiling


class Lines(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, message: str) -> None:
        self.lines.append(message)


def chosen(jit: str, reporter: Lines) -> bool:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with compiling(jit, reporter):
        compile_step(model, keras.optimizers.SGD())
    return bool(model.jit_compile)


@pytest.mark.parametrize(("device", "jit", "expected"), [
    (False, "auto", False), (True, "auto", True), (False, "on", True), (True, "off", False),
])  # fmt: skip
def test_the_device_or_the_user_decides(
    monkeypatch: pytest.MonkeyPatch, device: bool, jit: str, expected: bool
) -> None:
    monkeypatch.setattr(module, "accelerated", lambda: device)
    reporter = Lines()
    assert chosen(jit, reporter) is expected
    word = "with" if expected else "without"
    said = [f"Steps are compiled {word} XLA (--jit {jit})."]
    assert reporter.lines == ([] if not expected and jit == "auto" else said)


def test_xla_that_is_missing_is_one_line_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_xla", lambda: False)
    with pytest.raises(UsageError, match="--jit on"):
        chosen("on", Lines())
    assert not chosen("auto", Lines())


def test_jax_always_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UsageError, match="JAX always compiles"), compiling("off", Lines()):
        pass
    assert chosen("on", Lines())
