"""Quantization without training: a float network, calibration images, a file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tfmpq.api.export import AGREEMENT_IMAGES, WIDE_WARNING, check_export, write
from tfmpq.api.file_wishes import FileWishes, file_ends, micro_options
from tfmpq.api.form_choice import form_choice
from tfmpq.api.given import GivenModel, given_model, policy_of, refuse_other_than_model
from tfmpq.bars import reporting
from tfmpq.data.objects import model_rank, open_data
from tfmpq.data.preprocess import pixel_step, value_range
from tfmpq.errors import UsageError
from tfmpq.graph.frozen import FrozenModel
from tfmpq.methods.job_options import QuantizeOptions
from tfmpq.policy.fixed_widths import check_widths, choose_policy
from tfmpq.policy.network_cost import cost_model
from tfmpq.policy.policy import Policy
from tfmpq.progress import Reporter
from tfmpq.quantization.batch_statistics import with_fitting_statistics
from tfmpq.quantization.finished_runs import file_facts
from tfmpq.quantization.freeze import freeze, snap_biases
from tfmpq.quantization.insertion import quantize_model
from tfmpq.quantization.loss import loss_warnings
from tfmpq.quantization.reconstruction import reconstruct
from tfmpq.quantization.unchanging import unchanging_tensors, unchanging_warning
from tfmpq.results import Result
from tfmpq.scratch import Scratch
from tfmpq.tasks.fidelity import Reference
from tfmpq.tasks.image_checks import image_warnings
from tfmpq.tasks.noise import RANDOM
from tfmpq.tasks.outputs import Output
from tfmpq.tasks.sampling import drawn
from tfmpq.tasks.scoring import OutputScore, Scores, predictor, score_outputs
from tfmpq.tasks.task import CALIBRATION_IMAGES, Task, begins_trained, fused, load_task

if TYPE_CHECKING:
    from tfmpq.deploy.export import ExportReport

_RANDOM_WARNING = (
    "Ranges of activations come from random images: size and speed are those of the network, but its answers "
    "and any accuracy mean nothing. Calibrate with real images before the file is used."
)


@dataclass(frozen=True, slots=True)
class QuantizedFacts:
    """The network that was written.

    Attributes:
        top1: Top-1 on the test images of the calibration data, 0 to 1; of several outputs, in the first one
            that was scored; None where none was.
        top5: Top-5.
        count: Number of test images; 0 where none was scored.
        size: Bytes in the storage form.
        kernel_size: Bytes of packed kernels alone, as other tools count.
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
    kernel_size: int
    bops: int
    mean_weight_bits: float
    started_from: str
    reconstructed: bool
    outputs: tuple[OutputScore, ...]


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
    data: Any,
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
            of 224 pixels and has 1,000 classes.
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
    scratch = Scratch()
    network = given_model(model, scratch.path)
    _check(network, data, options)
    check_export(target)
    options.forms.require(target)
    micro_options(options.file, target)
    keras.utils.set_random_seed(0)
    dataset = None
    if not is_noise(data):
        dataset = open_data(
            data,
            validation,
            data_dir=options.data_dir,
            rank=model_rank(model),
            sampled=True,
            reporter=reporter,
        )
    task = load_task(
        network.word,
        dataset,
        weights=options.weights,
        preprocessing=options.preprocessing,
        reporter=reporter,
        name=network.name,
        trains=False,
    )
    file_ends(options.file, dataset.class_names if dataset else None, task.model)  # refused before any work
    word = data if isinstance(data, str) else task.dataset.name
    bits = choose_policy(task.network, network.recorded, weight_bits, options.activation_bits, given)
    warnings = _data_warnings(task) if dataset else (_RANDOM_WARNING,)
    real = dataset is not None and not task.loaded.new_classifier
    fitting = real and options.reconstruct is not False
    if not task.begins_trained:
        measured = with_fitting_statistics(task.model, task.calibration_images(), reporter)
        network_of_measured = fused(measured, task.preprocessing)
        task = replace(task, loaded=replace(task.loaded, model=measured), network=network_of_measured)
    quantized = _quantized(task, bits, options, real, fitting, reporter)
    report = cost_model(task.network).report(bits.weight_bits, bits.activation_bits(task.network.tensors))
    scores = _scores(task, quantized, reporter)
    reached = scores.first
    facts = QuantizedFacts(
        None if reached is None else reached.top1,
        None if reached is None else reached.top5,
        0 if reached is None else reached.count,
        report.size,
        report.kernel_size,
        report.bops,
        report.mean_weight_bits,
        options.weights or (network.recorded if task.begins_trained else "none"),
        fitting,
        scores.outputs,
    )
    path = Path(out) if out is not None else scratch.path / f"{network.name}.{target}.tflite"
    frozen = _frozen(task, quantized, bits, facts.top1, word)
    reference = _reference(task)
    written = write(
        frozen,
        path,
        target,
        FileWishes.of(
            options.file,
            form_choice(options.forms, target, frozen),
            target,
            dataset.class_names if dataset else None,
            task.model,
        ),
        reference.images,
        quantized if reached is not None and len(scores.outputs) == 1 and task.loaded.classes > 1 else None,
        reporter,
        reference,
    )
    if written.fidelity is not None:
        smallest = min((*bits.weight_bits.values(), *bits.activation_bits(task.network.tensors).values()))
        lost = loss_warnings(
            written.fidelity, smallest, quantized, task.model, task.network, reference.images
        )
        warnings = (*warnings, *lost)
    if bits.wide:
        warnings = (*warnings, WIDE_WARNING)
    if out is None:
        written.keeping(scratch)
    return PosttrainingReport(written, facts, word, warnings).keeping(*written.kept)


