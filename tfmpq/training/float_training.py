"""Float training, for networks without published weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from tfmpq.progress import Reporter
from tfmpq.tasks.objective import CLASSES, Objective
from tfmpq.tasks.task import Task
from tfmpq.training.backend import TrainStep, batch_value_and_gradient, mean_over_replicas
from tfmpq.training.compiling import compile_step
from tfmpq.training.descent import RATES, suited_rule
from tfmpq.training.loop import train
from tfmpq.training.run_folder import Stage
from tfmpq.training.units import in_units
from tfmpq.training.variables import AFFINE


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
    optimizer: str | None = None,
) -> None:
    """Train the task's float model in place: SGD with Nesterov momentum, or AdamW; cosine schedule.

    A finished training in the folder is loaded, an interrupted one is resumed.
    """
    stage = Stage(folder, "float")
    trainer = FloatTraining(task.model.inputs[0], task.model.outputs[0])
    trainer.objective = task.objective
    batches = task.batches(batch_size, seed, steps_per_epoch)
    steps = max(1, epochs * len(batches))
    rule = suited_rule(task.network, optimizer)
    rates = RATES[rule]
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0,
        steps,
        # A higher rate would wipe out the weights of another task.
        warmup_target=rates.adapting if from_weights else rates.float_training,
        warmup_steps=max(1, steps // 20),
        alpha=0.0,
    )
    made = (
        keras.optimizers.AdamW(schedule, weight_decay=rates.float_decay)
        if rule == "adamw"
        else keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, weight_decay=rates.float_decay)
    )
    made.exclude_from_weight_decay(var_names=list(AFFINE))
    compile_step(trainer, made)
    train(trainer, batches, epochs=epochs, stage=stage, reporter=reporter, label="float training")


class FloatTraining(TrainStep, keras.Model):
    """Plain training of a float functional model; metrics are those of the step, not means over the epoch."""

    update_statistics = True
    objective: Objective = CLASSES

    def compute_update(
        self, trainable: list[Any], state: list[Any], images: Any, labels: Any
    ) -> tuple[list[Any], list[Any], dict[str, Any]]:
        """Gradients, new non-trainable state and metrics of one step; see `QuantizedTraining`."""

        def loss_at(tensors: Sequence[Any]) -> tuple[Any, tuple[list[Any], Any]]:
            outputs, new_state, penalties = self.stateless_call(
                list(tensors), list(state), images, training=self.update_statistics, return_losses=True
            )
            return self.objective.loss(labels, outputs) + sum(penalties), (new_state, outputs)

        (loss, (new_state, outputs)), gradients = batch_value_and_gradient(loss_at, trainable)
        gradients = in_units(self, self.objective.unit, gradients)
        (score,) = mean_over_replicas([self.objective.score(labels, outputs)])
        return gradients, new_state, {"loss": loss, self.objective.score_name: score}
