"""Reading weight arrays out of the HDF5 files that Keras 2 and Keras 3 write; no code of a file is run."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfmpq.errors import TfmpqError

_MOST_ELEMENTS = 2**31
"""More elements than any array of an image classifier has: a damaged or hostile header."""


@dataclass(frozen=True, slots=True)
class LayerArrays:
    """The arrays of one layer, in the order in which Keras keeps them.

    Attributes:
        name: Name of the layer in the file.
        arrays: Its weights.
    """

    name: str
    arrays: tuple[np.ndarray, ...]


def read_keras(path: Path) -> list[LayerArrays]:
    """Read the weights inside a `.keras` file.

    Raises:
        TfmpqError: The file is damaged or not of that kind.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read("model.weights.h5")
    except Exception as error:
        raise _unreadable(path) from error
    return _read(path, io.BytesIO(content))


def read_h5(path: Path) -> list[LayerArrays]:
    """Read a `.weights.h5` of Keras 3, or a `.h5` of Keras 2 with a whole model or its weights.

    Raises:
        TfmpqError: The file is damaged or not of that kind.
    """
    return _read(path, path)


def _read(path: Path, source: Any) -> list[LayerArrays]:
    import h5py

    try:
        with h5py.File(source, "r") as file:
            root = file.get("model_weights", file)
            layers = list(_keras2(root) if "layer_names" in root.attrs else _keras3(file))
    except Exception as error:
        raise _unreadable(path) from error
    if not layers:
        raise _unreadable(path)
    return layers


def _keras2(root: Any) -> Iterator[LayerArrays]:
    for name in map(_text, root.attrs["layer_names"]):
        group = root[name]
        arrays = tuple(array_of(group, _text(weight)) for weight in group.attrs["weight_names"])
        if arrays:
            yield LayerArrays(name, arrays)


def _keras3(file: Any) -> Iterator[LayerArrays]:
    # One group a layer, named by class and number ("conv2d_12"); newer files also tell the name of the layer.
    groups = file["layers"]
    for key in sorted(groups, key=_natural):
        variables = groups[key].get("vars", {})
        arrays = tuple(array_of(variables, index) for index in sorted(variables, key=int))
        if arrays:
            yield LayerArrays(_text(variables.attrs.get("name", key)), arrays)


def array_of(group: Any, name: str) -> np.ndarray:
    """An array of a file; refused if it lies in another file or is larger than memory.

    Raises:
        ValueError: It is.
    """
    dataset = group[name]
    # An external dataset would read another file of this machine.
    if dataset.external or dataset.is_virtual or dataset.size > _MOST_ELEMENTS:
        raise ValueError(name)
    return np.asarray(dataset[()])


def _natural(key: str) -> tuple[str, int]:
    stem, _, number = key.rpartition("_")
    return (stem, int(number)) if number.isdigit() else (key, 0)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _unreadable(path: Path) -> TfmpqError:
    return TfmpqError(
        f"A weights file must be a whole file written by Keras. Received: {path}, which cannot be read so. "
        "Check that it was copied completely, or save it again."
    )