def _data_warnings(task: Task) -> tuple[str, ...]:
    """What is wrong with the images that ranges come from.

    Raises:
        UsageError: They do not differ at all.
    """
    train = task.dataset.train
    found = image_warnings(train.take(drawn(train, CALIBRATION_IMAGES)), task.dataset.name)
    same = unchanging_tensors(task.model, task.network, task.calibration_images())
    return (*found, *([unchanging_warning(same)] if same else []))


def _reference(task: Task) -> Reference:
    """The float network's answers to a sample of the test images."""
    images, labels = task.test_sample(AGREEMENT_IMAGES)
    outputs = tuple(np.asarray(x) for x in predictor(task.model)(images))
    known = labels if task.dataset.labelled else None
    cuts = tuple(_cut(task, name) for name in task.network.outputs)
    return Reference("float model", images, outputs, known, task.dataset.classes, cuts)


def is_noise(data: Any) -> bool:
    """Whether it is the word for images of noise."""
    return isinstance(data, str) and data == RANDOM


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


def _quantized(
    task: Task, bits: Policy, options: QuantizeOptions, real: bool, fitting: bool, reporter: Reporter
) -> keras.Model:
    model, network = task.model, task.network
    quantized = quantize_model(
        model,
        network,
        {name: (width,) for name, width in bits.weight_bits.items()},
        {name: (width,) for name, width in bits.activation_bits(network.tensors).items()},
        task.calibration_images(),
        value_range(task.preprocessing),
        pixel_step=pixel_step(task.preprocessing),
    )
    if real:
        images = task.reconstruction_images(options.calibration_images, options.views)
        reconstruct(quantized, model, network, images, reporter, kernels=fitting, views=options.views)
    snap_biases(quantized, fused(quantized, task.preprocessing))
    return quantized


def _cut(task: Task, name: str) -> float:
    """What tells two classes apart in an output of a single number: a half behind a sigmoid."""
    return 0.0 if task.network.node(name).fixed_step is None else 0.5


def _scores(task: Task, quantized: keras.Model, reporter: Reporter) -> Scores:
    """Scores of the outputs, named as in the file; none without labels."""
    if not task.dataset.labelled:
        return Scores(None, ())
    named = zip(task.network.outputs, quantized.outputs, strict=True)
    return score_outputs(
        predictor(quantized),
        [Output(name, tuple(tensor.shape[1:]), _cut(task, name)) for name, tensor in named],
        task.dataset.classes,
        [task.dataset.test],
        task.network.input_shape,
        task.preprocessing,
        reporter=reporter,
    )


def _frozen(task: Task, quantized: keras.Model, bits: Policy, top1: float | None, data: str) -> FrozenModel:
    facts = file_facts(
        task.loaded.name,
        task.preprocessing,
        task.loaded.classes,
        bits.weight_bits,
        bits.activation_bits(task.network.tensors),
        top1,
        data,
    )
    return freeze(quantized, fused(quantized, task.preprocessing), facts)
