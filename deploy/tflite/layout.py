"""Where and how a file holds each layer: tensor names, axis order, operator versions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfmpq.deploy.tflite.flatbuffer import BITS_OF_TYPE, builtin_name, contents, unpack
from tfmpq.deploy.tflite.metadata import Forms, read_forms
from tfmpq.graph.containers import (
    WIDE_TARGET,
    Builtin,
    Container,
    Operator,
    Target,
    container_for,
    wide_container,
)
from tfmpq.graph.frozen import FrozenLayer, FrozenModel
from tfmpq.graph.unfolding import Order

WEIGHTS = "/weights"

VERSIONS = {
    ("CONV_2D", 8): 3,
    ("CONV_2D", 4): 7,
    ("DEPTHWISE_CONV_2D", 8): 3,
    ("DEPTHWISE_CONV_2D", 4): 7,
    ("FULLY_CONNECTED", 8): 9,
    ("FULLY_CONNECTED", 4): 10,
    ("FULLY_CONNECTED", 2): 13,
    ("TRANSPOSE_CONV", 8): 4,
}
"""Operator version that a runtime has to know, by operator and bits of the weights that it reads."""

WIDE_VERSIONS = {
    "CONV_2D": 8,
    "DEPTHWISE_CONV_2D": 5,
    "FULLY_CONNECTED": 11,
    "TRANSPOSE_CONV": 5,
    "ADD": 4,
    "MUL": 4,
}
"""The same with 16-bit activations."""

CHANNEL_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 0}
"""Axis of the output channels in the file's layout: OHWI, 1HWC and OI. The weights are the second input."""


_UNPACKED = "int8: unpacking would take more memory than the activations leave"
_BIAS_TYPES = {schema.TensorType.INT32: np.int32, schema.TensorType.INT64: np.int64}


def entry_input(builtin: str) -> int:
    """Which input of an operator with weights is the activation; the bias comes behind it and the weights.

    The first input of a transposed convolution is the shape of its output.
    """
    return 2 if builtin == "TRANSPOSE_CONV" else 0


def bias_input(builtin: str) -> int:
    """Which input of an operator with weights is the bias, where it has one."""
    return 3 if builtin == "TRANSPOSE_CONV" else 2


def container_of(frozen: FrozenModel, layer: FrozenLayer, target: Target) -> Container:
    """How a file for a target holds the weights of a layer."""
    if layer.weights is None:
        raise ValueError(f"Only layers with weights have a container. Received: {layer.name} ({layer.kind}).")
    if frozen.wide:
        return wide_container(layer.operator, target)
    if target == "tflm" and layer.attributes.get("unpacked"):
        return replace(container_for(layer.operator, 8, layer.fan_in, target), reason=_UNPACKED)
    return container_for(layer.operator, layer.weights.bits, layer.fan_in, target)


def bias_type(frozen: FrozenModel, layer: FrozenLayer) -> type[np.signedinteger[Any]]:
    """Type of a layer's biases, which is that of its accumulators.

    With 16-bit activations accumulators of 32 bits would wrap without an error. Where no input can make them,
    |input| * sum|weights| + |bias| < 2^31 for every channel, the kernels of 32 bits are used: they are many
    times faster. DEPTHWISE_CONV_2D has none.
    """
    if not frozen.wide:
        return np.int32
    weights, builtin = layer.weights, file_builtin(layer)
    if weights is None or builtin == "DEPTHWISE_CONV_2D":
        return np.int64
    # All other operators have the output channels first.
    channels = file_layout(layer, builtin).reshape(weights.scales.size, -1)
    magnitudes = np.abs(channels.astype(np.int64)).sum(1)
    reached = 2**15 * magnitudes + np.abs(weights.bias.astype(np.int64))
    return np.int32 if reached.max() < 2**31 else np.int64


def file_builtin(layer: FrozenLayer) -> Builtin:
    """Operator that reads the weights of a layer, unless the rule table has it rewritten."""
    return wide_container(layer.operator, WIDE_TARGET).builtin


def file_layout(layer: FrozenLayer, builtin: str) -> np.ndarray:
    """The layer's integers, int8, with the axes that the operator wants."""
    if layer.weights is None:
        raise ValueError(f"Only layers with weights have a layout. Received: {layer.name} ({layer.kind}).")
    integers = layer.weights.integers
    if builtin == "DEPTHWISE_CONV_2D":
        return integers.reshape(1, *integers.shape[:2], -1)
    if builtin == "FULLY_CONNECTED":
        return integers.reshape(-1, integers.shape[-1]).T
    if builtin == "TRANSPOSE_CONV":
        return integers.transpose(2, 0, 1, 3)
    return integers.transpose(3, 0, 1, 2)


