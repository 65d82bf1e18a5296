"""Weights from files into a model: checked by name and shape first, so that a model is never half loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfmpq.data.npz import read_npz
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.models.weight_files import LayerArrays, read_h5, read_keras
from tfmpq.models.weight_names import from_arrays

if TYPE_CHECKING:
    import keras

_MOST_NAMES = 8


def load_weights(model: keras.Model, path: str | Path, *, skip_classifier: bool | None = False) -> bool:
    """Load all weights of a model from a file.

    Args:
        model: A built functional model.
        path: `.keras`, `.weights.h5`, a Keras 2 `.h5` (whole model or weights), or `.npz` whose arrays are
            named `<layer>/<weight>` (`kernel_oihw`, `kernel_oi`, `kernel`, `bias`, `gamma`, ...) or as a
            torchvision state dict (`layer1.0.conv1.weight`, `bn1.running_mean`); for vision transformers as
            those of timm and of Hugging Face. Files of Keras whose layer
            names are mostly others are mapped by order, if every shape agrees.
        skip_classifier: Leave the last layer with weights as it is; None does so if the file has it for
            another number of classes.

    Returns:
        Whether the classifier was left as it was.

    Raises:
        UsageError: There is no such file, or its ending is not known.
        TfmpqError: The file cannot be read, or an array is missing, surplus, misshapen or not finite; the
            model is unchanged then.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"A weights file must exist. Received: {path}. Check the path.")
    return _assign(model, path, _read(path, model), skip_classifier)


def take_weights(
    model: keras.Model, origin: str, layers: Sequence[LayerArrays], *, skip_classifier: bool | None = False
) -> bool:
    """Load all weights of a model from those of a Keras model, as `load_weights` does from its file.

    Args:
        model: A built functional model.
        origin: What messages call the weights.
        layers: The weights, layer by layer.
        skip_classifier: As in `load_weights`.
    """
    return _assign(model, origin, _named(origin, layers, model), skip_classifier)


def _assign(
    model: keras.Model, origin: str | Path, arrays: dict[str, np.ndarray], skip_classifier: bool | None
) -> bool:
    """Check arrays against a model's variables, and assign them; returns whether the classifier was left."""
    expected = {
        f"{layer.name}/{variable.name}": variable for layer in model.layers for variable in layer.weights
    }
    if len(expected) < len(model.weights):
        twice = next(v for v in model.weights if all(v is not known for known in expected.values()))
        raise TfmpqError(
            "Weights go to layers by name, each layer with one kernel at most. Received: a layer that holds "
            f"others, with {twice.path}, for {origin}. Give a .keras file of the whole model as --model."
        )
    classifier = next(layer.name for layer in reversed(model.layers) if layer.weights)
    if skip_classifier is None:
        own = {n: tuple(v.shape) for n, v in expected.items() if n.rpartition("/")[0] == classifier}
        skip_classifier = any(n in arrays and arrays[n].shape != shape for n, shape in own.items())
    if skip_classifier:
        expected = {name: v for name, v in expected.items() if name.rpartition("/")[0] != classifier}
        arrays = {name: a for name, a in arrays.items() if name.rpartition("/")[0] != classifier}
    _check(origin, expected, arrays, classifier)
    for name, variable in expected.items():
        variable.assign(arrays[name])
    return skip_classifier


def _read(path: Path, model: keras.Model) -> dict[str, np.ndarray]:
    if path.suffix == ".npz":
        return from_arrays(read_npz(path), model)
    if path.suffix == ".keras":
        layers = read_keras(path)
    elif path.suffix in (".h5", ".hdf5"):
        layers = read_h5(path)
    else:
        raise UsageError(
            f"Weights come from .keras, .weights.h5, .h5 or .npz files. Received: {path}. "
            "Save them as one of these."
        )
    return _named(path, layers, model)


