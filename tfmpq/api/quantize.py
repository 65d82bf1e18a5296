"""Quantization without training: a float network, calibration images, a file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from tfmpq.api.export import AGREEMENT_IMAGES, WIDE_WARNING, check_export, write
from tfmpq.data.preprocess import value_range
from tfmpq.errors import UsageError
from tfmpq.graph.containers import Target
from tfmpq.graph.frozen import FrozenModel
from tfmpq.graph.fusion import analyse
from tfmpq.graph.network import Network
from tfmpq.models.registry import display_name
from tfmpq.policy.fixed_widths import check_widths, choose_policy
from tfmpq.policy.network_cost import cost_model
from tfmpq.policy.policy import Policy
from tfmpq.progress import Reporter, SilentReporter
from tfmpq.quantization.batch_statistics import with_fitting_statistics
from tfmpq.quantization.finished_runs import file_facts
from tfmpq.quantization.freeze import freeze, snap_biases
from tfmpq.quantization.insertion import quantize_model
from tfmpq.quantization.reconstruction import affordable_images, reconstruct
from tfmpq.results import Result
from tfmpq.tasks.calibration import RANDOM, Subject, load_subject
from tfmpq.tasks.outputs import Output
from tfmpq.tasks.scoring import OutputScore, Scores, predictor, score_outputs
from tfmpq.tasks.task import CALIBRATION_IMAGES, begins_trained

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


@dataclass(frozen=True, slots=True)
class PosttrainingReport(Result):
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
    model: str,
    calibration: str,
    *,
    weight_bits: int | None = None,
    activation_bits: int | None = None,
    policy: str | Path | None = None,
    weights: str | None = None,
    target: Target = "litert",
    out: str | Path | None = None,
    reconstruct: bool | None = None,
    data_dir: str | Path | None = None,
    preprocessing: str | None = None,
    reporter: Reporter | None = None,
) -> PosttrainingReport:
    """Quantize a float network without training, write it and prove the file.

    Steps of activations are those of least squared error on calibration images; kernels are fitted layer by
    layer to the float network's outputs (tfmpq.quantization.reconstruction), or rounded to the nearest
    level. Either way the means of the outputs are corrected in the biases. If a network has several
    outputs, all of them are in the file, in the order of the model.

    Args:
        model: Built-in name, `.keras` file or `MODULE:FUNCTION`.
        calibration: Data set, whose labels are used only to say how many of its test images come out right;
            or `random` for images of noise, with which a network needs no learned weights either. Then a
            built-in network takes images of 224 pixels and has 1,000 classes.
        weight_bits: Width of every layer's weights; this or `policy`.
        activation_bits: With `weight_bits`: width of the activations but for image, outputs and grids that
            are given, 2 to 8; or 16 for all of them but the image. None for 8.
        policy: Policy file.
        weights: File of float weights; None for those of a model file.
        target: Form of the file.
        out: File to write; None for `MODEL.TARGET.tflite` here.
        reconstruct: Whether to fit the layers to those of the float network; None does so with real images.
        data_dir: Folder that is looked in first for data.
        preprocessing: Name; None for what the network expects.
        reporter: Told about progress.

    Raises:
        UsageError: There are no float weights, or not exactly one of `weight_bits` and `policy`.
        TfmpqError: As `export` does.
    """
    given = check_widths(weight_bits, activation_bits, policy, target)
    _check(model, calibration, weights, reconstruct)
    check_export(target)
    reporter = reporter or SilentReporter()
    keras.utils.set_random_seed(0)
    subject = load_subject(
        model,
        calibration,
        weights=weights,
        data_dir=data_dir,
        preprocessing=preprocessing,
        reporter=reporter,
    )
    bits = choose_policy(subject.network, model, weight_bits, activation_bits, given)
    fitting = subject.dataset is not None and reconstruct is not False and not subject.loaded.new_classifier
    if not begins_trained(model, weights):
        fitted = with_fitting_statistics(subject.loaded.model, subject.images(CALIBRATION_IMAGES), reporter)
        subject = replace(subject, loaded=replace(subject.loaded, model=fitted))
    quantized = _quantized(subject, bits, fitting, reporter)
    report = cost_model(subject.network).report(
        bits.weight_bits, bits.activation_bits(subject.network.tensors)
    )
    scores = _scores(subject, quantized, reporter)
    reached = scores.first
    facts = QuantizedFacts(
        None if reached is None else reached.top1,
        None if reached is None else reached.top5,
        0 if reached is None else reached.count,
        report.size,
        report.bops,
        report.mean_weight_bits,
        weights or (model if begins_trained(model, None) else "none"),
        fitting,
        scores.outputs,
    )
    written = write(
        _frozen(subject, quantized, bits, facts.top1, calibration),
        Path(out or f"{display_name(model)}.{target}.tflite"),
        target,
        subject.images(AGREEMENT_IMAGES, "test"),
        quantized if reached is not None and len(scores.outputs) == 1 else None,
        reporter,
    )
    warnings = () if subject.dataset else (_RANDOM_WARNING,)
    if bits.wide:
        warnings = (*warnings, WIDE_WARNING)
    return PosttrainingReport(written, facts, calibration, warnings)


def _check(
    model: str,
    calibration: str,
    weights: str | None,
    reconstructing: bool | None,
) -> None:
    if calibration != RANDOM and not begins_trained(model, weights):
        raise UsageError(
            f"Quantization without training needs a trained network. Received: {model} without weights. "
            f"Give --weights FILE, or --calibrate {RANDOM} to try things out."
        )
    if calibration == RANDOM and reconstructing:
        raise UsageError(
            "Layers are fitted on real images. Received: --reconstruct with random ones. Leave it out, or "
            "give a data set to --calibrate."
        )


def _quantized(subject: Subject, bits: Policy, fitting: bool, reporter: Reporter) -> keras.Model:
    model, network = subject.loaded.model, subject.network
    real = subject.dataset is not None and not subject.loaded.new_classifier
    images = subject.images(affordable_images(network) if real else CALIBRATION_IMAGES)
    quantized = quantize_model(
        model,
        network,
        {name: (width,) for name, width in bits.weight_bits.items()},
        {name: (width,) for name, width in bits.activation_bits(network.tensors).items()},
        images[:CALIBRATION_IMAGES],
        value_range(subject.preprocessing),
    )
    if real:
        reconstruct(quantized, model, network, images, reporter, kernels=fitting)
    snap_biases(quantized, _analysed(subject, quantized))
    return quantized


def _analysed(subject: Subject, quantized: keras.Model) -> Network:
    return analyse(quantized, value_range(subject.preprocessing)[0] < 0)


def _scores(subject: Subject, quantized: keras.Model, reporter: Reporter) -> Scores:
    """Scores of the outputs, named as in the file; none without labels."""
    if subject.dataset is None:
        return Scores(None, ())
    named = zip(subject.network.outputs, quantized.outputs, strict=True)
    return score_outputs(
        predictor(quantized),
        [Output(name, tuple(tensor.shape[1:])) for name, tensor in named],
        subject.dataset.classes,
        [subject.dataset.test],
        subject.network.input_shape,
        subject.preprocessing,
        reporter=reporter,
    )


def _frozen(
    subject: Subject, quantized: keras.Model, bits: Policy, top1: float | None, calibration: str
) -> FrozenModel:
    loaded = subject.loaded
    facts = file_facts(
        loaded.name,
        subject.preprocessing,
        loaded.classes,
        bits.weight_bits,
        bits.activation_bits(subject.network.tensors),
        top1,
        calibration,
    )
    return freeze(quantized, _analysed(subject, quantized), facts)
