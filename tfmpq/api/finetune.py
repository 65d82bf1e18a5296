"""Fine-tuning: train the weights of a network whose bit-widths a policy has fixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import keras

from tfmpq.api.finetune_start import Asked, opened
from tfmpq.api.given import given_model, refuse_other_than_model
from tfmpq.bars import reporting
from tfmpq.data.objects import model_rank, open_data
from tfmpq.files import read_json, write_json
from tfmpq.methods.job_options import FinetuneOptions
from tfmpq.policy.fixed_widths import refuse_inexact
from tfmpq.policy.network_cost import cost_model
from tfmpq.policy.policy import Policy, load_policy, save_policy
from tfmpq.progress import Reporter
from tfmpq.provenance import fingerprint, versions
from tfmpq.quantization.finished_runs import UNTUNED, keep_test_images
from tfmpq.quantization.freeze import snap_biases
from tfmpq.quantization.starting_point import Start, begin, choose_weights
from tfmpq.reports.drawings import Drawing, loss_drawing
from tfmpq.results import Result
from tfmpq.tasks.score_names import ACCURACY
from tfmpq.tasks.scoring import Score, score_model
from tfmpq.tasks.task import Task, fused
from tfmpq.training.compiling import compile_step, compiling
from tfmpq.training.descent import RATES, Descent, suited_rule
from tfmpq.training.distribution import run_folder
from tfmpq.training.loop import train
from tfmpq.training.optimizer import Rule
from tfmpq.training.precision import computing_in
from tfmpq.training.presets import of_fine_tuning
from tfmpq.training.run_folder import Stage
from tfmpq.training.step import Distillation, QuantizedTraining, SharpnessOptions

_RECONSTRUCTED_SHARE = 0.5
"""A reconstructed network begins close to the float one, and larger steps lead away from it first."""


@dataclass(frozen=True, slots=True)
class FinetuneResult(Result, verb="finetune"):
    """What fine-tuning reached.

    Attributes:
        run: Run folder.
        model: Network name.
        policy: The policy, which fine-tuning never changes; it lies in `policy.yaml` of the run folder.
        preprocessing: Name of the preprocessing.
        data: Data set.
        started_from: `float` (the float model of the search), `search` (the searched weights), the file of
            float weights, or the model file that holds them.
        reconstructed: Whether the weights were fitted to the float model, layer by layer, before training.
        score: How well the network as it will be deployed does on the test images, at most 1.
        score_name: What that is: `accuracy`, `label accuracy` or `explained variance`.
        top1: Top-1 on the test images, 0 to 1; None where labels are no classes.
        top5: Top-5; None likewise.
        count: Number of test images.
        epochs: Epochs of training.
        steps: Steps of training.
        size: Bytes in the storage form.
        bops: Bit operations for one image.
        mean_weight_bits: Mean bits of a weight.
        versions: Versions of what decides the result.
        data_dir: Folder that the data came from; export looks there for the images of its proof.
        source: Run folder or policy file that it was given; None in results of older versions.
        method: `qat`, `sam` or `saq`.
        saq_case: Which of SAQ's cases (arXiv 2111.12273, section 3); None for other methods.
        rho: Radius of the perturbation; None for `qat`, as the next one.
        second_gradient_every: Steps from one second gradient to the next.
    """

    run: str
    model: str
    policy: Policy
    preprocessing: str
    data: str
    started_from: str
    reconstructed: bool
    top1: float | None
    top5: float | None
    count: int
    epochs: int
    steps: int
    size: int
    bops: int
    mean_weight_bits: float
    versions: dict[str, str]
    data_dir: str | None
    source: str | None = None
    method: str = "qat"
    saq_case: int | None = None
    rho: float | None = None
    second_gradient_every: int | None = None
    score_name: str = ACCURACY
    score: float | None = None

    def to_json(self) -> dict[str, Any]:
        """All fields, the policy as the path of its file, and the form that the size refers to."""
        told = {"policy": str(Path(self.run, "policy.yaml")), "size_form": "storage"}
        return Result.to_json(self) | told

    @classmethod
    def of(cls, finished: Mapping[str, Any], folder: Path) -> FinetuneResult:
        """The result that a run folder holds."""
        known = {field.name: finished[field.name] for field in fields(cls) if field.name in finished}
        return cls(**known | {"run": str(folder), "policy": load_policy(folder / "policy.yaml")})

    def plot(self) -> Drawing:
        """The course of the loss."""
        return loss_drawing(Path(self.run), "finetune")


def finetune(
    model: Any,
    policy: Any,
    data: Any = None,
    *,
    validation: Any = None,
    out: str | Path | None = None,
    options: FinetuneOptions | None = None,
    progress: bool | Reporter | None = None,
    **changes: Any,
) -> FinetuneResult:
    """Train a network with the bit-widths of a policy: `finetune(model, policy, data)`.

    `finetune(found, data)` takes the network, the policy and the weights of a search, given as its result or
    its run folder, or the network that a policy file names.

    Args:
        model: A Keras model, which is never changed, or a built-in name, `.keras` file or `MODULE:FUNCTION`.
        policy: A `tfmpq.Policy`, a policy file, a search (its run folder or its result), or one width for all
            layers: `uniform:WEIGHTS[/ACTIVATIONS]`, such as `uniform:4` or `uniform:2/4` (see `ends`).
        data: What is trained on: `(x, y)`, `x`, a `tf.data.Dataset`, a `keras.utils.PyDataset`, an iterable
            of batches, whose values are the model's inputs as they are; or a word, such as `cifar10`.
        validation: What the result is scored on, in the form of `data`; None for the test part of a word, or
            a fifth of the data.
        out: Run folder; the same call resumes it. None for the folder of the search in `finetune(found,
            data)`; else a temporary one that lives as long as the result.
        options: All other options.
        progress: True shows progress, False none, None only on terminals and in IPython; or a reporter.
        **changes: Single options, such as `epochs=3`; see `tfmpq.FinetuneOptions`. `epochs=0` quantizes
            without any training.

    Returns:
        The trained network and its score; `export` takes it.

    Raises:
        UsageError: Policy, network and data do not fit, or the folder holds a run with other options.
        TfmpqError: A file is damaged.
    """
    if data is None:
        model, policy, data = None, model, policy
    chosen = FinetuneOptions.of(options, changes)
    with reporting(progress) as reporter, compiling(chosen.jit, reporter):
        return _finetune(Asked(model, policy, data, validation, out), chosen, reporter)


def quantize_search(run: Path, data: Any, data_dir: str | Path | None, reporter: Reporter) -> None:
    """Quantize a searched network by its policy, without training, for an export; the run folder keeps it.

    Args:
        run: Run folder of a finished search.
        data: Images that kernels are reconstructed on; None for those of the search.
        data_dir: Folder that is looked in first for data; None for that of the search.
        reporter: Told about progress.

    Raises:
        UsageError: The search is not finished, or its data are gone.
        TfmpqError: A file is damaged.
    """
    search = Stage(run, "search")
    recorded = read_json(search.path(".result.json"))["data_dir"]
    data = read_json(search.path(".json"))["proxy"] if data is None else data
    options = FinetuneOptions(epochs=0, data_dir=data_dir or recorded)
    made = _finetune(Asked(None, run, data, None, run), options, reporter, UNTUNED)
    reporter.log(
        f"{run} is not fine-tuned: its network is exported as the policy quantizes it, with "
        f"{made.score_name} {made.score:.1%} on {made.count} test images."
    )


def _finetune(
    asked: Asked, options: FinetuneOptions, reporter: Reporter, stage_name: str = "finetune"
) -> FinetuneResult:
    keras.utils.set_random_seed(options.seed)
    if asked.model is not None:
        refuse_other_than_model(asked.model)
    source = asked.source(options.ends)
    dataset = open_data(
        asked.data,
        asked.validation,
        data_dir=options.data_dir,
        rank=model_rank(asked.model),
        reporter=reporter,
    )
    folder, kept = asked.folder(source)
    given = None if asked.model is None else given_model(asked.model, folder)
    task, origin = opened(source, given, dataset, options, reporter)
    name = given.recorded if given else origin.model
    if not dataset.labelled:
        options = replace(options, distill_weight=1.0)
    origin.policy.check_against([node.name for node in task.network.weighted], task.network.tensors)
    if origin.policy.wide:
        refuse_inexact(task.network, name)
    chosen = choose_weights(task, origin, name, options.weights, reconstructing=options.reconstruct)
    target = asked.data if isinstance(asked.data, str) else dataset.name
    record = {
        "stage": "finetune",
        "model": name,
        "model_file": given.fingerprint if given else fingerprint(name),
        "target": target,
        "data": task.dataset.fingerprint,
        "policy": origin.policy.model_dump(mode="json"),
        "weights": fingerprint(options.weights),
        "preprocessing": task.preprocessing,
        **options.record(),
    }
    stage = Stage(run_folder(folder), stage_name)
    with stage.opened(record) as finished:
        if finished is not None:
            reporter.log(f"{stage.folder} is finished; its result is shown.")
            return FinetuneResult.of(finished, stage.folder).keeping(*kept, task.dataset)
        started = begin(
            task,
            origin,
            chosen,
            reconstructing=options.reconstruct,
            resumed=stage.path(".npz").exists(),
            reporter=reporter,
        )
        steps = _train(task, started, options, stage, reporter)
        reached = score_model(
            started.quantized,
            task.dataset.test,
            task.preprocessing,
            reporter=reporter,
            objective=task.scored_by,
        )
        source_name = str(source) if isinstance(source, Path) else None
        result = _result(task, stage, origin.policy, options, (source_name, target), steps, started, reached)
        stage.save_model(started.quantized)
        _keep_policy(origin.policy, stage.folder / "policy.yaml")
        if task.dataset.seen is not None:
            keep_test_images(stage, task.dataset)
        write_json(stage.path(".result.json"), result.to_json())
    return result.keeping(*kept, task.dataset)


def _train(task: Task, started: Start, options: FinetuneOptions, stage: Stage, reporter: Reporter) -> int:
    """Train in place and put the biases on their grid; returns the number of steps."""
    quantized = started.quantized
    trainer = QuantizedTraining(quantized.inputs[0], quantized.outputs[0])
    teacher = started.teacher if options.distill else None
    trainer.configure(
        _sharpness(options),
        None,
        teacher and Distillation(teacher, options.distill_weight),
        task.objective,
    )
    batches = task.batches(options.batch_size, options.seed, options.steps_per_epoch)
    steps = options.epochs * len(batches)
    rule = suited_rule(task.network, options.optimizer)
    compile_step(trainer, _descent(options, rule, steps, started.reconstructed).optimizer())
    still = options.frozen_statistics_epochs
    if still is None:
        still = round(0.2 * options.epochs)
    with computing_in(options.precision, trainer):
        train(
            trainer,
            batches,
            epochs=options.epochs,
            stage=stage,
            reporter=reporter,
            label="fine-tuning",
            frozen_statistics_epochs=min(still, options.epochs),
        )
    if not task.network.dynamic:  # else biases are floats
        snap_biases(quantized, fused(quantized, task.preprocessing))
    return steps


def _sharpness(options: FinetuneOptions) -> SharpnessOptions | None:
    return of_fine_tuning(
        options.method,
        saq_case=options.saq_case,
        rho=options.rho,
        adaptive=options.adaptive,
        norm=options.norm,
        second_gradient_every=options.second_gradient_every,
    )


def _descent(options: FinetuneOptions, rule: Rule, steps: int, reconstructed: bool) -> Descent:
    """The descent with what was given, or else what suits the rule and the start."""
    usual = RATES[rule].finetuning * (_RECONSTRUCTED_SHARE if reconstructed else 1.0)
    return Descent(options.learning_rate or usual, steps, rule, options.weight_decay)


def _keep_policy(policy: Policy, path: Path) -> None:
    if not path.exists() or load_policy(path) != policy:  # else keep comments of the user's
        save_policy(policy, path)


def _result(
    task: Task,
    stage: Stage,
    policy: Policy,
    options: FinetuneOptions,
    names: tuple[str | None, str],
    steps: int,
    started: Start,
    reached: Score,
) -> FinetuneResult:
    report = cost_model(task.network).report(policy.weight_bits, policy.activation_bits(task.network.tensors))
    source, target = names
    sharpness = _sharpness(options)
    return FinetuneResult(
        run=str(stage.folder),
        model=task.loaded.name,
        policy=policy,
        preprocessing=task.preprocessing,
        data=target,
        started_from=started.weights,
        reconstructed=started.reconstructed,
        top1=reached.top1,
        top5=reached.top5,
        score_name=reached.name,
        score=reached.value,
        count=reached.count,
        epochs=options.epochs,
        steps=steps,
        size=report.size,
        bops=report.bops,
        mean_weight_bits=report.mean_weight_bits,
        versions=versions(),
        data_dir=str(Path(options.data_dir).resolve()) if options.data_dir else None,
        source=source,
        method=options.method,
        saq_case=(options.saq_case or 3) if options.method == "saq" else None,
        rho=sharpness.radius.rho_max if sharpness else None,
        second_gradient_every=sharpness.second_gradient_every if sharpness else None,
    )