def _named(path: str | Path, found: Sequence[LayerArrays], model: keras.Model) -> dict[str, np.ndarray]:
    """Arrays of a Keras file by the names that the model has for them."""
    own = {layer.name: layer for layer in model.layers if layer.weights}
    # Networks share a name or two ("dense") by chance.
    if 2 * sum(layer.name in own for layer in found) < len(found):
        found = _by_order(path, found, list(own.values()))
    arrays = {}
    for layer in found:
        variables = [v.name for v in own[layer.name].weights] if layer.name in own else []
        for index, array in enumerate(layer.arrays):
            name = variables[index] if index < len(variables) else str(index)
            arrays[f"{layer.name}/{name}"] = array
    return arrays


def _by_order(path: str | Path, found: Sequence[LayerArrays], own: Sequence[Any]) -> list[LayerArrays]:
    """Give the layers of a file the names of the model's, kind by kind in order.

    Raises:
        TfmpqError: Their numbers or shapes differ, so that the order says nothing.
    """
    renamed = []
    kinds = {_kind(layer.weights) for layer in own} | {_kind(layer.arrays) for layer in found}
    for kind in sorted(kinds):
        ours = [layer for layer in own if _kind(layer.weights) == kind]
        theirs = [layer for layer in found if _kind(layer.arrays) == kind]
        if len(ours) != len(theirs):
            raise TfmpqError(
                "Weights with other layer names must be of the very same network. Received: "
                f"{path} with {len(theirs)} layers of {kind[0]} arrays ({kind[1]} axes) where the model has "
                f"{len(ours)}. Use weights of this network."
            )
        renamed += [LayerArrays(a.name, b.arrays) for a, b in zip(ours, theirs, strict=True)]
    return renamed


def _kind(arrays: Sequence[Any]) -> tuple[int, int, bool]:
    # Convolution, depthwise convolution (one output a channel), BatchNorm and dense layers. Within a kind the
    # order in a file is that of the network; between kinds it depends on how shortcuts were written down.
    return len(arrays), len(arrays[0].shape), arrays[0].shape[-1] == 1


@dataclass(frozen=True, slots=True)
class _Faults:
    missing: list[str]
    surplus: list[str]
    misshapen: list[str]

    def describe(self) -> str:
        parts = []
        for word, names in (
            ("missing", self.missing),
            ("surplus", self.surplus),
            ("misshapen", self.misshapen),
        ):
            if names:
                more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
                parts.append(f"{word} {', '.join(names[:_MOST_NAMES])}{more}")
        return "; ".join(parts)


def _check(
    path: str | Path, expected: Mapping[str, Any], arrays: Mapping[str, np.ndarray], classifier: str
) -> None:
    wrong = [n for n in expected if n in arrays and tuple(arrays[n].shape) != tuple(expected[n].shape)]
    faults = _Faults(
        [name for name in expected if name not in arrays],
        [name for name in arrays if name not in expected],
        [f"{n} {arrays[n].shape} instead of {tuple(expected[n].shape)}" for n in wrong],
    )
    advice = "Use weights of this network."
    if not (faults.missing or faults.surplus) and {n.rpartition("/")[0] for n in wrong} == {classifier}:
        there, here = (arrays[wrong[0]].shape[-1], expected[wrong[0]].shape[-1])
        advice = (
            f"The file is for {there} classes and the model for {here}: build the model with that many, "
            "or skip the classifier (skip_classifier=True) to train a new one."
        )
    embedded = [n for n in wrong if arrays[n].ndim == 3 and arrays[n].shape[::2] == expected[n].shape[::2]]
    if not (faults.missing or faults.surplus) and embedded and len(embedded) == len(wrong):
        advice = f"{embedded[0]} is for images of another size: use images of that size, or other weights."
    if described := faults.describe():
        raise TfmpqError(f"Weights must fit the model one to one. Received: {path}: {described}. {advice}")
    floating = {n for n, v in expected.items() if "float" in str(v.dtype)}  # a counter is none
    broken = [
        n
        for n in expected
        if (n in floating and arrays[n].dtype.kind != "f") or not np.isfinite(arrays[n]).all()
    ]
    if broken:
        raise TfmpqError(
            "Weights must be finite floating-point numbers. Received: "
            f"{path}: {', '.join(broken[:_MOST_NAMES])}. Check how the file was made."
        )
