"""Nodes of TensorFlow graphs as operations of Keras 3."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from tfmpq.errors import TfmpqError
from tfmpq.models.keras2_operations import call_function, unknown_operation

_SAME_AS = {
    **dict.fromkeys(("Add", "AddV2"), "math.add"),
    "Sub": "math.subtract",
    "Mul": "math.multiply",
    **dict.fromkeys(("RealDiv", "Div"), "math.truediv"),
    "Maximum": "math.maximum",
    "Minimum": "math.minimum",
    "Pow": "math.pow",
    "Neg": "math.negative",
    "Square": "math.square",
    "Sqrt": "math.sqrt",
    "Exp": "math.exp",
    "Abs": "math.abs",
    "Relu": "nn.relu",
    "Relu6": "nn.relu6",
    "Elu": "nn.elu",
    "Selu": "nn.selu",
    "Sigmoid": "math.sigmoid",
    "Tanh": "math.tanh",
    "Softplus": "math.softplus",
    "Softmax": "nn.softmax",
    "Pad": "pad",
    "Reshape": "reshape",
    "Transpose": "transpose",
    "BiasAdd": "nn.bias_add",
    "ExpandDims": "expand_dims",
    "ClipByValue": "clip_by_value",
    **dict.fromkeys(("Identity", "StopGradient"), "identity"),
}
"""Kinds of nodes whose inputs are the arguments of a function."""

Build = Callable[[Sequence[Any], Mapping[str, Any]], Any]

_OWN: dict[str, Build] = {
    "LeakyRelu": lambda x, a: ops.leaky_relu(x[0], float(a.get("alpha", 0.2))),
    "PadV2": lambda x, a: call_function("pad", "", x[:2], {"constant_values": float(x[2])}),
    "Rsqrt": lambda x, a: ops.rsqrt(x[0]),
    "Mean": lambda x, a: call_function("reduce_mean", "", x[:2], {"keepdims": a.get("keep_dims", False)}),
    "Max": lambda x, a: call_function("reduce_max", "", x[:2], {"keepdims": a.get("keep_dims", False)}),
    "ConcatV2": lambda x, a: ops.concatenate(list(x[:-1]), int(x[-1])),
    "Pack": lambda x, a: ops.stack(list(x), int(a.get("axis", 0))),
    "Squeeze": lambda x, a: ops.squeeze(x[0], tuple(a.get("squeeze_dims") or ()) or None),
    "DepthToSpace": lambda x, a: call_function(
        "nn.depth_to_space", "", x, {k: a[k] for k in ("block_size", "data_format") if k in a}
    ),
    "SpaceToDepth": lambda x, a: call_function(
        "nn.space_to_depth", "", x, {k: a[k] for k in ("block_size", "data_format") if k in a}
    ),
    "ResizeBilinear": lambda x, a: _resized(x, a, "bilinear"),
    "ResizeNearestNeighbor": lambda x, a: _resized(x, a, "nearest"),
    "StridedSlice": lambda x, a: _strided_slice(x, a),
}


def _resized(inputs: Sequence[Any], attributes: Mapping[str, Any], method: str) -> Any:
    options = {name: attributes.get(name, False) for name in ("half_pixel_centers", "align_corners")}
    return call_function("image.resize", "", inputs, {"method": method, **options})


def _strided_slice(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    tensor, *bounds = inputs
    begin, end, strides = (np.ravel(bound).astype(int).tolist() for bound in bounds)
    masks = {name: int(attributes.get(f"{name}_mask", 0)) for name in ("begin", "end", "shrink_axis")}
    if int(attributes.get("ellipsis_mask", 0)) or int(attributes.get("new_axis_mask", 0)):
        raise ValueError("ellipsis or new axis")
    index: list[Any] = []
    for place, (start, stop, step) in enumerate(zip(begin, end, strides, strict=True)):
        bit = 1 << place
        if masks["shrink_axis"] & bit:
            index.append(start)
            continue
        index.append(
            slice(None if masks["begin"] & bit else start, None if masks["end"] & bit else stop, step)
        )
    return tensor[tuple(index)]


def call_node(kind: str, layer: str, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    """Compute what one node of a graph computes.

    Args:
        kind: Kind of the node, for example `AddV2`.
        layer: Name of the layer that holds it, for the error.
        inputs: Tensors of Keras 3, and constants as arrays.
        attributes: Attributes by name, as plain values.

    Raises:
        TfmpqError: The kind is not known.
    """
    if kind in _SAME_AS:
        return call_function(_SAME_AS[kind], layer, inputs, {})
    if kind not in _OWN:
        raise unknown_operation(layer, f"TensorFlow's {kind}")
    try:
        return _OWN[kind](inputs, attributes)
    except (TypeError, KeyError, ValueError) as error:
        raise unknown_operation(layer, f"TensorFlow's {kind} with these attributes") from error


def parse_node(text: Any) -> tuple[str, dict[str, Any]]:
    """Kind and attributes of a node that a TensorFlowOpLayer records.

    Args:
        text: JSON or the text form of a NodeDef.

    Raises:
        TfmpqError: It is neither.
    """
    try:
        node = text if isinstance(text, Mapping) else json.loads(text)
        return str(node["op"]), {name: _value(value) for name, value in node.get("attr", {}).items()}
    except (ValueError, KeyError, TypeError):
        pass
    try:
        from google.protobuf import text_format
        from tensorflow.core.framework import node_def_pb2

        parsed = text_format.Parse(text, node_def_pb2.NodeDef())
    except Exception as error:
        raise TfmpqError(
            "A layer with an operation of TensorFlow records its node. Received: one that cannot be read. "
            "Save the model again with a newer TensorFlow."
        ) from error
    return parsed.op, node_attributes(parsed)


def node_attributes(node: Any) -> dict[str, Any]:
    """Attributes of a NodeDef as plain values."""
    return {name: _plain(value) for name, value in node.attr.items()}


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "s":
        return value.s.decode(errors="replace")
    if kind == "list":
        return list(value.list.i)
    return getattr(value, kind) if kind in ("i", "f", "b", "type") else None


def _value(attribute: Mapping[str, Any]) -> Any:
    """An attribute in the JSON of protocol buffers: one entry, named after its type."""
    for name, value in attribute.items():
        if name in ("i", "type"):
            return int(value) if str(value).lstrip("-").isdigit() else value
        if name == "s":
            import base64

            return base64.b64decode(value).decode(errors="replace")
        if name == "list":
            return [int(item) for item in value.get("i", [])] if isinstance(value, Mapping) else value
        return value
    return None
