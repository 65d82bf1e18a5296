"""Proof of a `.tflite` that lies on disk against the run that it is said to come from."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfmpq.data import ImageBatches, load_dataset
from tfmpq.deploy.proof.verified_layers import VerifiedLayer, verified_layers
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.graph.containers import DELEGATED, TARGETS, WIDE_TARGET, Target
from tfmpq.graph.frozen import FrozenModel
from tfmpq.progress import Reporter, SilentReporter
from tfmpq.quantization.finished_runs import Finetuned
from tfmpq.results import Result

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
            model chooses; XNNPACK executes it.
        builtin_agreement: The same under LiteRT's own kernels, which round otherwise, of the file as it is;
            over the first 128 images.
        exact: Share of logits that are the trained model's, on the output's grid.
        off_by_one: Share of logits that are one step of that grid off.
        off_by_more: Share of logits that are further off.
        worst: Largest distance, in steps.
    """

    images: int
    agreement: float
    builtin_agreement: float
    exact: float
    off_by_one: float
    off_by_more: float
    worst: int


@dataclass(frozen=True, slots=True)
class FileVerification(Result):
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


def verify(
    path: str | Path,
    against: str | Path,
    *,
    data: str | None = None,
    data_dir: str | Path | None = None,
    limit: int = MIN_IMAGES,
    reporter: Reporter | None = None,
) -> FileVerification:
    """Prove that a file is the network of a run, and that the runtime computes what was trained.

    Integers, scales and biases are read from the file and compared; every operator is recomputed in float64
    from the runtime's own inputs, under XNNPACK and under LiteRT's own kernels; answers to real images are
    compared with the trained model's. The runtime works in a child process.

    Args:
        path: A `.tflite`.
        against: Run folder of the fine-tuning that it comes from.
        data: Data set of the images; None for the one that was trained on. The test split is taken.
        data_dir: Folder that is looked in first for data.
        limit: Most images whose answers are compared.
        reporter: Told about progress.

    Raises:
        UsageError: The run is not fine-tuned, or the data set is unknown.
        TfmpqError: The file is damaged or another network, the runtime refuses it or answers it with wrong
            numbers, or LiteRT is missing.
    """
    try:
        from tfmpq.deploy.conversion.topology import deployable
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
    reporter = reporter or SilentReporter()
    finetuned = Finetuned.load(Path(against))
    frozen = finetuned.frozen()
    with reading(path):
        refuse_wrong(model, path)
        _refuse_other_network(path, model, against, deployable(frozen))
        target = _target(frozen, model)
    count, batches = _batches(finetuned, data, data_dir, limit, reporter)
    first = next(batches)
    with Sandbox(path) as sandbox:
        with reading(path):
            proof = prove(frozen, content, target, first[:_OPERATOR_IMAGES], sandbox)
            layers, limits = verified_layers(frozen, content, proof, sandbox)
        logits = None
        if proof.passed:
            reporter.start("verify", count)
            comparison = _Comparison(finetuned, frozen, content, target, sandbox)
            logits = comparison.run(itertools.chain([first], batches), reporter)
            reporter.finish()
    failures = (*proof.failures, *_answer_failures(logits))
    return FileVerification(
        not failures,
        str(path),
        str(against),
        target,
        len(content),
        hashlib.sha256(content).hexdigest(),
        proof.integers,
        proof.delegate_partitions,
        tuple(asdict(check) for check in proof.operators),
        layers,
        logits,
        failures,
        (*limits, *_notes(logits)),
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


def _target(frozen: FrozenModel, model: Any) -> Target:
    """What a file is written for: the form from which it differs least."""
    from tfmpq.deploy.conversion.topology import deployable
    from tfmpq.deploy.proof.readback import mismatches

    if frozen.wide:
        return WIDE_TARGET
    network = deployable(frozen)
    return min(TARGETS, key=lambda target: sum(1 for _ in mismatches(network, model, target)))


def _batches(
    finetuned: Finetuned,
    data: str | None,
    data_dir: str | Path | None,
    limit: int,
    reporter: Reporter,
) -> tuple[int, Iterator[np.ndarray]]:
    """How many images, and batches of them, preprocessed: float32 (N, height, width, channels)."""
    recorded = finetuned.result["data_dir"]
    folder = data_dir or (Path(recorded) if recorded else None)
    split = load_dataset(data or finetuned.options["target"], data_dir=folder, reporter=reporter).test
    height, width, channels = finetuned.model.input_shape[1:]
    batches = ImageBatches(
        split,
        _BATCH,
        image_shape=(height, width, channels),
        preprocessing=finetuned.options["preprocessing"],
        shuffle=False,
        drop_remainder=False,
    )
    count = min(limit, len(split))
    if not count:
        raise UsageError(
            f"A proof needs images. Received: {data or finetuned.options['target']}, whose test part is "
            "empty. Give another --data."
        )
    return count, (
        np.asarray(batches[index][0], np.float32)[: count - index * _BATCH]
        for index in range(-(-count // _BATCH))
    )


class _Comparison:
    """The file's answers and the trained model's, image after image."""

    def __init__(
        self, finetuned: Finetuned, frozen: FrozenModel, content: bytes, target: Target, sandbox: Sandbox
    ) -> None:
        from tfmpq.deploy.conversion.specialize import specialize

        self.model, self.sandbox, self.content = finetuned.model, sandbox, content
        self.fast = content if target in DELEGATED else specialize(content)
        self.entry, self.leaving = frozen.layers[0].grid, frozen.layers[-1].grid

    def run(self, batches: Iterable[np.ndarray], reporter: Reporter) -> Logits:
        """Compare all images; LiteRT's own kernels, which are slow, answer the first ones only."""
        agreed: list[np.ndarray] = []
        own_agreed: list[np.ndarray] = []
        distances: list[np.ndarray] = []
        for images in batches:
            trained = np.asarray(self.model.predict_on_batch(images))
            codes = self._codes(self.fast, images, "default")
            agreed.append(_agreeing(codes, trained))
            distances.append(np.abs(codes - self.leaving.quantize(trained).astype(np.int64)))
            if len(own_agreed) < _BUILTIN_BATCHES:
                own_agreed.append(_agreeing(self._codes(self.content, images, "builtin"), trained))
            reporter.advance(len(images))
        distance = np.concatenate(distances)
        return Logits(
            len(distance),
            float(np.concatenate(agreed).mean()),
            float(np.concatenate(own_agreed).mean()),
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
    if logits and round((1 - logits.agreement) * logits.images) > max(1, (1 - MIN_TOP1) * logits.images):
        yield (
            f"the file chooses the class of the trained model on {logits.agreement:.2%} of {logits.images} "
            f"images, not on {MIN_TOP1:.1%}"
        )


def _notes(logits: Logits | None) -> Iterator[str]:
    if logits and logits.images < MIN_IMAGES:
        yield f"{logits.images} images were compared; the agreement is meant for {MIN_IMAGES} or more"
