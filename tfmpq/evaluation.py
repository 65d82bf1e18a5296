"""Top-1 and top-5 of what is on disk: a run, a `.tflite` or a `.keras` file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfmpq.data import ImageBatches, Split, load_dataset
from tfmpq.errors import UsageError
from tfmpq.progress import Reporter, SilentReporter

BATCH = 64


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well a classifier does.

    Attributes:
        path: What was evaluated.
        data: Data set.
        split: `train`, `test` or `all`.
        count: Number of images.
        top1: Share of images whose label has the largest logit, 0 to 1.
        top5: Share whose label is among the five largest.
        quantized: Whether the evaluated network computes on integer grids.
        form: `tflite`, `keras`, `run`.
    """

    path: str
    data: str
    split: str
    count: int
    top1: float
    top5: float
    quantized: bool
    form: str

    def to_json(self) -> dict[str, Any]:
        """All fields; `float` is the negation of `quantized`."""
        return asdict(self) | {"float": not self.quantized}


@dataclass(frozen=True, slots=True)
class Score:
    """Shares of correct answers over `count` images, 0 to 1."""

    top1: float
    top5: float
    count: int


def score(
    predict: Callable[[np.ndarray], np.ndarray],
    split: Split,
    image_shape: tuple[int, int, int],
    preprocessing: str,
    limit: int | None = None,
    reporter: Reporter | None = None,
) -> Score:
    """Run a classifier over a split.

    Args:
        predict: Maps float32 images (N, height, width, channels) to logits (N, classes).
        split: Images and labels.
        image_shape: (height, width, channels) that the classifier takes.
        preprocessing: Name of the preprocessing.
        limit: Only the first images.
        reporter: Told about progress.
    """
    count = min(limit or len(split), len(split))
    reporter = reporter or SilentReporter()
    reporter.start("evaluate", count)
    batches = ImageBatches(
        split,
        BATCH,
        image_shape=image_shape,
        preprocessing=preprocessing,
        shuffle=False,
        drop_remainder=False,
    )
    first, fifth, seen = 0, 0, 0
    for index in range(-(-count // BATCH)):
        images, labels = batches[index]
        images, labels = images[: count - seen], labels[: count - seen]
        logits = np.asarray(predict(np.asarray(images, np.float32)))
        # Ties (common on an 8-bit grid) go to the lower class, as argmax does.
        order = np.argsort(-logits, axis=1, kind="stable")[:, :5]
        hits = order == np.asarray(labels)[:, None]
        first, fifth, seen = first + int(hits[:, 0].sum()), fifth + int(hits.any(1).sum()), seen + len(labels)
        reporter.advance(len(labels), {"top1": first / seen})
    reporter.finish()
    return Score(first / seen, fifth / seen, seen)


def evaluate(
    path: str | Path,
    data: str,
    *,
    data_dir: str | Path | None = None,
    split: str = "test",
    limit: int | None = None,
    preprocessing: str | None = None,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Evaluate a run folder, a `.tflite` or a `.keras` file.

    Args:
        path: A run folder stands for its fine-tuned model, or, before that, for its searched policy without
            any further training.
        data: Data set.
        data_dir: Folder that is looked in first for data.
        split: `train`, `test` or `all`.
        limit: Only the first images.
        preprocessing: Name of the preprocessing; None for the one that the run or the file records.
        reporter: Told about progress.

    Raises:
        UsageError: Unknown form, split or data set; or the preprocessing is not known.
        TfmpqError: A file is damaged.
    """
    if split not in ("train", "test", "all"):
        raise UsageError(f"A split is train, test or all. Received: {split}.")
    classifier = load_classifier(Path(path), preprocessing)
    dataset = load_dataset(data, data_dir=data_dir, reporter=reporter)
    if classifier.classes < dataset.classes:
        raise UsageError(
            f"A classifier needs an output for every class. Received: {path} with {classifier.classes} "
            f"outputs for {dataset.classes} classes of {data}. Evaluate on the data that it was trained for."
        )
    parts = {"train": [dataset.train], "test": [dataset.test], "all": [dataset.train, dataset.test]}[split]
    first, fifth, seen = 0.0, 0.0, 0
    for part in parts:
        left = None if limit is None else limit - seen
        if len(part) and left != 0:
            result = score(
                classifier.predict, part, classifier.image_shape, classifier.preprocessing, left, reporter
            )
            first, fifth = first + result.top1 * result.count, fifth + result.top5 * result.count
            seen += result.count
    if not seen:
        raise UsageError(
            f"An evaluation needs images. Received: {data}, whose {split} part is empty. Give another split."
        )
    return Evaluation(
        str(path), data, split, seen, first / seen, fifth / seen, classifier.quantized, classifier.form
    )


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """Something that maps images to logits, and what it expects."""

    predict: Callable[[np.ndarray], np.ndarray]
    image_shape: tuple[int, int, int]
    classes: int
    preprocessing: str
    quantized: bool
    form: str


def load_classifier(path: Path, preprocessing: str | None = None) -> Classifier:
    """Load whatever can be evaluated; a preprocessing that is given outweighs the recorded one."""
    if path.is_dir():
        return _from_run(path, preprocessing)
    if path.suffix == ".tflite":
        return _from_tflite(path, preprocessing)
    if path.suffix in (".keras", ".h5"):
        return _from_keras(path, preprocessing)
    raise UsageError(
        f"A run folder, a .tflite or a .keras file can be evaluated. Received: {path}. Give one of these."
    )


def _from_tflite(path: Path, preprocessing: str | None) -> Classifier:
    from tfmpq.deploy.runtime import load

    network = load(path)
    recorded = preprocessing or network.metadata.get("preprocessing")
    if recorded is None:
        raise UsageError(
            f"Pixels become inputs as in training. Received: {path}, which has no record. Give --preprocess."
        )
    return Classifier(
        network.run, network.image_shape, network.classes, recorded, network.quantized, "tflite"
    )


def _from_keras(path: Path, preprocessing: str | None) -> Classifier:
    from tfmpq.models.registry import load_model
    from tfmpq.quantize import quantize_wrappers  # registers the layers that a quantized file names

    loaded = load_model(str(path), input_shape=(0, 0, 0), classes=0)
    quantized = bool(quantize_wrappers(loaded.model))
    return _from_model(loaded.model, preprocessing or loaded.preprocessing, quantized, "keras")


def _from_run(path: Path, preprocessing: str | None) -> Classifier:
    from tfmpq.restrict import finished_model
    from tfmpq.runs import read_json

    found = finished_model(path)
    if found is None:
        raise UsageError(
            f"A run folder holds a finished search or fine-tuning. Received: {path}. Run tfmpq search first."
        )
    stage, model = found
    recorded = read_json(stage.path(".result.json"))["preprocessing"]
    return _from_model(model, preprocessing or recorded, True, "run")


def _from_model(model: Any, preprocessing: str, quantized: bool, form: str) -> Classifier:
    height, width, channels = model.input_shape[1:]
    return Classifier(
        lambda images: model.predict_on_batch(images),
        (height, width, channels),
        int(model.output_shape[-1]),
        preprocessing,
        quantized,
        form,
    )
