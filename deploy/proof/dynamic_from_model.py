"""A file of float activations that was made of a float model: the network in it, and whose weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from tfmpq.deploy.conversion.dynamic_kernels import keras_integers
from tfmpq.deploy.proof.from_model import WeightMatch, weight_match
from tfmpq.deploy.tflite.flatbuffer import BITS_OF_TYPE, contents, read_model, unpack
from tfmpq.deploy.tflite.layout import WEIGHTS, tensor_name
from tfmpq.errors import TfmpqError
from tfmpq.graph.dynamic import DynamicLayer, DynamicModel, container_bits
from tfmpq.graph.fusion import analyse
from tfmpq.quantization.dynamic import freeze_dynamic, quantize_dynamic

_PRECISE = 8


def network_in_dynamic_file(
    model: keras.Model, facts: Mapping[str, Any], core: bytes
) -> tuple[DynamicModel, tuple[WeightMatch, ...]]:
    """The network that a file holds, if it was made of a model, and how near its weights are.

    The float numbers are the model's: the recomputation of the proof shows that the file has them. Integers,
    scales and biases are the file's own, and compared with the model's weights.

    Args:
        model: Float functional model, lowered as for quantization.
        facts: What the file records.
        core: The file.

    Raises:
        TfmpqError: The file holds another network.
    """
    network = analyse(model, dynamic=True)
    widths = {node.name: (_PRECISE,) for node in network.weighted}
    quantized = quantize_dynamic(model, network, widths)
    precise = freeze_dynamic(quantized, analyse(quantized, dynamic=True), facts)
    file = read_model(core)
    tensors = {tensor_name(tensor): tensor for tensor in file.subgraphs[0].tensors}
    recorded = facts.get("weight_bits")
    recorded = recorded if isinstance(recorded, dict) else {}
    layers = tuple(_as_stored(layer, file, tensors, recorded) for layer in precise.layers)
    pairs = [pair for pair in zip(layers, precise.layers, strict=True) if pair[0].weights is not None]
    return replace(precise, layers=layers), tuple(_match(*pair) for pair in pairs)


def _as_stored(
    layer: DynamicLayer, file: Any, tensors: Mapping[str, Any], recorded: Mapping[str, Any]
) -> DynamicLayer:
    """A layer with the integers, scales and biases that the file has."""
    weights = layer.weights
    if weights is None:
        return layer
    tensor, bias = tensors.get(f"{layer.name}{WEIGHTS}"), tensors.get(f"{layer.name}/bias")
    size = weights.integers.size
    there = tensor is not None and bias is not None and tensor.quantization is not None
    bits = BITS_OF_TYPE.get(tensor.type) if there and tensor is not None else None
    if bits is None or tensor is None or int(np.prod(tensor.shape)) != size:
        raise TfmpqError(
            f"A file is compared with the model that it was made of. Received: one without the layer "
            f"{layer.name} "
            "as the model has it. Name the model that the file was exported from."
        )
    width = int(recorded.get(layer.name, weights.bits))
    fan_in = size // weights.scales.size
    integers = unpack(contents(file, tensor), bits, size)
    return replace(
        layer,
        weights=replace(
            weights,
            integers=keras_integers(weights, integers),
            scales=np.asarray(tensor.quantization.scale, np.float32),
            bias=np.frombuffer(contents(file, bias).tobytes(), np.float32),
            bits=width,
            container=container_bits(width, fan_in, weights.kernel),
        ),
    )


def _match(stored: DynamicLayer, original: DynamicLayer) -> WeightMatch:
    found, wanted = (_real(layer) for layer in (stored, original))
    bits = stored.weights.bits if stored.weights else 0
    return weight_match(stored.name, bits, found, wanted)


def _real(layer: DynamicLayer) -> np.ndarray:
    """Weights as real numbers, float64, in Keras layout."""
    weights = layer.weights
    if weights is None:
        raise ValueError(f"Only layers with weights have some. Received: {layer.name}.")
    return weights.integers * weights.channel_scales.astype(np.float64)