@dataclass(frozen=True, slots=True, eq=False)
class StoredLayer:
    """A layer with weights as a file holds it.

    Attributes:
        name: Layer name in our files; in others the name of the output tensor.
        builtin: Operator that reads the weights.
        operator: Row of the rule table; None if the weights are not integers of 8, 4 or 2 bits.
        shape: Shape of the weights in the file.
        container_bits: Bits per weight in the file (32 for float32).
        decode: `cast` if the graph widens the weights before the operator reads them, else `native`.
        order: How the windows of a convolution are unfolded before the operator; None where nothing is.
        integers: int8 in the file's layout; None for float weights.
        scales: float32, per channel or one for all; None for float weights.
        bias: int32 or int64 biases; None without or in float.
        bias_scales: float32 scales of the biases.
        weight_bytes: Bytes of the packed weights.
        bias_bytes: Bytes of the biases.
    """

    name: str
    builtin: str
    operator: Operator | None
    shape: tuple[int, ...]
    container_bits: int
    decode: str
    order: Order | None
    integers: np.ndarray | None
    scales: np.ndarray | None
    bias: np.ndarray | None
    bias_scales: np.ndarray | None
    weight_bytes: int
    bias_bytes: int

    @property
    def stored_bytes(self) -> int:
        """Bytes of weights, weight scales and biases."""
        return self.weight_bytes + (0 if self.scales is None else self.scales.nbytes) + self.bias_bytes


def stored_layers(model: Any) -> list[StoredLayer]:
    """All operators with constant weights, in order of execution; works on any `.tflite`."""
    graph, forms = model.subgraphs[0], read_forms(model)
    producers = {int(operator.outputs[0]): operator for operator in graph.operators if len(operator.outputs)}
    found = []
    for operator in graph.operators:
        builtin = builtin_name(model, operator)
        if builtin in CHANNEL_AXIS and len(operator.inputs) > 1:
            layer = _stored_layer(model, operator, builtin, producers, forms)
            if layer is not None:
                found.append(layer)
    return found


def weight_source(model: Any, operator: Any, producers: dict[int, Any]) -> int:
    """Index of the constant tensor that an operator's weights come from, behind any CAST."""
    index = int(operator.inputs[1])
    while index in producers and builtin_name(model, producers[index]) == "CAST":
        index = int(producers[index].inputs[0])
    return index


def _stored_layer(
    model: Any, operator: Any, builtin: str, producers: dict[int, Any], forms: Forms
) -> StoredLayer | None:
    tensors = model.subgraphs[0].tensors
    read, source = int(operator.inputs[1]), weight_source(model, operator, producers)
    tensor = tensors[source]
    data = contents(model, tensor)
    if not data.size:
        return None
    bits = BITS_OF_TYPE.get(tensor.type)
    scales = _scales(tensors[read])
    place = bias_input(builtin)
    has_bias = len(operator.inputs) > place and int(operator.inputs[place]) >= 0
    bias_tensor = tensors[int(operator.inputs[place])] if has_bias else None
    bias_data = np.zeros(0, np.uint8) if bias_tensor is None else contents(model, bias_tensor)
    bias_dtype = None if bias_tensor is None else _BIAS_TYPES.get(bias_tensor.type)
    shape = tuple(int(size) for size in tensor.shape)
    count = int(np.prod(shape))
    name = _layer_name(tensor, tensors[int(operator.outputs[0])])
    order = forms.order(name) if builtin == "FULLY_CONNECTED" else None
    row: Operator = "conv2d" if order else file_operator(operator, builtin)
    return StoredLayer(
        name=name,
        builtin=builtin,
        operator=None if bits is None else row,
        shape=shape,
        container_bits=bits or 8 * data.size // max(count, 1),
        decode="native" if source == read else "cast",
        order=order,
        integers=None if bits is None else unpack(data, bits, count).reshape(shape),
        scales=None if bits is None else scales,
        bias=None if bias_dtype is None else bias_data.view(bias_dtype),
        bias_scales=None if bias_dtype is None else _scales(bias_tensor),
        weight_bytes=data.size,
        bias_bytes=bias_data.size,
    )


def file_operator(operator: Any, builtin: str) -> Operator:
    """Row of the rule table of an operator in a file."""
    if builtin == "FULLY_CONNECTED":
        return "pointwise" if operator.builtinOptions.keepNumDims else "dense"
    if builtin == "TRANSPOSE_CONV":
        return "conv2d_transpose"
    return "conv2d" if builtin == "CONV_2D" else "depthwise_conv2d"


def _layer_name(weights: Any, output: Any) -> str:
    name = tensor_name(weights)
    return name.removesuffix(WEIGHTS) if name.endswith(WEIGHTS) else tensor_name(output)


def tensor_name(tensor: Any) -> str:
    """Name of a tensor; empty if it has none."""
    return (tensor.name or b"").decode(errors="replace")


def _scales(tensor: Any) -> np.ndarray | None:
    parameters = tensor.quantization
    if parameters is None or parameters.scale is None or not len(parameters.scale):
        return None
    return np.asarray(parameters.scale, np.float32)
