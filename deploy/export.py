"""Export: write, read back, prove; a file that fails is not left behind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfmpq.deploy.conversion.app_file import FileOptions
from tfmpq.deploy.conversion.chosen_forms import DeviceTimes, choose_forms
from tfmpq.deploy.conversion.dynamic_form import build_dynamic
from tfmpq.deploy.conversion.keras_float import convert_float
from tfmpq.deploy.conversion.microcontroller_form import as_written
from tfmpq.deploy.conversion.specialize import specialize
from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.microcontroller.c_source import write_c_source
from tfmpq.deploy.microcontroller.options import MicroOptions
from tfmpq.deploy.microcontroller.report import MicroReport, micro_report, refuse_arena
from tfmpq.deploy.proof.assembly import assemble
from tfmpq.deploy.proof.dynamic_verify import verify_dynamic
from tfmpq.deploy.proof.interface import interface_failures, split_interface
from tfmpq.deploy.proof.verify import Verification, verify
from tfmpq.deploy.runtime.interpreter import load
from tfmpq.deploy.tflite.flatbuffer import read_model, write_model
from tfmpq.deploy.tflite.layout import bias_type, container_of
from tfmpq.deploy.tflite.metadata import with_facts, write_record
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.files import write_atomically
from tfmpq.graph.containers import DELEGATED, TARGETS, Target
from tfmpq.graph.dynamic import DYNAMIC_TARGET, DynamicModel
from tfmpq.graph.forms import CHOOSING_TARGET, FormOptions
from tfmpq.graph.frozen import FrozenModel
from tfmpq.progress import Reporter, SilentReporter
from tfmpq.results import Result
from tfmpq.tasks.fidelity import Fidelity, Reference

if TYPE_CHECKING:
    import keras

MIN_AGREEMENT = 0.95
"""Least share of images on which the file chooses the class that the trained model chooses."""


@dataclass(frozen=True, slots=True)
class ExportedLayer:
    """One layer with weights as it was written.

    Attributes:
        name: Layer name.
        operator: Row of the rule table.
        weight_bits: Trained bit-width.
        container_bits: Bits per weight in the file.
        bytes: Bytes of packed weights, scales and biases.
        reason: Why it has this container.
        scratch: Bytes that the unfolding of a convolution keeps in memory while it runs.
    """

    name: str
    operator: str
    weight_bits: int
    container_bits: int
    bytes: int
    reason: str
    scratch: int = 0


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the file and the trained model choose the same classes.

    Attributes:
        images: Number of images.
        top1: Share of images on which the `litert` form gives its largest logit to the class that the model
            chooses; the storage form is specialized to it before it is run.
        unspecialized_top1: The same of the storage form run as it is, by LiteRT's own kernels, which round
            otherwise; None for other targets.
    """

    images: int
    top1: float
    unspecialized_top1: float | None


@dataclass(frozen=True, slots=True)
class ExportReport(Result, verb="export"):
    """What was written.

    Attributes:
        path: The file.
        bytes: Its size.
        sha256: Its digest: what was proved is a file of these bytes.
        target: Its form.
        size: Sum of the layers' bytes in this form.
        layers: Layers with weights, in order.
        forms: What decided where layers have a choice of forms; None where they have none.
        verification: The proof.
        agreement: Comparison with the trained model; None if no logits were given.
        fidelity: Comparison of all outputs with the model that the file is of; None if none was given.
        microcontroller: What the file takes on a microcontroller; None for other targets.
    """

    path: str
    bytes: int
    sha256: str
    target: Target
    size: int
    layers: tuple[ExportedLayer, ...]
    forms: FormOptions | None
    verification: Verification
    agreement: Agreement | None = None
    fidelity: Fidelity | None = None
    microcontroller: MicroReport | None = None

    def to_json(self) -> dict[str, Any]:
        """All fields, and the form that the size refers to; in `layers` the container is `container`."""
        layers = [
            {"container" if key == "container_bits" else key: value for key, value in asdict(layer).items()}
            for layer in self.layers
        ]
        changed = {"layers": layers, "verification": self.verification.to_json()}
        return Result.to_json(self) | changed | {"size_form": self.target}


