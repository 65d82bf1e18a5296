"""A file that was made of a float model, without a run: the network that it holds, and whose weights.

The model's structure with the file's bit-widths says which layers there have to be; integers, scales, biases
and grids are the file's own. That these are the model's weights is shown by comparing them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from tfmpq.data.preprocess import pixel_step, value_range
from tfmpq.deploy.conversion.topology import deployable
from tfmpq.deploy.tflite.flatbuffer import read_model
from tfmpq.deploy.tflite.layout import StoredLayer, stored_layers, tensor_name
from tfmpq.errors import TfmpqError
from tfmpq.graph.frozen import FrozenLayer, FrozenModel, FrozenWeights, TensorGrid
from tfmpq.graph.fusion import analyse
from tfmpq.quantization.freeze import freeze, snap_biases
from tfmpq.quantization.insertion import quantize_model

_PRECISE = 8
_LEAST_CORRELATION = 0.5
"""Least correlation of a layer's weights with the model's. Rounding to 2 bits leaves about 0.9 of a
bell-shaped kernel, fitting somewhat less; kernels that have nothing to do with one another have about 0."""


@dataclass(frozen=True, slots=True)
class WeightMatch:
    """How near the weights of one layer are to the model's.

    Attributes:
        name: Layer name.
        bits: Recorded bit-width.
        correlation: Of the weights with the model's, BatchNorm folded into both.
        relative_error: Norm of the difference over the norm of the model's weights.
    """

    name: str
    bits: int
    correlation: float
    relative_error: float


def network_in_file(
    model: keras.Model, preprocessing: str, facts: Mapping[str, Any], core: bytes
) -> tuple[FrozenModel, tuple[WeightMatch, ...]]:
    """The network that a file holds, if it was made of a model, and how near its weights are.

    Args:
        model: Float functional model, lowered as for quantization.
        preprocessing: Name of the preprocessing.
        facts: What the file records.
        core: The file's network proper.

    Raises:
        TfmpqError: The file holds another network.
    """
    network = analyse(model, value_range(preprocessing)[0] < 0)
    widths = facts.get("activation_bits")
    widths = widths if isinstance(widths, dict) else {}
    low, high = value_range(preprocessing)
    noise = np.random.default_rng(0).uniform(low, high, (4, *network.input_shape)).astype(np.float32)
    quantized = quantize_model(
        model,
        network,
        {node.name: (_PRECISE,) for node in network.weighted},
        {name: (int(widths.get(name, _PRECISE)),) for name in network.tensors},
        noise,
        (low, high),
        pixel_step=pixel_step(preprocessing),
    )
    again = analyse(quantized, low < 0)
    snap_biases(quantized, again)
    precise = deployable(freeze(quantized, again, facts))
    file = read_model(core)
    held = {layer.name: layer for layer in stored_layers(file)}
    tensors = {tensor_name(tensor): tensor for tensor in file.subgraphs[0].tensors}
    recorded = facts.get("weight_bits")
    recorded = recorded if isinstance(recorded, dict) else {}
    layers = tuple(
        _as_stored(layer, held.get(layer.name), tensors.get(layer.name), recorded) for layer in precise.layers
    )
    found = replace(precise, layers=layers)
    matches = tuple(
        _match(stored, original)
        for stored, original in zip(found.layers, precise.layers, strict=True)
        if stored.weights is not None
    )
    return found, matches


def match_failures(matches: tuple[WeightMatch, ...]) -> list[str]:
    """Layers whose weights are not those of the model, one line each."""
    return [
        f"the weights of layer {match.name} are not the model's (correlation {match.correlation:.2f})"
        for match in matches
        if match.correlation < _LEAST_CORRELATION
    ]


def _as_stored(
    layer: FrozenLayer, held: StoredLayer | None, tensor: Any, recorded: Mapping[str, Any]
) -> FrozenLayer:
    """A layer with the grid and the numbers that the file has."""
    grid = layer.grid
    if tensor is not None and tensor.quantization is not None and tensor.quantization.scale is not None:
        points = tensor.quantization.zeroPoint
        halfway = layer.kind == "input" and points is not None and int(points[0]) == -1
        scale = float(tensor.quantization.scale[0])
        grid = TensorGrid(scale, grid.bits, grid.signed, grid.container, halfway)
    weights = layer.weights
    if weights is None:
        return replace(layer, grid=grid)
    problem = held is None or held.integers is None or held.scales is None or held.bias is None
    if problem or held is None or held.integers.size != weights.integers.size:  # type: ignore[union-attr]
        raise TfmpqError(
            f"A file is compared with the model that it was made of. Received: one without the layer "
            f"{layer.name} as the model has it. Name the model that the file was exported from."
        )
    bits = int(recorded.get(layer.name, weights.bits))
    integers = _keras_layout(layer, held)
    return replace(
        layer,
        grid=grid,
        weights=FrozenWeights(integers, held.scales, held.bias, bits),  # type: ignore[arg-type]
    )


def _keras_layout(layer: FrozenLayer, held: StoredLayer) -> np.ndarray:
    """The integers of a file as Keras has them; the inverse of `file_layout`."""
    integers, shape = held.integers, layer.weights.integers.shape  # type: ignore[union-attr]
    if integers is None:
        raise ValueError(f"Only integers have a layout. Received: {layer.name}.")
    if layer.kind == "depthwise_conv2d":
        return integers.reshape(shape)
    if layer.kind == "dense":
        return integers.reshape(shape[1], shape[0]).T
    if layer.kind == "conv2d_transpose":
        return integers.transpose(1, 2, 0, 3)
    return integers.reshape(shape[3], *shape[:3]).transpose(1, 2, 3, 0)


def _match(stored: FrozenLayer, original: FrozenLayer) -> WeightMatch:
    bits = stored.weights.bits if stored.weights else 0
    return weight_match(stored.name, bits, _real(stored), _real(original))


def weight_match(name: str, bits: int, found: np.ndarray, wanted: np.ndarray) -> WeightMatch:
    """How near the weights of a layer, float64, are to those of the model."""
    sizes = float(np.linalg.norm(found) * np.linalg.norm(wanted))
    # A kernel of zeros is matched by a kernel of zeros alone.
    correlation = float(np.vdot(found, wanted)) / sizes if sizes else float(np.array_equal(found, wanted))
    error = float(np.linalg.norm(found - wanted)) / max(float(np.linalg.norm(wanted)), 1e-30)
    return WeightMatch(name, bits, correlation, error)


def _real(layer: FrozenLayer) -> np.ndarray:
    """Weights as real numbers, float64, in Keras layout."""
    weights = layer.weights
    if weights is None:
        raise ValueError(f"Only layers with weights have some. Received: {layer.name}.")
    scales = weights.scales.astype(np.float64)
    if layer.kind == "depthwise_conv2d":
        return weights.integers * scales.reshape(weights.integers.shape[2:])
    return weights.integers * (scales[:, None] if layer.kind == "conv2d_transpose" else scales)
