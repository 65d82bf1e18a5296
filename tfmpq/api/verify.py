"""Proof of a `.tflite` that lies on disk against the run that it is said to come from."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tfmpq.api.dynamic_proof import prove_dynamic
from tfmpq.api.proof_reference import batches_of, reference_for
from tfmpq.api.sources import file_of
from tfmpq.bars import reporting
from tfmpq.deploy.proof.verified_layers import VerifiedLayer, verified_layers
from tfmpq.errors import TfmpqError
from tfmpq.graph.containers import DELEGATED, TARGETS, WIDE_TARGET, Target
from tfmpq.graph.dynamic import DynamicModel
from tfmpq.graph.frozen import FrozenModel
from tfmpq.progress import Reporter
from tfmpq.results import Result
from tfmpq.tasks.model_outputs import outputs_of

if TYPE_CHECKING:
    from tfmpq.deploy.runtime.sandbox import Sandbox

MIN_TOP1 = 0.995
"""Least share of images on which the file chooses the class that the trained model chooses."""

MIN_IMAGES = 1000
"""Images from which on that share says something; with fewer, one disagreement may be chance."""

_OPERATOR_IMAGES = 4
_BATCH = 64
_BUILTIN_BATCHES = 2


@dataclass(frozen=True, slots=True)
class Logits:
    """How far the file's answers are those of the trained model.

    Attributes:
        images: Number of real images.
        agreement: Share of images on which the file gives its largest logit to the class that the trained
            model chooses; XNNPACK executes it. None where outputs are no row of numbers, one for each class.
        builtin_agreement: The same under LiteRT's own kernels, which round otherwise, of the file as it is;
            over the first 128 images.
        exact: Share of logits that are the trained model's, on the output's grid.
        off_by_one: Share of logits that are one step of that grid off.
        off_by_more: Share of logits that are further off.
        worst: Largest distance, in steps.
    """

    images: int
    agreement: float | None
    builtin_agreement: float | None
    exact: float
    off_by_one: float
    off_by_more: float
    worst: int


@dataclass(frozen=True, slots=True)
class FileVerification(Result, verb="verify"):
    """What was found out about a file.

    Attributes:
        passed: Whether the file is the network, and the runtime computes it.
        path: The file.
        against: The run.
        target: What the file is written for.
        bytes: Its size.
        sha256: Its digest.
        integers: Weight integers that were compared.
        delegate_partitions: Partitions that XNNPACK takes; 1 is the whole graph. None if it was not executed.
        operators: Comparison of the operators by kind, under both sets of kernels.
        layers: Comparison by layer, in order of execution.
        logits: Comparison of the answers to real images; None if the operators are wrong already.
        failures: What is wrong, first mismatch first; empty if all is well.
        notes: What limits the proof.
    """

    passed: bool
    path: str
    against: str
    target: Target
    bytes: int
    sha256: str
    integers: int
    delegate_partitions: int | None
    operators: tuple[dict[str, Any], ...]
    layers: tuple[VerifiedLayer, ...]
    logits: Logits | None
    failures: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return Result.to_json(self)


def verify(
    path: Any,
    against: Any,
    *,
    weights: str | None = None,
    data: Any = None,
    data_dir: str | Path | None = None,
    limit: int = MIN_IMAGES,
    progress: bool | Reporter | None = None,
) -> FileVerification:
    """Prove that a file is the network of a run or of a model, and that the runtime computes it.

    Integers, scales and biases are read from the file and compared; every operator is recomputed in float64
    from the runtime's own inputs, under XNNPACK and under LiteRT's own kernels; answers to real images are
    compared with the trained model's. The runtime works in a child process.

    Of a file that was made of a float model without a run, the integers are the file's own: they are compared
    with the model's weights, layer by layer, and answers with those of the float model. How often these agree
    is reported, not judged, because fewer bits answer otherwise.

    Args:
        path: A `.tflite`, or what `export` returned.
        against: The fine-tuning that it comes from: its run folder, or what `finetune` returned. Or the float
            model: a Keras model, a built-in name, a file or `MODULE:FUNCTION`.
        weights: File of a model's float weights; None for those that it has.
        data: Images, as a word (its test part) or an object; None for the test images of the data that were
            trained on, or that the file records.
        data_dir: Folder that is looked in first for data.
        limit: Most images whose answers are compared.
        progress: True shows progress, False none, None only on terminals and in IPython; or a reporter.

    Raises:
        UsageError: The run is not fine-tuned, or the data set is unknown.
        TfmpqError: The file is damaged or another network, the runtime refuses it or answers it with wrong
            numbers, or LiteRT is missing.
    """
    path = file_of(path, "A file is verified: a .tflite, or what tfmpq.export returned.")
    with reporting(progress) as reporter:
        return _verify(path, against, weights, (data, data_dir, limit), reporter)


def _verify(
    path: Path,
    against: Any,
    weights: str | None,
    asked: tuple[Any, str | Path | None, int],
    reporter: Reporter,
) -> FileVerification:
    try:
        from tfmpq.deploy.conversion.topology import deployable
        from tfmpq.deploy.proof.interface import interface_failures, split_interface
        from tfmpq.deploy.proof.verify import verify as prove
        from tfmpq.deploy.runtime.sandbox import Sandbox
        from tfmpq.deploy.runtime.soundness import refuse_wrong
        from tfmpq.deploy.tflite.flatbuffer import read_file, read_model, reading
    except ModuleNotFoundError as error:
        raise TfmpqError(
            f"A proof needs LiteRT. Received: an environment without {error.name}. Run: pip install "
            "ai-edge-litert"
        ) from error
    content = read_file(path)
    model = read_model(content, path)
    core, interface = split_interface(content, str(path))
    reference = reference_for(against, weights, model, core, path, asked[:2], reporter)
    frozen = reference.frozen
    if isinstance(frozen, DynamicModel):
        found_out = prove_dynamic(path, content, frozen, reference, asked[2])
        proof = found_out.verification
        return FileVerification(
            not found_out.failures,
            str(path),
            reference.name,
            proof.target,
            len(content),
            hashlib.sha256(content).hexdigest(),
            proof.integers,
            proof.delegate_partitions,
            tuple(asdict(check) for check in proof.operators),
            found_out.layers,
            None,
            found_out.failures,
            found_out.notes,
        )
    with reading(path):
        refuse_wrong(model, path)
        inner = read_model(core, path)
        _refuse_other_network(path, inner, reference.name, deployable(frozen))
        frozen, target = _form(frozen, inner)
    count, batches = batches_of(reference, asked[2])
    first = next(batches)
    with Sandbox(path) as sandbox:
        with reading(path):
            proof = prove(frozen, core, target, first[:_OPERATOR_IMAGES], sandbox)
            layers, limits = verified_layers(frozen, core, proof, sandbox)
            found = [*reference.failures, *proof.failures]
            if not found and not interface.empty:
                images = first[:_OPERATOR_IMAGES]
                found += interface_failures(content, core, interface, frozen, images, sandbox)
        logits = None
        if not found and len(reference.model.outputs) == 1:
            reporter.start("verify", count)
            comparison = _Comparison(reference.model, frozen, core, target, sandbox)
            logits = comparison.run(itertools.chain([first], batches), reporter)
            reporter.finish()
    failures = (*found, *(_answer_failures(logits) if reference.judged else ()))
    return FileVerification(
        not failures,
        str(path),
        reference.name,
        target,
        len(content),
        hashlib.sha256(content).hexdigest(),
        proof.integers,
        proof.delegate_partitions,
        tuple(asdict(check) for check in proof.operators),
        layers,
        logits,
        failures,
        (*limits, *_notes(logits), *reference.notes),
    )


def _refuse_other_network(path: str | Path, model: Any, against: str | Path, frozen: FrozenModel) -> None:
    """Say that a file is another network; a table of its layers, which all differ, would not say it.

    Raises:
        TfmpqError: Most layers with weights have other names.
    """
    from tfmpq.deploy.tflite.flatbuffer import printable
    from tfmpq.deploy.tflite.layout import stored_layers

    held, known = [layer.name for layer in stored_layers(model)], {layer.name for layer in frozen.layers}
    others = [name for name in held if name not in known]
    missing = [layer.name for layer in frozen.weighted if layer.name not in held]
    if len(missing) + len(others) <= len(frozen.weighted) - len(missing):
        return
    raise TfmpqError(
        f"A file is compared with the run that it comes from. Received: {path}, which holds another network "
        f"than {against}: it has {printable(_few(others))}, and lacks {_few(missing)}. Name the run that the "
        "file was exported from."
    )


def _few(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"layers {', '.join(names[:3])}{rest}" if names else "no other layer"


def _form(frozen: FrozenModel, model: Any) -> tuple[FrozenModel, Target]:
    """The network as it was written, and for what: the form from which a file differs least."""
    from tfmpq.deploy.conversion.microcontroller_form import PREFERENCES, as_written
    from tfmpq.deploy.proof.readback import mismatches

    if frozen.wide:
        return frozen, WIDE_TARGET
    forms = [
        (as_written(frozen, target, prefer), target)
        for target in TARGETS
        for prefer in (PREFERENCES if target == "tflm" else PREFERENCES[:1])
    ]
    return min(forms, key=lambda form: sum(1 for _ in mismatches(form[0], model, form[1])))


class _Comparison:
    """The file's answers and the trained model's, image after image."""

    def __init__(
        self, model: keras.Model, frozen: FrozenModel, content: bytes, target: Target, sandbox: Sandbox
    ) -> None:
        from tfmpq.deploy.conversion.specialize import specialize

        self.model, self.sandbox, self.content = model, sandbox, content
        self.fast = content if target in DELEGATED else specialize(content)
        self.entry, self.leaving = frozen.layers[0].grid, frozen.layers[-1].grid
        self.chooses = outputs_of(model)[0].chooses

    def run(self, batches: Iterable[np.ndarray], reporter: Reporter) -> Logits:
        """Compare all images; LiteRT's own kernels, which are slow, answer the first ones only."""
        agreed: list[np.ndarray] = []
        own_agreed: list[np.ndarray] = []
        distances: list[np.ndarray] = []
        for images in batches:
            trained = np.asarray(self.model.predict_on_batch(images)).reshape(len(images), -1)
            codes = self._codes(self.fast, images, "default")
            agreed.append(_agreeing(codes, trained))
            distances.append(np.abs(codes - self.leaving.quantize(trained).astype(np.int64)))
            if len(own_agreed) < _BUILTIN_BATCHES:
                own_agreed.append(_agreeing(self._codes(self.content, images, "builtin"), trained))
            reporter.advance(len(images))
        distance = np.concatenate(distances)
        return Logits(
            len(distance),
            float(np.concatenate(agreed).mean()) if self.chooses else None,
            float(np.concatenate(own_agreed).mean()) if self.chooses else None,
            float((distance == 0).mean()),
            float((distance == 1).mean()),
            float((distance > 1).mean()),
            int(distance.max()),
        )

    def _codes(self, content: bytes, images: np.ndarray, kernels: str) -> np.ndarray:
        entry = self.entry.quantize(images)
        found = self.sandbox.call(
            "tfmpq.deploy.runtime.interpreter:tensor_values", content, None, entry, kernels
        )
        return next(iter(found.values())).reshape(len(images), -1).astype(np.int64)


def _agreeing(codes: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Images whose trained choice has the largest code; codes tie often, so sharing it counts."""
    chosen = np.take_along_axis(codes, trained.argmax(1)[:, None], axis=1)[:, 0]
    return chosen == codes.max(1)


def _answer_failures(logits: Logits | None) -> Iterator[str]:
    # One image may always disagree: it may lie on the border of two classes.
    if logits is None or logits.agreement is None:
        return
    if round((1 - logits.agreement) * logits.images) > max(1, (1 - MIN_TOP1) * logits.images):
        yield (
            f"the file chooses the class of the trained model on {logits.agreement:.2%} of {logits.images} "
            f"images, not on {MIN_TOP1:.1%}"
        )


def _notes(logits: Logits | None) -> Iterator[str]:
    if logits and logits.images < MIN_IMAGES:
        yield f"{logits.images} images were compared; the agreement is meant for {MIN_IMAGES} or more"