def export_tflite(
    frozen: FrozenModel,
    path: Path,
    target: Target = "litert",
    *,
    file: FileOptions | None = None,
    micro: MicroOptions | None = None,
    options: FormOptions | None = None,
    times: DeviceTimes | None = None,
    images: np.ndarray | None = None,
    agreement: tuple[np.ndarray, np.ndarray] | None = None,
    reference: Reference | None = None,
    reporter: Reporter | None = None,
) -> ExportReport:
    """Write a network as a packed `.tflite` and prove the written file.

    Args:
        frozen: The network.
        path: File to write; replaced only when the new one is proved.
        target: What the file is for; see `tfmpq.graph.containers`.
        file: Types, softmax and labels that are asked for; None for the network's own codes.
        micro: What is asked of a file for microcontrollers; for `tflm` only.
        options: What decides where layers have a choice of forms; None for those of the rule table.
        times: What a latency table of the device says about forms.
        images: float32 (N, height, width, channels), preprocessed, for recomputing every operator; None
            for noise.
        agreement: Images and the trained model's logits (N, classes), to be compared with the file's.
        reference: Images and outputs of the model that the file is of, to be compared with the file's; what
            is found travels in the file.
        reporter: Told about progress.

    Raises:
        UsageError: Unknown target, `path` is a folder, or the network has no such ends.
        TfmpqError: A layer has no form in a file, or the file is not what was trained (the first mismatch is
            named); no file is left behind.
    """
    if target not in TARGETS:
        raise UsageError(f"A target is one of {', '.join(TARGETS)}. Received: {target}. Choose one of them.")
    path = Path(path)
    refuse_folder(path)
    reporter = reporter or SilentReporter()
    reporter.start("export", 2)
    micro = micro or MicroOptions()
    micro.require(target)
    written = as_written(frozen, target, micro.prefer or "flash")
    core, content, fidelity = assemble(written, target, options, times, file, reference)
    measured = _microcontroller(frozen, content, core, written, images, micro) if target == "tflm" else None
    reporter.advance()
    found: list[tuple[Verification, Agreement | None]] = []

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)
        found.append(_prove(written, temporary.read_bytes(), path, target, images, agreement))

    _write(path, write)
    ((proof, agreed),) = found
    reporter.advance()
    reporter.finish()
    if micro.c_source is not None:
        arena = None if measured is None else measured.arena_bytes
        write_c_source(content, micro.c_source, path.name.split(".")[0], arena)
    layers = tuple(_exported_layers(written, target, options, times))
    size = sum(layer.bytes for layer in layers)
    digest = hashlib.sha256(content).hexdigest()
    chosen = options if target == CHOOSING_TARGET else None
    return ExportReport(
        str(path), len(content), digest, target, size, layers, chosen, proof, agreed, fidelity, measured
    )


def export_dynamic(
    frozen: DynamicModel,
    path: Path,
    images: np.ndarray | None,
    agreement: tuple[np.ndarray, np.ndarray] | None,
    reference: Reference | None,
    reporter: Reporter,
) -> ExportReport:
    """Write a network of float activations as a packed `.tflite` and prove the written file.

    Args:
        frozen: The network.
        path: File to write; replaced only when the new one is proved.
        images: float32 (N, height, width, channels), preprocessed, for recomputing every operator; None
            for noise.
        agreement: Images and the quantized model's logits (N, classes), to be compared with the file's.
        reference: Images and outputs of the float model, to be compared with the file's.
        reporter: Told about progress.

    Raises:
        UsageError: `path` is a folder.
        TfmpqError: The file is not the network; no file is left behind.
    """
    path = Path(path)
    refuse_folder(path)
    reporter.start("export", 2)
    content, fidelity = build_dynamic(frozen), None
    if reference is not None:
        fidelity = reference.compare(frozen.outputs, load(content).run_all(reference.images))
        content = with_facts(content, {"fidelity": asdict(fidelity)})
    reporter.advance()
    found: list[tuple[Verification, Agreement | None]] = []

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)
        proof = verify_dynamic(frozen, temporary.read_bytes(), images)
        _refuse_failures(path, proof.failures)
        agreed = None if agreement is None else _agreement(content, DYNAMIC_TARGET, *agreement)
        found.append((proof, agreed))

    _write(path, write)
    ((proof, agreed),) = found
    reporter.advance()
    reporter.finish()
    layers = tuple(
        ExportedLayer(
            layer.name, weights.kernel, weights.bits, weights.container, weights.stored_bytes, weights.reason
        )
        for layer in frozen.weighted
        if (weights := layer.weights) is not None
    )
    size, digest = sum(layer.bytes for layer in layers), hashlib.sha256(content).hexdigest()
    return ExportReport(
        str(path), len(content), digest, DYNAMIC_TARGET, size, layers, None, proof, agreed, fidelity
    )


def _refuse_failures(path: Path, failures: Sequence[str]) -> None:
    if failures:
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise TfmpqError(
            f"A written file has to hold and compute what was trained. Received: {path}, where "
            f"{failures[0]}{more}. The file was removed; please report the model."
        )


