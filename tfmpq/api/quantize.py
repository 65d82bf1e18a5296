"""Quantization without training: a float network, calibration images, a file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from tfmpq.api.export import WIDE_WARNING, check_export, write
from tfmpq.api.file_wishes import FileWishes, file_ends, micro_options
from tfmpq.api.form_choice import form_choice
from tfmpq.api.given import GivenModel, given_model, policy_of, refuse_other_than_model
from tfmpq.api.posttraining import (
    data_warnings,
    float_reference,
    frozen_network,
    is_noise,
    quantize_without_training,
    task_of,
    what_was_lost,
)
from tfmpq.bars import reporting
from tfmpq.errors import UsageError
from tfmpq.graph.dynamic import DYNAMIC, NO_DATA, DynamicModel
from tfmpq.methods.job_options import QuantizeOptions
from tfmpq.policy.fixed_widths import check_widths, choose_policy
from tfmpq.policy.network_cost import cost_model
from tfmpq.progress import Reporter
from tfmpq.quantization.batch_statistics import with_fitting_statistics
from tfmpq.results import Result
from tfmpq.scratch import Scratch
from tfmpq.tasks.model_outputs import outputs_of
from tfmpq.tasks.noise import RANDOM
from tfmpq.tasks.score_names import ACCURACY
from tfmpq.tasks.scoring import OutputScore, Score, Scores, predictor, score_model, score_outputs
from tfmpq.tasks.task import Task, begins_trained, fused, with_objective

if TYPE_CHECKING:
    from tfmpq.deploy.export import ExportReport

_RANDOM_WARNING = (
    "Ranges of activations come from random images: size and speed are those of the network, but its answers "
    "and any accuracy mean nothing. Calibrate with real images before the file is used."
)
_UNTRAINED_WARNING = (
    "The network has no learned weights: size and speed are those of the network, but its answers mean "
    "nothing. "
    "Give --weights FILE."
)
_NO_IMAGES = (
    "Ranges of integer activations come from images. Received: a model and no images. Give --calibrate "
    "DATA, or "
    "--activation-bits dynamic, which needs none."
)


@dataclass(frozen=True, slots=True)
class QuantizedFacts:
    """The network that was written.

    Attributes:
        score: Score on the test images of the calibration data, at most 1; of several outputs, in the first
            one that was scored; None where none was.
        score_name: What that is: `accuracy`, `label accuracy` or `explained variance`.
        top1: Top-1, 0 to 1: the accuracy; None for other scores.
        top5: Top-5.
        count: Number of test images; 0 where none was scored.
        size: Bytes in the storage form.
        bops: Bit operations for one image.
        mean_weight_bits: Mean bits of a weight.
        started_from: File of the float weights, or `none` for random ones.
        reconstructed: Whether the layers were fitted to those of the float network.
        outputs: All outputs, in the order of the file; none with random images.
    """

    top1: float | None
    top5: float | None
    count: int
    size: int
    bops: int
    mean_weight_bits: float
    started_from: str
    reconstructed: bool
    outputs: tuple[OutputScore, ...]
    score: float | None = None
    score_name: str = ACCURACY


@dataclass(frozen=True, slots=True)
class PosttrainingReport(Result, verb="quantize"):
    """A file that was made without training.

    Attributes:
        export: What was written.
        quantized: The network that was written.
        calibration: Data set that the ranges come from, or `random`.
        warnings: What to know before using the file.
    """

    export: ExportReport
    quantized: QuantizedFacts
    calibration: str
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """What an export says, and how the network was quantized; its size is that of the storage form."""
        return self.export.to_json() | {
            "calibration": self.calibration,
            "warnings": list(self.warnings),
            "quantized": asdict(self.quantized) | {"size_form": "storage"},
        }


def quantize(
    model: Any,
    data: Any = None,
    *,
    weight_bits: int | None = None,
    policy: Any = None,
    validation: Any = None,
    out: str | Path | None = None,
    options: QuantizeOptions | None = None,
    progress: bool | Reporter | None = None,
    **changes: Any,
) -> PosttrainingReport:
    """Quantize a float network without training, write it and prove the file.

    Steps of activations are those of least squared error on calibration images; kernels are fitted layer by
    layer to the float network's outputs (tfmpq.quantization.reconstruction), or rounded to the nearest
    level. Either way the means of the outputs are corrected in the biases. If a network has several
    outputs, all of them are in the file, in the order of the model.

    Args:
        model: A Keras model, which is never changed, or a built-in name, `.keras` file or `MODULE:FUNCTION`.
        data: Images to calibrate with, of which some are drawn at random: `(x, y)`, `x`, a `tf.data.Dataset`,
            a `keras.utils.PyDataset`, an iterable of batches, whose values are the model's inputs as they
            are; or a word. Labels are used only to say how many test images come out right. `random` is
            noise, with which a network needs no learned weights either; then a built-in network takes images
            of 224 pixels and has 1,000 classes. None, as with noise, where activations are `dynamic`: nothing
            is fitted then.
        weight_bits: Width of every layer's weights, 2 to 8; this or `policy`.
        policy: A `tfmpq.Policy`, its file, or what `search` returned.
        validation: Images with labels to score on, in the form of `data`; None for the test part of a word,
            or a fifth of the data.
        out: File to write; None for a temporary one that lives as long as the result.
        options: All other options.
        progress: True shows progress, False none, None only on terminals and in IPython; or a reporter.
        **changes: Single options, such as `target="storage"`; see `tfmpq.QuantizeOptions`.

    Raises:
        UsageError: There are no float weights, or not exactly one of `weight_bits` and `policy`.
        TfmpqError: As `export` does.
    """
    chosen = QuantizeOptions.of(options, changes)
    with reporting(progress) as reporter:
        return _quantize(model, data, validation, (weight_bits, policy), out, chosen, reporter)


def _quantize(
    model: Any,
    data: Any,
    validation: Any,
    widths: tuple[int | None, Any],
    out: str | Path | None,
    options: QuantizeOptions,
    reporter: Reporter,
) -> PosttrainingReport:
    weight_bits, policy = widths
    target = options.form
    refuse_other_than_model(model)
    held = None if policy is None else policy_of(policy)
    given = check_widths(weight_bits, options.activation_bits, held, target)
    dynamic = options.activation_bits == DYNAMIC or (given is not None and given.dynamic)
    if dynamic:
        options.file.require_floats()
    elif data is None:
        raise UsageError(_NO_IMAGES)
    scratch = Scratch()
    network = given_model(model, scratch.path)
    _check(network, data, options)
    check_export(target)
    options.forms.require(target)
    micro_options(options.file, target)
    keras.utils.set_random_seed(0)
    task = task_of(network, model, data, validation, options, reporter, dynamic)
    dataset = None if is_noise(data) else task.dataset
    file_ends(options.file, dataset.class_names if dataset else None, task.model)  # refused before any work
    word = data if isinstance(data, str) else task.dataset.name if data is not None else NO_DATA
    bits = choose_policy(task.network, network.recorded, weight_bits, options.activation_bits, given)
    warnings = data_warnings(task) if dataset else () if dynamic else (_RANDOM_WARNING,)
    if dynamic and not task.begins_trained:
        warnings = (*warnings, _UNTRAINED_WARNING)
    real = dataset is not None and not task.loaded.new_classifier
    fitting = real and options.reconstruct is not False
    if not task.begins_trained:
        measured = with_fitting_statistics(task.model, task.calibration_images(), reporter)
        network_of_measured = fused(measured, task.preprocessing, dynamic)
        task = replace(task, loaded=replace(task.loaded, model=measured), network=network_of_measured)
    quantized = quantize_without_training(task, bits, real, fitting, reporter)
    report = cost_model(task.network).report(bits.weight_bits, bits.activation_bits(task.network.tensors))
    scores = _scores(task, quantized, reporter)
    reached = scores.first
    facts = QuantizedFacts(
        None if reached is None else reached.top1,
        None if reached is None else reached.top5,
        0 if reached is None else reached.count,
        report.size,
        report.bops,
        report.mean_weight_bits,
        options.weights or (network.recorded if task.begins_trained else "none"),
        fitting,
        scores.outputs,
        None if reached is None else reached.value,
        ACCURACY if reached is None else reached.name,
    )
    path = Path(out) if out is not None else scratch.path / f"{network.name}.{target}.tflite"
    frozen = frozen_network(task, quantized, bits, facts.top1, word)
    reference = float_reference(task)
    written = write(
        frozen,
        path,
        target,
        FileWishes.of(
            options.file,
            (None, None) if isinstance(frozen, DynamicModel) else form_choice(options.forms, target, frozen),
            target,
            dataset.class_names if dataset else None,
            task.model,
        ),
        reference.images,
        quantized if _chooses(task, reached) else None,
        reporter,
        reference,
    )
    lost = what_was_lost(task, quantized, bits, written.fidelity, reference.images)
    warnings = (*warnings, *lost)
    if bits.wide:
        warnings = (*warnings, WIDE_WARNING)
    if out is None:
        written.keeping(scratch)
    return PosttrainingReport(written, facts, word, warnings).keeping(*written.kept)


def _check(network: GivenModel, data: Any, options: QuantizeOptions) -> None:
    if not is_noise(data) and not begins_trained(network.word, options.weights):
        raise UsageError(
            f"Quantization without training needs a trained network. Received: {network.name} without "
            f"weights. Give --weights FILE, or --calibrate {RANDOM} to try things out."
        )
    if is_noise(data) and options.reconstruct:
        raise UsageError(
            "Layers are fitted on real images. Received: --reconstruct with random ones. Leave it out, or "
            "give a data set to --calibrate."
        )


def _chooses(task: Task, reached: Score | None) -> bool:
    """Whether it is a classifier with one output, of more than one number, that was scored."""
    alone = [output.binary for output in outputs_of(task.model)] == [False]
    return alone and reached is not None and reached.top1 is not None


def _value(task: Task, quantized: keras.Model, reporter: Reporter) -> Score | None:
    """Score of labels that are no classes; None where they do not fit the network, which is said."""
    try:
        if len(quantized.outputs) > 1:
            raise UsageError("Labels that are numbers score a network with one output.")
        objective = with_objective(task).scored_by
    except UsageError as error:
        reporter.log(f"Labels are left out: {error}")
        return None
    return score_model(
        quantized, task.dataset.test, task.preprocessing, reporter=reporter, objective=objective
    )


def _scores(task: Task, quantized: keras.Model, reporter: Reporter) -> Scores:
    """Scores of the outputs, named as in the file; none without labels."""
    if not task.dataset.labelled:
        return Scores(None, ())
    outputs = outputs_of(task.model)
    if task.dataset.numeric or (len(outputs) == 1 and outputs[0].binary and task.dataset.classes > 2):
        return Scores(_value(task, quantized, reporter), ())
    return score_outputs(
        predictor(quantized),
        [replace(o, name=name) for o, name in zip(outputs_of(task.model), task.network.outputs, strict=True)],
        task.dataset.classes,
        [task.dataset.test],
        task.network.input_shape,
        task.preprocessing,
        reporter=reporter,
    )
