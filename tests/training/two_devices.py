"""Trains on two logical CPU devices and on one, for `test_distribution.py`; devices are set up once."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfmpq.data import ImageBatches, Split
from tfmpq.errors import UsageError
from tfmpq.graph.fusion import analyse
from tfmpq.progress import SilentReporter
from tfmpq.quantization.insertion import quantize_model
from tfmpq.training import recorder
from tfmpq.training.distribution import Strategy, strategy
from tfmpq.training.loop import train
from tfmpq.training.optimizer import QuantizationOptimizer
from tfmpq.training.run_folder import Stage
from tfmpq.training.sharpness import RadiusSchedule
from tfmpq.training.step import Distillation, QuantizedTraining, SharpnessOptions

STEPS, EPOCHS = 3, 2
SPLIT = Split(
    (np.arange(32) % 4).astype(np.int64), np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3), np.uint8)
)


class Interrupting(SilentReporter):
    """Interrupts like Ctrl-C after some steps; with checkpoints after each."""

    def __init__(self, at: int) -> None:
        self._left = at

    def advance(self, steps: int = 1, metrics: object = None) -> None:
        self._left -= steps
        if self._left == 0:
            raise KeyboardInterrupt


def network(norm: bool) -> keras.Model:
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, strides=2, use_bias=not norm, name="conv")(image)
    if norm:
        x = layers.BatchNormalization(name="bn")(x)
    x = layers.GlobalAveragePooling2D(name="gap")(layers.ReLU(name="relu")(x))
    return keras.Model(image, layers.Dense(4, name="logits")(x))


def trainer(norm: bool, every: int = 1) -> QuantizedTraining:
    keras.utils.set_random_seed(1)
    model = network(norm)
    analysed = analyse(model, input_signed=False)
    quantized = quantize_model(
        model,
        analysed,
        {node.name: (2, 4, 8) for node in analysed.weighted},
        dict.fromkeys(analysed.tensors, (8,)),
        SPLIT.array.astype(np.float32) / 255,
        (0.0, 1.0),
    )
    made = QuantizedTraining(quantized.inputs[0], quantized.outputs[0])
    options = SharpnessOptions(RadiusSchedule("inverse", window=2), second_gradient_every=every)
    made.configure(options, distillation=Distillation(model, 0.3))
    # Small steps: an activation on the edge between two levels would tell the last bits of sums apart.
    made.compile(optimizer=QuantizationOptimizer(1e-4), jit_compile=keras.backend.backend() == "jax")
    return made


def fit(
    model: keras.Model, folder: Path, name: Strategy, size: int = 8, reporter: SilentReporter | None = None
) -> None:
    batches = ImageBatches(
        SPLIT, size, image_shape=(8, 8, 3), preprocessing="unit", augment="crop", steps_per_epoch=STEPS
    )
    folder.mkdir(parents=True, exist_ok=True)
    with strategy(name):
        train(model, batches, epochs=EPOCHS, stage=Stage(folder, "search"), label="search",
              reporter=reporter or SilentReporter())  # fmt: skip
    values = [*model.variables, *model.optimizer.variables]
    names = [f"{i} {v.path.split('/')[-1]}" for i, v in enumerate(values)]
    np.savez(folder / "after.npz", **{n: np.asarray(v) for n, v in zip(names, values, strict=True)})


def refused(action: object) -> str:
    try:
        action()  # type: ignore[operator]
    except UsageError as error:
        return str(error)
    return ""


def main(out: Path) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    recorder.CHECKPOINT_SECONDS = 0.0
    for norm in (False, True):
        fit(trainer(norm), out / f"one {norm}", "single")
    fit(trainer(False), out / "two False", "data-parallel")
    resumed = out / "two True"
    with contextlib.suppress(KeyboardInterrupt):
        fit(trainer(True), resumed, "data-parallel", reporter=Interrupting(2))
    (out / "interrupted").write_text(str(not (resumed / "after.npz").exists()))
    fit(trainer(True), resumed, "data-parallel")
    messages = [
        refused(lambda: fit(trainer(False), out / "odd", "data-parallel", size=7)),
        refused(lambda: fit(trainer(False, every=2), out / "look", "data-parallel")),
    ]
    (out / "messages").write_text("\n".join(messages))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
