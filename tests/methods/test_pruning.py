"""Improbable widths are dropped, and a search that drops some goes on exactly after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from tfmpq.data import ImageBatches, Split
from tfmpq.graph.fusion import analyse
from tfmpq.methods.pruning import drop_improbable, leave_out_dropped, train_and_prune
from tfmpq.policy.expected_cost import ExpectedCost
from tfmpq.policy.network_cost import cost_model
from tfmpq.progress import SilentReporter
from tfmpq.quantization.insertion import quantize_model
from tfmpq.quantizers.learned_step import LearnedStepQuantizer
from tfmpq.training import recorder
from tfmpq.training.budget_term import BudgetTerm
from tfmpq.training.optimizer import QuantizationOptimizer
from tfmpq.training.run_folder import Stage
from tfmpq.training.step import QuantizedTraining

BITS = (2, 3, 4, 8)
EPOCHS, STEPS = 3, 2
SPLIT = Split(
    (np.arange(16) % 4).astype(np.int64), np.random.default_rng(0).integers(0, 256, (16, 4, 4, 3), np.uint8)
)


def logits_of(wrapper: Any) -> Any:
    return wrapper.weight_variables["bit_logits"]


def trainer() -> QuantizedTraining:
    """Two layers; the choices of one are nearly made."""
    keras.utils.set_random_seed(1)
    image = keras.Input((4, 4, 3), name="image")
    x = layers.ReLU(name="relu")(layers.Conv2D(4, 3, name="conv")(image))
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    model = keras.Model(image, layers.Dense(4, name="logits")(x))
    network = analyse(model, input_signed=False)
    weights, tensors = {node.name: BITS for node in network.weighted}, dict.fromkeys(network.tensors, (8,))
    quantized = quantize_model(
        model, network, weights, tensors, SPLIT.array.astype(np.float32) / 255, (0.0, 1.0)
    )
    logits_of(quantized.get_layer("logits")).assign([0.0, 0.0, 3.0, 3.0])
    made = QuantizedTraining(quantized.inputs[0], quantized.outputs[0])
    made.configure(None, BudgetTerm(ExpectedCost(cost_model(network), weights, tensors), {"size": 0.5}, 0.1))
    made.compile(optimizer=QuantizationOptimizer(0.05), run_eagerly=True, jit_compile=False)
    return made


class Interrupter(SilentReporter):
    """Interrupts like Ctrl-C when asked to; its time passes by the step, so that every step is saved."""

    def __init__(self, at: int | None) -> None:
        self.done, self.at = 0, at

    def monotonic(self) -> float:
        return 100.0 * self.done

    def start(self, stage: str, total: int) -> None:
        self.done = 0

    def advance(self, steps: int = 1, metrics: Any = None) -> None:
        self.done += steps
        if self.done == self.at:
            raise KeyboardInterrupt


def train(folder: Path, interrupt_at: int | None = None) -> QuantizedTraining:
    made = trainer()
    batches = ImageBatches(
        SPLIT, 8, image_shape=(4, 4, 3), preprocessing="unit", seed=5, augment="crop", steps_per_epoch=STEPS
    )
    reporter, stage = Interrupter(interrupt_at), Stage(folder, "search")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder, "time", reporter)
        train_and_prune(
            made, batches, EPOCHS, 0.05, stage=stage, reporter=reporter, label="search", choices=likely
        )
    return made


def likely(model: QuantizedTraining) -> dict[str, float]:
    return {name: float(np.max(logits_of(model.get_layer(name)))) for name in ("conv", "logits")}


def test_a_dropped_width_has_no_probability_and_no_part_in_the_mixture() -> None:
    made = trainer()
    wrapper = made.get_layer("logits")
    drop_improbable(made, 0.05)
    after = logits_of(wrapper).numpy()
    assert list(after > -5000) == [False, False, True, True]
    mixture = np.asarray(wrapper.quantized_kernel())
    leave_out_dropped(made)
    assert wrapper.weight_quantizer.kept == (2, 3)
    np.testing.assert_allclose(wrapper.quantized_kernel(), mixture, rtol=1e-6, atol=1e-8)
    drop_improbable(made, 0.05)
    np.testing.assert_array_equal(logits_of(wrapper).numpy(), after)
    assert made.get_layer("conv").weight_quantizer.kept == (0, 1, 2, 3)


def test_the_most_probable_width_stays_whatever_the_threshold() -> None:
    made = trainer()
    drop_improbable(made, 0.49)
    for name in ("conv", "logits"):
        assert np.sum(logits_of(made.get_layer(name)).numpy() > -5000) >= 1


def test_a_quantizer_that_keeps_nothing_leaves_the_tensor_as_it_is() -> None:
    quantizer = LearnedStepQuantizer((2, 4), narrow=True)
    weights = {"log_step": np.log([0.5, 0.1]).astype(np.float32), "bit_logits": np.zeros(2, np.float32)}
    x = keras.ops.convert_to_tensor(np.array([0.26, -0.31, 0.9], np.float32))
    quantizer.kept = ()
    np.testing.assert_array_equal(quantizer(x, training=False, weights=weights), x)
    quantizer.kept = (1,)
    np.testing.assert_allclose(quantizer(x, training=False, weights=weights), [0.3, -0.3, 0.7], rtol=1e-6)


def test_a_search_that_drops_widths_resumes_exactly(tmp_path: Path) -> None:
    """Interrupted in mid-epoch behind the first dropping, and right behind the second."""
    whole = train(tmp_path / "whole")
    assert np.sum(logits_of(whole.get_layer("logits")).numpy() > -5000) < len(BITS)
    for at in (2 * STEPS, 2 * STEPS + 1):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "parts", at)
    resumed = train(tmp_path / "parts")
    for one, other in zip(whole.variables, resumed.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), one.path)
    for name in ("search.csv", "search.choices.csv"):
        assert (tmp_path / "parts" / name).read_text() == (tmp_path / "whole" / name).read_text()
    course = (tmp_path / "whole" / "search.choices.csv").read_text().split()
    assert [line.split(",")[0] for line in course] == [
        "step",
        *(str(e * STEPS - 1) for e in range(1, EPOCHS + 1)),
    ]
