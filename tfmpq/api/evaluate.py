"""Top-1 and top-5 of what is on disk: a run, a `.tflite` or a `.keras` file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfmpq.data import load_dataset
from tfmpq.errors import UsageError
from tfmpq.graph.fusion import producer_of
from tfmpq.progress import Reporter
from tfmpq.results import Result
from tfmpq.tasks.outputs import Output
from tfmpq.tasks.scoring import OutputScore, Predictor, predictor, score_outputs


@dataclass(frozen=True, slots=True)
class Evaluation(Result):
    """How well a classifier does.

    Attributes:
        path: What was evaluated.
        data: Data set.
        split: `train`, `test` or `all`.
        count: Number of images.
        top1: Share of images whose label has the largest logit, 0 to 1; of several outputs, in the first one
            that was scored.
        top5: Share whose label is among the five largest.
        quantized: Whether the evaluated network computes on integer grids.
        form: `tflite`, `keras`, `run`.
        outputs: All outputs of the network, in its order.
    """

    path: str
    data: str
    split: str
    count: int
    top1: float
    top5: float
    quantized: bool
    form: str
    outputs: tuple[OutputScore, ...]

    def to_json(self) -> dict[str, Any]:
        """All fields; `float` is the negation of `quantized`."""
        return Result.to_json(self) | {"float": not self.quantized}


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

    Of several outputs, each is scored that gives an image one row of numbers, one for every class at least.

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
        UsageError: Unknown form, split or data set; or the preprocessing is not known, or no output is a
            classifier for the data.
        TfmpqError: A file is damaged.
    """
    if split not in ("train", "test", "all"):
        raise UsageError(f"A split is train, test or all. Received: {split}.")
    classifier = load_classifier(Path(path), preprocessing)
    dataset = load_dataset(data, data_dir=data_dir, reporter=reporter)
    parts = {"train": [dataset.train], "test": [dataset.test], "all": [dataset.train, dataset.test]}[split]
    _refuse_unfit(path, data, classifier, dataset.classes)
    scores = score_outputs(
        classifier.predict,
        classifier.outputs,
        dataset.classes,
        parts,
        classifier.image_shape,
        classifier.preprocessing,
        limit,
        reporter,
    )
    first = scores.first
    if first is None:
        raise UsageError(
            f"An evaluation needs images. Received: {data}, whose {split} part is empty. Give another split."
        )
    return Evaluation(
        str(path),
        data,
        split,
        first.count,
        first.top1,
        first.top5,
        classifier.quantized,
        classifier.form,
        scores.outputs,
    )


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
    """Something that maps images to logits in one of its outputs, and what it expects."""

    predict: Predictor
    image_shape: tuple[int, int, int]
    outputs: tuple[Output, ...]
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
    from tfmpq.deploy.runtime.interpreter import load

    network = load(path)
    recorded = preprocessing or network.metadata.get("preprocessing")
    if recorded is None:
        raise UsageError(
            f"Pixels become inputs as in training. Received: {path}, which has no record. Give --preprocess."
        )
    return Classifier(
        network.run_all, network.image_shape, network.outputs, recorded, network.quantized, "tflite"
    )


def _from_keras(path: Path, preprocessing: str | None) -> Classifier:
    from tfmpq.models.registry import load_model
    from tfmpq.quantizers.choices import quantize_wrappers

    loaded = load_model(str(path), input_shape=(0, 0, 0), classes=0, several_outputs=True)
    quantized = bool(quantize_wrappers(loaded.model))
    return _from_model(loaded.model, preprocessing or loaded.preprocessing, quantized, "keras")


def _from_run(path: Path, preprocessing: str | None) -> Classifier:
    from tfmpq.files import read_json
    from tfmpq.quantization.finished_runs import finished_model

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
    outputs = tuple(Output(producer_of(tensor), tuple(tensor.shape[1:])) for tensor in model.outputs)
    return Classifier(predictor(model), (height, width, channels), outputs, preprocessing, quantized, form)
