"""Fine-tuning: train the weights of a network whose bit-widths a policy has fixed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras

from tfmpq.data.preprocess import value_range
from tfmpq.files import write_json
from tfmpq.graph.fusion import analyse
from tfmpq.models.registry import display_name
from tfmpq.policy.fixed_widths import refuse_inexact
from tfmpq.policy.network_cost import cost_model
from tfmpq.policy.policy import Policy, load_policy, save_policy
from tfmpq.progress import Reporter, SilentReporter
from tfmpq.provenance import fingerprint, versions
from tfmpq.quantization.freeze import snap_biases
from tfmpq.quantization.starting_point import Origin, Start, begin, choose_weights
from tfmpq.results import Result
from tfmpq.tasks.scoring import Score, score_model
from tfmpq.tasks.task import Task, load_task
from tfmpq.training.distribution import run_folder
from tfmpq.training.loop import train
from tfmpq.training.optimizer import QuantizationOptimizer
from tfmpq.training.run_folder import Stage, default_folder
from tfmpq.training.step import Distillation, QuantizedTraining

_RATE = 0.01
_RECONSTRUCTED_RATE = 0.005
"""A reconstructed network begins close to the float one, and larger steps lead away from it first."""


@dataclass(frozen=True, slots=True)
class FinetuneResult(Result):
    """What fine-tuning reached.

    Attributes:
        run: Run folder.
        model: Network name.
        policy: Path of the policy, which fine-tuning never changes.
        preprocessing: Name of the preprocessing.
        data: Data set.
        started_from: `float` (the float model of the search), `search` (the searched weights), the file of
            float weights, or the model file that holds them.
        reconstructed: Whether the weights were fitted to the float model, layer by layer, before training.
        top1: Top-1 on the test images, 0 to 1, of the network as it will be deployed.
        top5: Top-5.
        count: Number of test images.
        epochs: Epochs of training.
        steps: Steps of training.
        size: Bytes in the storage form.
        bops: Bit operations for one image.
        mean_weight_bits: Mean bits of a weight.
        versions: Versions of what decides the result.
        data_dir: Folder that the data came from; export looks there for the images of its proof.
        source: Run folder or policy file that it was given; None in results of older versions.
    """

    run: str
    model: str
    policy: str
    preprocessing: str
    data: str
    started_from: str
    reconstructed: bool
    top1: float
    top5: float
    count: int
    epochs: int
    steps: int
    size: int
    bops: int
    mean_weight_bits: float
    versions: dict[str, str]
    data_dir: str | None
    source: str | None = None

    def to_json(self) -> dict[str, Any]:
        """All fields, and the form that the size refers to."""
        return Result.to_json(self) | {"size_form": "storage"}


@dataclass(frozen=True, slots=True)
class Training:
    """How a policy's network is trained.

    Attributes:
        epochs: Epochs.
        steps_per_epoch: Steps in an epoch; None for all images once.
        batch_size: Images in a step.
        learning_rate: Peak rate of the weights; None for the one that suits the start.
        reconstruct: Begin by fitting the quantized layers to the float ones.
        distill: Learn from the float model's outputs as well.
        distill_weight: Share of the float model's outputs in the loss.
        frozen_statistics_epochs: Last epochs in which BatchNorm uses its moving statistics.
        seed: Of data order and augmentation.
    """

    epochs: int
    steps_per_epoch: int | None
    batch_size: int
    learning_rate: float | None
    reconstruct: bool
    distill: bool
    distill_weight: float
    frozen_statistics_epochs: int | None
    seed: int


def finetune(
    source: str | Path,
    target: str,
    *,
    out: str | Path | None = None,
    model: str | None = None,
    data_dir: str | Path | None = None,
    weights: str | None = None,
    epochs: int = 10,
    steps_per_epoch: int | None = None,
    batch_size: int = 128,
    learning_rate: float | None = None,
    reconstruct: bool = True,
    distill: bool = True,
    distill_weight: float = 0.5,
    frozen_statistics_epochs: int | None = None,
    seed: int = 0,
    preprocessing: str | None = None,
    reporter: Reporter | None = None,
) -> FinetuneResult:
    """Train a network with the bit-widths of a policy.

    Args:
        source: Run folder of a search, or a policy file.
        target: Data set to train for.
        out: Run folder; the same call resumes it; None for the search's own, or `runs/MODEL_DATA`.
        model: Network; None for the one of the search or policy.
        data_dir: Folder that is looked in first for data.
        weights: File of float weights; "none" for random ones; None for those of the search where they fit,
            else those of a model file.
        epochs: Epochs; 0 quantizes without any training.
        steps_per_epoch: Steps in an epoch; None for all images once.
        batch_size: Images in a step.
        learning_rate: Peak rate of the weights; None is 0.005 after reconstruction and 0.01 without.
        reconstruct: Begin by fitting the quantized layers, one after the other, to those of the float model,
            where there is a trained one (tfmpq.quantization.reconstruction); it needs neither labels nor
            many images.
        distill: Learn from the float model's outputs as well, where there is a trained one.
        distill_weight: Share of the float model's outputs in the loss; with 1 the labels are not used.
        frozen_statistics_epochs: Last epochs in which BatchNorm uses its moving statistics, as the deployed
            network does; None for a fifth. With few images, take all epochs.
        seed: Of data order and augmentation.
        preprocessing: Name; None for what the network expects.
        reporter: Told about progress.

    Raises:
        UsageError: Policy, network and data do not fit, or the folder holds a run with other options.
        TfmpqError: A file is damaged.
    """
    training = Training(
        epochs, steps_per_epoch, batch_size, learning_rate, reconstruct, distill, distill_weight,
        frozen_statistics_epochs, seed,
    )  # fmt: skip
    reporter = reporter or SilentReporter()
    keras.utils.set_random_seed(seed)
    origin = Origin.of(Path(source), model)
    name = model or origin.model
    task = load_task(
        model or origin.loadable,
        target,
        data_dir=data_dir,
        weights=weights,
        preprocessing=preprocessing or (origin.preprocessing if model is None else None),
        reporter=reporter,
        name=display_name(name),
    )
    origin.policy.check_against([node.name for node in task.network.weighted], task.network.tensors)
    if origin.policy.wide:
        refuse_inexact(task.network, name)
    chosen = choose_weights(task, origin, name, weights, reconstructing=reconstruct)
    options = {
        "stage": "finetune",
        "model": name,
        "model_file": fingerprint(name),
        "target": target,
        "data": task.dataset.fingerprint,
        "policy": origin.policy.model_dump(mode="json"),
        "weights": fingerprint(weights),
        "preprocessing": task.preprocessing,
        **asdict(training),
    }
    folder = Path(out or (source if Path(source).is_dir() else default_folder(name, target)))
    stage = Stage(run_folder(folder), "finetune")
    with stage.opened(options) as finished:
        if finished is not None:
            reporter.log(f"{stage.folder} is finished; its result is shown.")
            return FinetuneResult(
                **{key: finished[key] for key in FinetuneResult.__slots__ if key in finished}
            )
        started = begin(
            task,
            origin,
            chosen,
            reconstructing=reconstruct,
            resumed=stage.path(".npz").exists(),
            reporter=reporter,
        )
        steps = _train(task, started, training, stage, reporter)
        reached = score_model(started.quantized, task.dataset.test, task.preprocessing, reporter=reporter)
        result = _result(
            task, stage, origin.policy, source, target, data_dir, epochs, steps, started, reached
        )
        stage.save_model(started.quantized)
        _keep_policy(origin.policy, stage.folder / "policy.yaml")
        write_json(stage.path(".result.json"), result.to_json())
    return result


def _train(task: Task, started: Start, training: Training, stage: Stage, reporter: Reporter) -> int:
    """Train in place and put the biases on their grid; returns the number of steps."""
    quantized = started.quantized
    trainer = QuantizedTraining(quantized.inputs[0], quantized.outputs[0])
    teacher = started.teacher if training.distill else None
    trainer.configure(distillation=teacher and Distillation(teacher, training.distill_weight))
    batches = task.batches(training.batch_size, training.seed, training.steps_per_epoch)
    steps = training.epochs * len(batches)
    rate = training.learning_rate or (_RECONSTRUCTED_RATE if started.reconstructed else _RATE)
    schedule = keras.optimizers.schedules.CosineDecay(rate, max(1, steps), alpha=0.01)
    trainer.compile(optimizer=QuantizationOptimizer(schedule), jit_compile=keras.backend.backend() == "jax")
    still = training.frozen_statistics_epochs
    if still is None:
        still = round(0.2 * training.epochs)
    train(
        trainer,
        batches,
        epochs=training.epochs,
        stage=stage,
        reporter=reporter,
        label="fine-tuning",
        frozen_statistics_epochs=min(still, training.epochs),
    )
    snap_biases(quantized, analyse(quantized, value_range(task.preprocessing)[0] < 0))
    return steps


def _keep_policy(policy: Policy, path: Path) -> None:
    if not path.exists() or load_policy(path) != policy:  # else keep comments of the user's
        save_policy(policy, path)


def _result(
    task: Task,
    stage: Stage,
    policy: Policy,
    source: str | Path,
    target: str,
    data_dir: str | Path | None,
    epochs: int,
    steps: int,
    started: Start,
    reached: Score,
) -> FinetuneResult:
    report = cost_model(task.network).report(policy.weight_bits, policy.activation_bits(task.network.tensors))
    return FinetuneResult(
        run=str(stage.folder),
        model=task.loaded.name,
        policy=str(stage.folder / "policy.yaml"),
        preprocessing=task.preprocessing,
        data=target,
        started_from=started.weights,
        reconstructed=started.reconstructed,
        top1=reached.top1,
        top5=reached.top5,
        count=reached.count,
        epochs=epochs,
        steps=steps,
        size=report.size,
        bops=report.bops,
        mean_weight_bits=report.mean_weight_bits,
        versions=versions(),
        data_dir=str(Path(data_dir).resolve()) if data_dir else None,
        source=str(Path(source)),
    )
