"""Float training, for networks without published weights."""

from __future__ import annotations

from pathlib import Path

import keras

from tfmpq.loop import train
from tfmpq.prepare import Task
from tfmpq.progress import Reporter
from tfmpq.runs import Stage

_RATE = 0.1
_ADAPTING_RATE = 0.01
"""For weights of another task, which a higher rate would wipe out."""
_WEIGHT_DECAY = 5e-4


def pretrain(
    task: Task,
    folder: Path,
    *,
    epochs: int,
    steps_per_epoch: int | None,
    batch_size: int,
    seed: int,
    from_weights: bool,
    reporter: Reporter,
) -> None:
    """Train the task's float model in place: SGD with Nesterov momentum, cosine schedule.

    A finished training in the folder is loaded, an interrupted one is resumed.
    """
    stage = Stage(folder, "float")
    trainer = FloatTraining(task.model.inputs[0], task.model.outputs[0])
    batches = task.batches(batch_size, seed, steps_per_epoch)
    steps = max(1, epochs * len(batches))
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0,
        steps,
        warmup_target=_ADAPTING_RATE if from_weights else _RATE,
        warmup_steps=max(1, steps // 20),
        alpha=0.0,
    )
    optimizer = keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, weight_decay=_WEIGHT_DECAY)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer.compile(
        optimizer=optimizer, loss=loss, metrics=["accuracy"], jit_compile=keras.backend.backend() == "jax"
    )
    train(trainer, batches, epochs=epochs, stage=stage, reporter=reporter, label="float training")


class FloatTraining(keras.Model):
    """Keras' own training step; the loop sets the flag that quantized training reads."""

    update_statistics: bool = True
