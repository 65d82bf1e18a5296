"""bfloat16 where it is cheap, float32 where it decides."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tfmpq.data import ImageBatches, Split
from tfmpq.errors import TfmpqError
from tfmpq.progress import SilentReporter
from tfmpq.training import loop
from tfmpq.training.checkpoints import described
from tfmpq.training.loop import train
from tfmpq.training.optimizer import QuantizationOptimizer
from tfmpq.training.precision import computing_in
from tfmpq.training.run_folder import Stage
from tfmpq.training.sharpness import RadiusSchedule
from tfmpq.training.step import SharpnessOptions

OPTIONS = SharpnessOptions(RadiusSchedule("inverse", window=2))


def test_a_step_is_near_that_of_float32_and_keeps_its_state_in_float32(trainer) -> None:
    made = trainer(OPTIONS, limits={"size": 0.5})
    exact = made.update()
    with computing_in("bfloat16", made.model):
        gradients, state, metrics = made.update()
    assert metrics["loss"] != exact[2]["loss"]
    for name in ("loss", "perturbed_loss"):
        assert metrics[name] == pytest.approx(exact[2][name], rel=0.02)
    for name in ("expected_size", "expected_bits", "rho"):
        assert metrics[name] == exact[2][name]
    assert {str(g.dtype) for g in gradients.values()} == {"float32"}
    assert {str(v.dtype) for path, v in state.items() if "seed" not in path} == {"float32"}
    flat = [np.concatenate([g.ravel() for g in each.values()]) for each in (gradients, exact[0])]
    cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    assert cosine > 0.95
    again = made.update()
    assert again[2] == exact[2]


def test_kernels_are_quantized_as_they_are_and_multiplied_in_bfloat16(trainer, monkeypatch) -> None:
    made = trainer(OPTIONS)
    wrapper = made.wrapper("down")
    quantize, seen = type(wrapper.weight_quantizer).__call__, {}

    def watched(quantizer: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if quantizer is wrapper.weight_quantizer:
            seen["kernel"] = np.asarray(inputs)
        return quantize(quantizer, inputs, *args, **kwargs)

    monkeypatch.setattr(type(wrapper.weight_quantizer), "__call__", watched)
    with computing_in("bfloat16", made.model):
        output = wrapper(np.ones((1, *wrapper.input.shape[1:]), np.float32))
    np.testing.assert_array_equal(seen["kernel"], wrapper.layer.kernel.numpy())
    assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"
    image = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    before = np.asarray(made.model.layers[1](image))
    with computing_in("bfloat16", made.model):
        np.testing.assert_array_equal(np.asarray(made.model.layers[1](image)), before)


def test_no_trace_remains_and_float32_changes_nothing(trainer) -> None:
    model = trainer(OPTIONS).model
    before = described(model)
    with computing_in("float32", model):
        assert described(model) == before
    with contextlib.suppress(KeyboardInterrupt), computing_in("bfloat16", model):
        assert described(model) != before
        raise KeyboardInterrupt
    assert described(model) == before
    assert all(layer.autocast for layer in model.layers)


class Interrupting(SilentReporter):
    def __init__(self, at: int) -> None:
        self._left = at

    def advance(self, steps: int = 1, metrics: Any = None) -> None:
        self._left -= steps
        if self._left == 0:
            raise KeyboardInterrupt


def test_a_training_is_resumed_bit_by_bit_and_in_no_other_precision(
    trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    split = Split(np.arange(12) % 4, images)

    def run(folder: Path, precision: str, reporter: SilentReporter | None = None) -> list[np.ndarray]:
        model = trainer(OPTIONS).model
        model.compile(optimizer=QuantizationOptimizer(0.05), run_eagerly=True, jit_compile=False)
        folder.mkdir(exist_ok=True)
        batches = ImageBatches(split, 4, image_shape=(8, 8, 3), preprocessing="unit")
        with computing_in(precision, model):
            train(model, batches, epochs=1, stage=Stage(folder, "search"), label="search",
                  reporter=reporter or SilentReporter())  # fmt: skip
        return [np.asarray(v) for v in (*model.variables, *model.optimizer.variables)]

    whole = run(tmp_path / "whole", "bfloat16")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", "bfloat16", Interrupting(2))
    with pytest.raises(TfmpqError, match="bfloat16"):
        run(tmp_path / "parts", "float32")
    for one, other in zip(run(tmp_path / "parts", "bfloat16"), whole, strict=True):
        np.testing.assert_array_equal(one, other)
