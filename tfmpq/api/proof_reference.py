"""What a file is proved against: a fine-tuned run, or the float model that it was made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfmpq.api.export import data_of_proof
from tfmpq.api.given import given_model
from tfmpq.api.sources import run_of
from tfmpq.data import Dataset, ImageBatches
from tfmpq.data.objects import open_test
from tfmpq.deploy.proof.dynamic_from_model import network_in_dynamic_file
from tfmpq.deploy.proof.from_model import match_failures, network_in_file
from tfmpq.deploy.tflite.flatbuffer import read_model, reading
from tfmpq.deploy.tflite.metadata import read_facts
from tfmpq.errors import UsageError
from tfmpq.graph.dynamic import DYNAMIC, NO_DATA, DynamicModel
from tfmpq.graph.frozen import FrozenModel
from tfmpq.models.registry import load_model
from tfmpq.progress import Reporter
from tfmpq.quantization.finished_runs import Finetuned
from tfmpq.results import Result
from tfmpq.scratch import Scratch
from tfmpq.tasks.fitting import fitted, refuse_unknown_scaling
from tfmpq.tasks.noise import RANDOM, random_dataset

_BATCH = 64


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What a file is compared with.

    Attributes:
        name: What it is called.
        model: Keras model whose answers count.
        frozen: The network that the file has to hold.
        preprocessing: Name of the preprocessing.
        dataset: Data whose test images are compared.
        judged: Whether answers have to agree with the model's.
        failures: What is wrong already.
        notes: What to know.
    """

    name: str
    model: keras.Model
    frozen: FrozenModel | DynamicModel
    preprocessing: str
    dataset: Dataset
    judged: bool
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def reference_for(
    against: Any,
    weights: str | None,
    file: Any,
    core: bytes,
    path: Path,
    asked: tuple[Any, str | Path | None],
    reporter: Reporter,
) -> Reference:
    """What a file is compared with.

    Args:
        against: Run folder or the result of a fine-tuning; or a float model.
        weights: File of a model's float weights; None for those that it has.
        file: The `.tflite` in object form.
        core: Its network proper.
        path: The file.
        asked: Images, None for those of the run or those that the file records; and the folder to look in.
        reporter: Told about progress.

    Raises:
        UsageError: The run is not fine-tuned, or the model or the data cannot be loaded.
        TfmpqError: The file holds another network.
    """
    if _is_run(against):
        run = run_of(against, "A file is verified against a fine-tuning or a model.")
        finetuned = Finetuned.load(run)
        dataset = data_of_proof(finetuned, run, *asked, reporter)
        preprocessing = finetuned.options["preprocessing"]
        return Reference(
            str(run), finetuned.model, finetuned.frozen(), preprocessing, dataset, finetuned.chooses
        )
    return _of_model(against, weights, file, core, path, asked, reporter)


def _is_run(against: Any) -> bool:
    if isinstance(against, Result):
        return True
    return isinstance(against, str | Path) and Path(against).is_dir() and not _is_saved_model(Path(against))


def _is_saved_model(folder: Path) -> bool:
    return (folder / "saved_model.pb").is_file()


def _of_model(
    against: Any,
    weights: str | None,
    file: Any,
    core: bytes,
    path: Path,
    asked: tuple[Any, str | Path | None],
    reporter: Reporter,
) -> Reference:
    facts = read_facts(file, path)
    preprocessing = facts.get("preprocessing")
    if not isinstance(preprocessing, str) or not isinstance(facts.get("classes"), int):
        raise UsageError(
            f"A file is compared with a model by what it records. Received: {path}, which has no record. "
            "Give a file of tfmpq export."
        )
    with reading(path):
        graph = read_model(core, path).subgraphs[0]
        height, width, channels = (int(size) for size in graph.tensors[int(graph.inputs[0])].shape[1:])
    scratch = Scratch()  # holds the file of a model object for as long as it is read
    given = given_model(against, scratch.path)
    loaded = load_model(
        given.word,
        input_shape=(height, width, channels),
        classes=facts["classes"],
        weights=weights,
        several_outputs=True,
    )
    frozen: FrozenModel | DynamicModel
    with reading(path):
        if facts.get("activations") == DYNAMIC:
            frozen, matches = network_in_dynamic_file(loaded.model, facts, core)
        else:
            frozen, matches = network_in_file(loaded.model, preprocessing, facts, core)
    worst = min(matches, key=lambda match: match.correlation)
    note = (
        f"weights are compared with the float model's: least correlation {worst.correlation:.3f}, in layer "
        f"{worst.name} of {worst.bits} bits; agreement is with the float model and is not judged"
    )
    data, data_dir = asked
    word = facts.get("data", RANDOM) if data is None else data
    word = RANDOM if isinstance(word, str) and word == NO_DATA else word
    shape = (height, width, channels)
    if isinstance(word, str) and word == RANDOM:
        dataset = random_dataset(shape)
    else:
        rank = len(loaded.model.inputs[0].shape)
        dataset = open_test(word, data_dir=data_dir, rank=rank, reporter=reporter)
        refuse_unknown_scaling(dataset, preprocessing)
        dataset = fitted(dataset, shape)
    failures = tuple(match_failures(matches))
    return Reference(given.name, loaded.model, frozen, preprocessing, dataset, False, failures, (note,))


def batches_of(reference: Reference, limit: int) -> tuple[int, Iterator[np.ndarray]]:
    """How many images, and batches of them, preprocessed: float32 (N, height, width, channels).

    Raises:
        UsageError: There are none.
    """
    split = reference.dataset.test
    height, width, channels = reference.model.inputs[0].shape[1:]
    batches = ImageBatches(
        split,
        _BATCH,
        image_shape=(height, width, channels),
        preprocessing=reference.preprocessing,
        shuffle=False,
        drop_remainder=False,
    )
    count = min(limit, len(split))
    if not count:
        raise UsageError(
            f"A proof needs images. Received: {reference.dataset.name}, whose test part is empty. Give "
            "another --data."
        )
    return count, (
        np.asarray(batches[index][0], np.float32)[: count - index * _BATCH]
        for index in range(-(-count // _BATCH))
    )
