"""What a file is proved against: a fine-tuned run, or the float model that it was made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfmpq.data import ImageBatches, load_dataset
from tfmpq.data.preprocess import preprocess
from tfmpq.errors import UsageError
from tfmpq.graph.frozen import FrozenModel
from tfmpq.models.registry import load_model
from tfmpq.progress import Reporter
from tfmpq.quantization.finished_runs import Finetuned
from tfmpq.tasks.calibration import RANDOM, random_images

_BATCH = 64


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What a file is compared with.

    Attributes:
        model: Keras model whose answers count.
        frozen: The network that the file has to hold.
        preprocessing: Name of the preprocessing.
        data: Data set whose test images are taken by default.
        data_dir: Folder to look in first for it.
        judged: Whether answers have to agree with the model's.
        failures: What is wrong already.
        notes: What to know.
    """

    model: keras.Model
    frozen: FrozenModel
    preprocessing: str
    data: str
    data_dir: str | Path | None
    judged: bool
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def _of_run(run: Path, data_dir: str | Path | None) -> Reference:
    finetuned = Finetuned.load(run)
    recorded = finetuned.result["data_dir"]
    return Reference(
        finetuned.model,
        finetuned.frozen(),
        finetuned.options["preprocessing"],
        finetuned.options["target"],
        data_dir or (Path(recorded) if recorded else None),
        True,
    )


def _of_model(
    spec: str, weights: str | None, file: Any, core: bytes, path: str | Path, data_dir: str | Path | None
) -> Reference:
    """A float model, and the network in the file, if it is that model's.

    Raises:
        UsageError: The model cannot be loaded, or the file does not say how its inputs were made.
        TfmpqError: The file holds another network.
    """
    from tfmpq.deploy.proof.from_model import match_failures, network_in_file
    from tfmpq.deploy.tflite.flatbuffer import read_model, reading
    from tfmpq.deploy.tflite.metadata import read_facts

    facts = read_facts(file, path)
    if not isinstance(facts.get("preprocessing"), str) or not isinstance(facts.get("classes"), int):
        raise UsageError(
            f"A file is compared with a model by what it records. Received: {path}, which has no record. "
            "Give a file of tfmpq export."
        )
    graph = read_model(core, path).subgraphs[0]
    with reading(path):
        height, width, channels = (int(size) for size in graph.tensors[int(graph.inputs[0])].shape[1:])
    loaded = load_model(
        spec,
        input_shape=(height, width, channels),
        classes=facts["classes"],
        weights=weights,
        several_outputs=True,
    )
    with reading(path):
        frozen, matches = network_in_file(loaded.model, facts["preprocessing"], facts, core)
    worst = min(matches, key=lambda match: match.correlation)
    note = (
        f"weights are compared with the float model's: least correlation {worst.correlation:.3f}, in layer "
        f"{worst.name} of {worst.bits} bits; agreement is with the float model and is not judged"
    )
    data = str(facts.get("data", RANDOM))
    return Reference(
        loaded.model,
        frozen,
        facts["preprocessing"],
        data,
        data_dir,
        False,
        tuple(match_failures(matches)),
        (note,),
    )


def reference_for(
    against: str | Path,
    weights: str | None,
    data_dir: str | Path | None,
    file: Any,
    core: bytes,
    path: str | Path,
) -> Reference:
    """What a file is compared with.

    Args:
        against: Run folder, or a float model: built-in name, file or `MODULE:FUNCTION`.
        weights: File of a model's float weights; None for those that it has.
        data_dir: Folder that is looked in first for data.
        file: The `.tflite` in object form.
        core: Its network proper.
        path: The file.

    Raises:
        UsageError: The run is not fine-tuned, or the model cannot be loaded.
        TfmpqError: The file holds another network.
    """
    folder = Path(against)
    if folder.is_dir() and not (folder / "saved_model.pb").exists():
        return _of_run(folder, data_dir)
    return _of_model(str(against), weights, file, core, path, data_dir)


def batches_of(
    reference: Reference,
    data: str | None,
    limit: int,
    reporter: Reporter,
) -> tuple[int, Iterator[np.ndarray]]:
    """How many images, and batches of them, preprocessed: float32 (N, height, width, channels)."""
    height, width, channels = reference.model.inputs[0].shape[1:]
    spec = data or reference.data
    if spec == RANDOM:
        noise = preprocess(
            random_images(min(limit, _BATCH), (height, width, channels)), reference.preprocessing
        )
        return len(noise), iter([noise])
    split = load_dataset(spec, data_dir=reference.data_dir, reporter=reporter).test
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
            f"A proof needs images. Received: {spec}, whose test part is empty.  Give another --data."
        )
    return count, (
        np.asarray(batches[index][0], np.float32)[: count - index * _BATCH]
        for index in range(-(-count // _BATCH))
    )
