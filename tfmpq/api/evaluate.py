"""The score of what is on disk: a run, a `.tflite` or a `.keras` file."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfmpq.api.given import given_model
from tfmpq.api.sources import file_of
from tfmpq.bars import reporting
from tfmpq.data.dataset import Dataset, Split
from tfmpq.data.objects import model_rank, open_test
from tfmpq.errors import UsageError
from tfmpq.files import read_json
from tfmpq.models.registry import is_model_file
from tfmpq.progress import Reporter
from tfmpq.quantization.finished_runs import finished_model
from tfmpq.results import Result
from tfmpq.tasks.fitting import fitted, refuse_unknown_scaling
from tfmpq.tasks.kinds import objective_for
from tfmpq.tasks.model_outputs import outputs_of
from tfmpq.tasks.objective import Objective
from tfmpq.tasks.outputs import Output
from tfmpq.tasks.scoring import OutputScore, Predictor, predictor, score_outputs, score_values


@dataclass(frozen=True, slots=True)
class Evaluation(Result, verb="evaluate"):
    """How well a network does.

    Attributes:
        path: What was evaluated.
        data: Data set.
        split: `train`, `test` or `all`.
        count: Number of images.
        score: Mean over the images, at most 1; of several outputs, in the first one that was scored.
        score_name: What that is: `accuracy`, `label accuracy` or `explained variance`.
        top1: Share of images whose label has the largest logit, 0 to 1: the accuracy; None for other scores.
        top5: Share whose label is among the five largest.
        quantized: Whether the evaluated network computes on integer grids.
        form: `tflite`, `keras`, `run`.
        outputs: All outputs of the network, in its order.
    """

    path: str
    data: str
    split: str
    count: int
    score: float
    score_name: str
    top1: float | None
    top5: float | None
    quantized: bool
    form: str
    outputs: tuple[OutputScore, ...]

    def to_json(self) -> dict[str, Any]:
        """All fields; `float` is the negation of `quantized`."""
        return Result.to_json(self) | {"float": not self.quantized}


def evaluate(
    subject: Any,
    data: Any,
    *,
    data_dir: str | Path | None = None,
    split: str = "test",
    limit: int | None = None,
    preprocessing: str | None = None,
    progress: bool | Reporter | None = None,
) -> Evaluation:
    """Evaluate a Keras model, a run, a `.tflite` or a `.keras` file, or the result that stands for one.

    Of several outputs, each is scored that gives an image one row of numbers, one for every class at least.

    Args:
        subject: A run stands for its fine-tuned model, or, before that, for its searched policy without any
            further training.
        data: Images with labels: a word, or an object, all of whose images are taken.
        data_dir: Folder that is looked in first for data.
        split: Of a word: `train`, `test` or `all`.
        limit: Only so many images, a fixed random sample.
        preprocessing: Name of the preprocessing; None for the one that the run or the file records. A user's
            own arrays are inputs as they are.
        progress: True shows progress, False none, None only on terminals and in IPython; or a reporter.

    Raises:
        UsageError: Unknown form, split or data set; or the preprocessing is not known, or no output is a
            classifier for the data.
        TfmpqError: A file is damaged.
    """
    if split not in ("train", "test", "all"):
        raise UsageError(f"A split is train, test or all. Received: {split}.")
    with reporting(progress) as reporter:
        if isinstance(subject, keras.Model):
            with tempfile.TemporaryDirectory() as folder:
                model = given_model(subject, Path(folder))
                classifier = replace(load_classifier(Path(model.word), preprocessing, data), name=model.name)
        else:
            path = file_of(subject, _SUBJECTS)
            classifier = load_classifier(path, preprocessing, data)
        rank = model_rank(subject)
        dataset = open_test(data, data_dir=data_dir, rank=rank, reporter=reporter)
        return _evaluate(classifier, data, dataset, split, limit, reporter)


_SUBJECTS = (
    "A Keras model, a run folder, a .tflite or .keras file, or the result that stands for one is evaluated."
)


def _evaluate(
    classifier: Classifier, data: Any, dataset: Dataset, split: str, limit: int | None, reporter: Reporter
) -> Evaluation:
    if not dataset.labelled:
        raise UsageError(
            f"A score needs labels. Received: {dataset.name}, images alone. Give (images, labels)."
        )
    split = split if dataset.seen is None else "test"
    dataset = fitted(dataset, classifier.image_shape)
    parts = {"train": [dataset.train], "test": [dataset.test], "all": [dataset.train, dataset.test]}[split]
    word = data if isinstance(data, str) else dataset.name
    if not any(len(part) for part in parts):
        raise UsageError(
            f"An evaluation needs images. Received: {word}, whose {split} part is empty. Give another split."
        )
    objective = _objective(classifier, dataset, parts)
    if objective is None:
        _refuse_unfit(classifier.name, word, classifier, dataset.classes)
    refuse_unknown_scaling(dataset, classifier.preprocessing)
    asked = classifier.preprocessing if dataset.seen is None or classifier.asked else "none"
    where = (parts, classifier.image_shape, asked)
    if objective is not None:
        first = score_values(lambda x: classifier.predict(x)[0], *where, objective, limit, reporter)
        outputs: tuple[OutputScore, ...] = ()
    else:
        scores = score_outputs(
            classifier.predict, classifier.outputs, dataset.classes, *where, limit, reporter
        )
        assert scores.first is not None  # noqa: S101 narrowed for the type checker; there are images
        first, outputs = scores.first, scores.outputs
    return Evaluation(
        classifier.name,
        word,
        split,
        first.count,
        first.value,
        first.name,
        first.top1,
        first.top5,
        classifier.quantized,
        classifier.form,
        outputs,
    )


def _objective(classifier: Classifier, dataset: Dataset, parts: Sequence[Split]) -> Objective | None:
    """What scores a network whose labels are no classes; None for a classifier.

    Raises:
        UsageError: Labels are numbers, and the network has several outputs or one of another shape.
    """
    if len(classifier.outputs) == 1:
        output, labels = classifier.outputs[0], np.concatenate([part.labels for part in parts])
        if dataset.numeric or (output.binary and dataset.classes > 2):
            return objective_for(output, labels, dataset.classes)
    elif dataset.numeric:
        raise UsageError(
            "Labels that are numbers score a network with one output. Received: "
            f"{classifier.name} with {len(classifier.outputs)}. Evaluate a model of the output alone."
        )
    return None


def _refuse_unfit(path: str | Path, data: str, classifier: Classifier, classes: int) -> None:
    """Refuse a network none of whose outputs is a classifier for the data, before any of it is run."""
    obstacles = [(output.name, output.obstacle(classes)) for output in classifier.outputs]
    if all(obstacle for _, obstacle in obstacles):
        found = "; ".join(f"output {name} with {obstacle}" for name, obstacle in obstacles)
        raise UsageError(
            f"A classifier gives a number for every class. Received: {path} for {data}: {found}. "
            "Evaluate on the data that it was trained for."
        )


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """Something that maps images to logits in one of its outputs, and what it expects.

    Attributes:
        name: What it is called: a path, or the name of a model object.
        predict: The network.
        image_shape: (height, width, channels) that it takes.
        outputs: What it gives.
        preprocessing: Name of the preprocessing.
        quantized: Whether it computes on integer grids.
        form: `tflite`, `keras` or `run`.
        asked: Whether the preprocessing was asked for in the call.
    """

    name: str
    predict: Predictor
    image_shape: tuple[int, int, int]
    outputs: tuple[Output, ...]
    preprocessing: str
    quantized: bool
    form: str
    asked: bool


def load_classifier(path: Path, preprocessing: str | None = None, data: Any = "") -> Classifier:
    """Load whatever can be evaluated; a preprocessing that is given outweighs the recorded one.

    Args:
        path: Run folder, `.tflite` or `.keras` file.
        preprocessing: Name, or None.
        data: What it will be given: objects need no preprocessing.
    """
    if is_model_file(str(path)):
        return _from_keras(path, preprocessing)
    if path.is_dir():
        return _from_run(path, preprocessing)
    if path.suffix == ".tflite":
        return _from_tflite(path, preprocessing, isinstance(data, str))
    raise UsageError(
        "A run folder, a .tflite file or a model (.keras, .h5, SavedModel) can be evaluated. "
        f"Received: {path}. Give one of these."
    )


def _from_tflite(path: Path, preprocessing: str | None, is_word: bool) -> Classifier:
    from tfmpq.deploy.runtime.interpreter import load

    network = load(path)
    recorded = preprocessing or network.metadata.get("preprocessing")
    if recorded is None and is_word:
        raise UsageError(
            f"Pixels become inputs as in training. Received: {path}, which has no record. Give --preprocess."
        )
    return Classifier(
        str(path),
        network.run_all,
        network.image_shape,
        network.outputs,
        recorded or "none",
        network.quantized,
        "tflite",
        preprocessing is not None,
    )


def _from_keras(path: Path, preprocessing: str | None) -> Classifier:
    from tfmpq.models.registry import load_model
    from tfmpq.quantizers.choices import quantize_wrappers

    loaded = load_model(str(path), input_shape=(0, 0, 0), classes=0, several_outputs=True)
    quantized = bool(quantize_wrappers(loaded.model))
    return _from_model(path, loaded.model, loaded.preprocessing, preprocessing, quantized, "keras")


def _from_run(path: Path, preprocessing: str | None) -> Classifier:

    found = finished_model(path)
    if found is None:
        raise UsageError(
            f"A run folder holds a finished search or fine-tuning. Received: {path}. Run tfmpq search first."
        )
    stage, model = found
    recorded = read_json(stage.path(".result.json"))["preprocessing"]
    return _from_model(path, model, recorded, preprocessing, True, "run")


def _from_model(
    path: Path, model: Any, recorded: str, asked: str | None, quantized: bool, form: str
) -> Classifier:
    height, width, channels = model.input_shape[1:]
    outputs = outputs_of(model)
    return Classifier(
        str(path),
        predictor(model),
        (height, width, channels),
        outputs,
        asked or recorded,
        quantized,
        form,
        asked is not None,
    )