def _microcontroller(
    frozen: FrozenModel,
    content: bytes,
    core: bytes,
    written: FrozenModel,
    images: np.ndarray | None,
    options: MicroOptions,
) -> MicroReport:
    """Measure a file for microcontrollers, and hold it against the memory that there is."""
    report = micro_report(content, core, written, images)
    reports = {"this": report}
    if options.arena is not None and options.prefer != "ram":
        other = as_written(frozen, "tflm", "ram")
        other_core = build_tflite(other, "tflm")
        reports["--prefer ram"] = micro_report(other_core, other_core, other, images)
    refuse_arena(options.arena, reports)
    return report


def _prove(
    frozen: FrozenModel,
    written: bytes,
    path: Path,
    target: Target,
    images: np.ndarray | None,
    agreement: tuple[np.ndarray, np.ndarray] | None,
) -> tuple[Verification, Agreement | None]:
    """Verify what was written and compare its choices with the trained model's."""
    core, interface = split_interface(written, str(path))
    proof = verify(frozen, core, target, images)
    failures = list(proof.failures)
    if proof.passed and not interface.empty:
        failures += interface_failures(written, core, interface, frozen, images)
    _refuse_failures(path, failures)
    return proof, None if agreement is None else _agreement(core, target, *agreement)


def _exported_layers(
    frozen: FrozenModel, target: Target, options: FormOptions | None, times: DeviceTimes | None
) -> Iterator[ExportedLayer]:
    """How the layers with weights are written, in order."""
    choices = choose_forms(frozen, target, options, times) if options else {}
    for layer in frozen.weighted:
        weights = layer.weights
        if weights is not None:
            choice = choices.get(layer.name)
            container = choice.chosen.container if choice else container_of(frozen, layer, target)
            each = np.dtype(bias_type(frozen, layer)).itemsize
            size = container.stored_bytes(weights.integers.size, weights.scales.size, each)
            scratch = choice.chosen.scratch if choice else 0
            yield ExportedLayer(
                layer.name, layer.operator, weights.bits, container.bits, size, container.reason, scratch
            )


def _agreement(content: bytes, target: Target, images: np.ndarray, logits: np.ndarray) -> Agreement:
    """Compare choices; logits on an 8-bit grid tie often, so sharing the largest one counts."""
    choices = np.asarray(logits).argmax(1)[:, None]

    def share(file: bytes) -> float:
        found = load(file).run(np.asarray(images, np.float32))
        return float(np.mean(np.take_along_axis(found, choices, axis=1)[:, 0] == found.max(1)))

    top1 = share(content if target in DELEGATED else specialize(content))
    if top1 < MIN_AGREEMENT:
        raise TfmpqError(
            f"The file chooses the class of the trained model on at least {MIN_AGREEMENT:.0%} of the images. "
            f"Received: {top1:.1%} of {len(images)}. The file was removed; fine-tune for longer, or please "
            "report the model."
        )
    return Agreement(len(images), top1, share(content) if target == "storage" else None)


def _write(path: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill a file that takes its place at the end; nothing is left of one that fails."""
    try:
        write_atomically(path, write)
    except OSError as error:
        raise TfmpqError(
            f"A file has to be written. Received: {path} ({error.strerror}). Free some space, change the "
            "permissions or choose another path."
        ) from error


def refuse_folder(path: Path) -> None:
    """Refuse a folder where a file is to be written, before any work.

    Raises:
        UsageError: The path is a folder.
    """
    if path.is_dir():
        raise UsageError(
            f"An export is one file. Received: {path}, which is a folder. Name a file in it, for example "
            f"{path / 'model.tflite'}."
        )


def export_float(model: keras.Model, path: Path, *, metadata: Mapping[str, Any] | None = None) -> int:
    """Write a Keras model as a float32 `.tflite` with batch size 1, for comparison.

    Args:
        model: Functional model with one input; Keras has to run on TensorFlow.
        path: File to write.
        metadata: JSON-able facts that travel inside the file.

    Returns:
        Bytes written.

    Raises:
        UsageError: Keras runs on another backend.
        TfmpqError: The converter refuses the model.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise UsageError(
            f"A float export takes Keras on TensorFlow. Received: the {keras.backend.backend()} backend. "
            "Set KERAS_BACKEND=tensorflow."
        )
    converted = read_model(convert_float(model), "the converter's graph")
    write_record(converted, metadata or {}, {})
    content = write_model(converted)

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    _write(Path(path), write)
    return len(content)
