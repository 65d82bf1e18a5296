"""Fine-tuning: train the weights of a network whose bit-widths a policy has fixed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from tfmpq.data.preprocess import value_range
from tfmpq.errors import UsageError
from tfmpq.evaluation import score
from tfmpq.freeze import snap_biases
from tfmpq.graph import analyse
from tfmpq.loop import train
from tfmpq.models.registry import display_name, is_users_code
from tfmpq.optimizer import QuantizationOptimizer
from tfmpq.policy import Policy, load_policy, save_policy
from tfmpq.prepare import Task, begins_trained, fingerprint, is_trained, load_task, versions
from tfmpq.progress import Reporter, SilentReporter
from tfmpq.quantize import quantize_model
from tfmpq.restrict import restrict
from tfmpq.runs import Stage, default_folder, load_keras, read_json, write_json
from tfmpq.training import Distillation, QuantizedTraining


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """What fine-tuning reached.

    Attributes:
        run: Run folder.
        model: Network name.
        policy: Path of the policy, which fine-tuning never changes.
        preprocessing: Name of the preprocessing.
        data: Data set.
        started_from: `search`, the file of float weights, or the model file that holds them.
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
    """

    run: str
    model: str
    policy: str
    preprocessing: str
    data: str
    started_from: str
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

    def to_json(self) -> dict[str, Any]:
        """All fields, and the form that the size refers to."""
        return {name: getattr(self, name) for name in self.__slots__} | {"size_form": "storage"}


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
        epochs: Epochs.
        steps_per_epoch: Steps in an epoch; None for all images once.
        batch_size: Images in a step.
        learning_rate: Peak rate of the weights; None is 0.01.
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
    reporter = reporter or SilentReporter()
    keras.utils.set_random_seed(seed)
    origin = _Origin.of(Path(source), model)
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
    searched = _searched_model(task, origin, name, weights)
    options = {
        "stage": "finetune",
        "model": name,
        "model_file": fingerprint(name),
        "target": target,
        "data": task.dataset.fingerprint,
        "policy": origin.policy.model_dump(mode="json"),
        "weights": fingerprint(weights),
        "epochs": epochs,
        "steps_per_epoch": steps_per_epoch,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "distill": distill,
        "distill_weight": distill_weight,
        "frozen_statistics_epochs": frozen_statistics_epochs,
        "seed": seed,
        "preprocessing": task.preprocessing,
    }
    out = Path(out or (source if Path(source).is_dir() else default_folder(name, target)))
    stage = Stage(out, "finetune")
    with stage.opened(options) as finished:
        if finished is not None:
            reporter.log(f"{out} is finished; its result is shown.")
            return FinetuneResult(**{key: finished[key] for key in FinetuneResult.__slots__})
        quantized, teacher = _start(task, origin, name, weights, searched)
        trainer = QuantizedTraining(quantized.inputs[0], quantized.outputs[0])
        trainer.configure(
            distillation=Distillation(teacher, distill_weight) if distill and teacher is not None else None
        )
        batches = task.batches(batch_size, seed, steps_per_epoch)
        steps = epochs * len(batches)
        schedule = keras.optimizers.schedules.CosineDecay(learning_rate or 0.01, max(1, steps), alpha=0.01)
        trainer.compile(
            optimizer=QuantizationOptimizer(schedule), jit_compile=keras.backend.backend() == "jax"
        )
        still = frozen_statistics_epochs
        if still is None:
            still = round(0.2 * epochs)
        train(trainer, batches, epochs=epochs, stage=stage, reporter=reporter, label="fine-tuning",
              frozen_statistics_epochs=min(still, epochs))  # fmt: skip
        snap_biases(quantized, analyse(quantized, value_range(task.preprocessing)[0] < 0))
        result = _finish(
            task, stage, quantized, origin, name, weights, target, data_dir, epochs, steps, reporter
        )
        write_json(stage.path(".result.json"), result.to_json())
    return result


@dataclass(frozen=True, slots=True, eq=False)
class _Origin:
    """Where fine-tuning begins: a policy, and the search that it came from, if any.

    Attributes:
        policy: The policy.
        model: Network as the search was asked for it.
        loadable: Network as it can be loaded without importing code that the user has not named in this call.
        preprocessing: That of the search.
        search: The search.
    """

    policy: Policy
    model: str
    loadable: str
    preprocessing: str | None
    search: Stage | None

    @classmethod
    def of(cls, source: Path, model: str | None) -> _Origin:
        if source.is_dir():
            stage = Stage(source, "search")
            if not stage.path(".result.json").exists():
                raise UsageError(
                    f"Fine-tuning begins with a finished search or a policy. Received: {source}, unfinished. "
                    "Finish tfmpq search with this --out."
                )
            asked = read_json(stage.path(".json"))
            policy, name = load_policy(source / "policy.yaml"), asked["model"]
            loadable = str(stage.path(".float.keras")) if is_users_code(name) else name
            return cls(policy, name, loadable, asked["preprocessing"], stage)
        policy = load_policy(source)
        # A policy may come from somebody else, and code is imported only where the user types its name.
        if model is None and is_users_code(policy.model):
            raise UsageError(
                "A policy alone stands for a built-in network or a model file. "
                f"Received: {source} of '{policy.model}', and no model. Give --model {policy.model}."
            )
        return cls(policy, policy.model, policy.model, None, None)


def _searched_model(task: Task, origin: _Origin, model: str, weights: str | None) -> keras.Model | None:
    """The searched model if fine-tuning begins with its weights; None if it begins with float weights.

    Raises:
        UsageError: There are no weights to begin with.
    """
    if weights is not None:
        return None
    if origin.search is not None:
        searched = origin.search.load_model()
        shapes = [(m.input_shape, m.output_shape) for m in (searched, task.model)]
        if shapes[0] == shapes[1]:
            return searched
    if not begins_trained(model, weights):
        raise UsageError(
            "Fine-tuning needs weights to start from. Received: none that fit this data set. "
            "Give --weights FILE, or --weights none for random ones."
        )
    return None


def _start(
    task: Task, origin: _Origin, model: str, weights: str | None, searched: keras.Model | None
) -> tuple[keras.Model, keras.Model | None]:
    """The quantized model to train, and the float model to learn from."""
    if searched is not None and origin.search is not None:
        asked = read_json(origin.search.path(".json"))
        # The float model of the search can teach only what it has learned: the same images.
        teaches = asked["float_is_trained"] and asked["data"] == task.dataset.fingerprint
        teacher = load_keras(origin.search.path(".float.keras")) if teaches else None
        return restrict(searched, origin.policy), teacher
    bits = origin.policy.weight_bits
    activations = origin.policy.activation_bits(task.network.tensors)
    quantized = quantize_model(
        task.model,
        task.network,
        {name: (bits[name],) for name in bits},
        {name: (value,) for name, value in activations.items()},
        task.calibration_images(),
        value_range(task.preprocessing),
    )
    return quantized, task.model if is_trained(task, model, weights, 0) else None


def _finish(
    task: Task,
    stage: Stage,
    quantized: keras.Model,
    origin: _Origin,
    model: str,
    weights: str | None,
    target: str,
    data_dir: str | Path | None,
    epochs: int,
    steps: int,
    reporter: Reporter,
) -> FinetuneResult:
    """Evaluate, write the model and the policy that it has, and say what was reached."""
    reached = score(
        lambda images: quantized.predict_on_batch(images),
        task.dataset.test,
        task.network.input_shape,
        task.preprocessing,
        reporter=reporter,
    )
    costs = task.network.cost_model()
    activations = origin.policy.activation_bits(task.network.tensors)
    report = costs.report(origin.policy.weight_bits, activations)
    stage.save_model(quantized)
    policy_file = stage.folder / "policy.yaml"
    if (
        not policy_file.exists() or load_policy(policy_file) != origin.policy
    ):  # else keep comments of the user's
        save_policy(origin.policy, policy_file)
    return FinetuneResult(
        run=str(stage.folder),
        model=task.loaded.name,
        policy=str(stage.folder / "policy.yaml"),
        preprocessing=task.preprocessing,
        data=target,
        started_from=weights or ("search" if origin.search else model),
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
    )
