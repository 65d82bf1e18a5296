"""Operations of TensorFlow between the layers of a Keras 2 model, as operations of Keras 3.

Keras 2 keeps `x + y`, `x / 255` or `tf.pad(x, ...)` as layers of their own: TFOpLambda, named after the
function, or TensorFlowOpLayer (before TensorFlow 2.4), named after the kind of node in a graph.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmpq.errors import TfmpqError


def _pad(tensor: Any, paddings: Any, mode: str = "CONSTANT", constant_values: Any = 0) -> Any:
    pads = tuple((int(before), int(after)) for before, after in paddings)
    mode = str(mode).lower()
    sides = len(pads) == 4 and not any(pads[0]) and not any(pads[3])
    if mode == "constant" and not constant_values and sides:
        return keras.layers.ZeroPadding2D(pads[1:3])(tensor)
    return ops.pad(tensor, pads, mode, constant_values if mode == "constant" else None)


def _resize(images: Any, size: Any, method: str = "bilinear", antialias: bool = False, **others: Any) -> Any:
    unknown = {name for name, value in others.items() if value and name != "half_pixel_centers"}
    if unknown or not others.get("half_pixel_centers", True):
        raise TfmpqError(
            "An image is resized with half-pixel centres and without options. Received: "
            f"{', '.join(sorted(unknown)) or 'no half-pixel centres'}. Use keras.layers.Resizing."
        )
    size = tuple(int(side) for side in np.ravel(size))
    return ops.image.resize(images, size, interpolation=str(method), antialias=bool(antialias))


def _slice(tensor: Any, slice_spec: Any) -> Any:
    def part(spec: Any) -> Any:
        if isinstance(spec, Mapping):
            return slice(spec.get("start"), spec.get("stop"), spec.get("step"))
        return None if spec in ("tf.newaxis", None) else Ellipsis if spec == "..." else spec

    return tensor[tuple(part(spec) for spec in slice_spec)]


def _bias(value: Any, bias: Any) -> Any:
    return ops.add(value, bias)


def _clip(t: Any, clip_value_min: Any, clip_value_max: Any) -> Any:
    return ops.clip(t, float(np.asarray(clip_value_min)), float(np.asarray(clip_value_max)))


def _softmax(logits: Any, axis: int | None = -1) -> Any:
    return keras.layers.Softmax(axis=-1 if axis is None else axis)(logits)


def _mean(input_tensor: Any, axis: Any = None, keepdims: Any = False) -> Any:
    return ops.mean(input_tensor, axis=_axes(axis), keepdims=bool(keepdims))


def _max(input_tensor: Any, axis: Any = None, keepdims: Any = False) -> Any:
    return ops.max(input_tensor, axis=_axes(axis), keepdims=bool(keepdims))


def _axes(axis: Any) -> Any:
    if axis is None:
        return None
    axes = [int(value) for value in np.ravel(axis)]
    return axes[0] if len(axes) == 1 else tuple(axes)


def _reshape(tensor: Any, shape: Any) -> Any:
    return ops.reshape(tensor, tuple(int(size) for size in np.ravel(shape)))


def _transpose(a: Any, perm: Any = None) -> Any:
    return ops.transpose(a, None if perm is None else tuple(int(axis) for axis in np.ravel(perm)))


def _depth_to_space(input: Any, block_size: int, data_format: str = "NHWC") -> Any:  # TensorFlow's name
    _refuse_other_layout(data_format)
    side = int(block_size)
    _, height, width, channels = input.shape
    value = ops.reshape(input, (-1, height, width, side, side, channels // side**2))
    value = ops.transpose(value, (0, 1, 3, 2, 4, 5))
    return ops.reshape(value, (-1, height * side, width * side, channels // side**2))


def _space_to_depth(input: Any, block_size: int, data_format: str = "NHWC") -> Any:  # TensorFlow's name
    _refuse_other_layout(data_format)
    side = int(block_size)
    _, height, width, channels = input.shape
    value = ops.reshape(input, (-1, height // side, side, width // side, side, channels))
    value = ops.transpose(value, (0, 1, 3, 2, 4, 5))
    return ops.reshape(value, (-1, height // side, width // side, channels * side**2))


def _refuse_other_layout(data_format: str) -> None:
    if data_format != "NHWC":
        raise TfmpqError(
            f"Images have their channels last. Received: an operation on {data_format}. Rebuild the model "
            "with channels last."
        )


_BINARY = ("x", "y")
_FUNCTIONS: dict[str, tuple[tuple[str, ...], Callable[..., Any]]] = {
    **dict.fromkeys(("__operators__.add", "math.add", "add"), (_BINARY, ops.add)),
    **dict.fromkeys(("math.subtract", "subtract"), (_BINARY, ops.subtract)),
    **dict.fromkeys(("math.multiply", "multiply"), (_BINARY, ops.multiply)),
    **dict.fromkeys(("math.truediv", "math.divide", "divide", "truediv"), (_BINARY, ops.true_divide)),
    **dict.fromkeys(("math.maximum", "maximum"), (_BINARY, ops.maximum)),
    **dict.fromkeys(("math.minimum", "minimum"), (_BINARY, ops.minimum)),
    **dict.fromkeys(("math.pow", "pow"), (_BINARY, ops.power)),
    "math.negative": (("x",), ops.negative),
    "math.square": (("x",), ops.square),
    "math.sqrt": (("x",), ops.sqrt),
    "math.exp": (("x",), ops.exp),
    "math.abs": (("x",), ops.absolute),
    "nn.relu": (("features",), ops.relu),
    "nn.relu6": (("features",), ops.relu6),
    "nn.leaky_relu": (("features", "alpha"), lambda features, alpha=0.2: ops.leaky_relu(features, alpha)),
    "nn.elu": (("features",), ops.elu),
    "nn.selu": (("features",), ops.selu),
    "nn.gelu": (
        ("features", "approximate"),
        lambda features, approximate=False: ops.gelu(features, approximate),
    ),
    **dict.fromkeys(("nn.silu", "nn.swish"), (("features",), lambda features, beta=1.0: ops.silu(features))),
    **dict.fromkeys(("math.sigmoid", "nn.sigmoid", "sigmoid"), (("x",), ops.sigmoid)),
    **dict.fromkeys(("math.tanh", "nn.tanh", "tanh"), (("x",), ops.tanh)),
    **dict.fromkeys(("math.softplus", "nn.softplus"), (("features",), ops.softplus)),
    **dict.fromkeys(("nn.softmax", "compat.v1.nn.softmax"), (("logits", "axis"), _softmax)),
    **dict.fromkeys(("pad", "compat.v1.pad"), (("tensor", "paddings", "mode", "constant_values"), _pad)),
    "image.resize": (("images", "size", "method"), _resize),
    "__operators__.getitem": (("tensor", "slice_spec"), _slice),
    "nn.bias_add": (("value", "bias"), _bias),
    "clip_by_value": (("t", "clip_value_min", "clip_value_max"), _clip),
    **dict.fromkeys(
        ("math.reduce_mean", "reduce_mean", "compat.v1.reduce_mean"),
        (("input_tensor", "axis", "keepdims"), _mean),
    ),
    **dict.fromkeys(
        ("math.reduce_max", "reduce_max", "compat.v1.reduce_max"),
        (("input_tensor", "axis", "keepdims"), _max),
    ),
    "reshape": (("tensor", "shape"), _reshape),
    **dict.fromkeys(("transpose", "compat.v1.transpose"), (("a", "perm"), _transpose)),
    "concat": (("values", "axis"), lambda values, axis: ops.concatenate(values, int(axis))),
    "stack": (("values", "axis"), lambda values, axis=0: ops.stack(values, int(axis))),
    **dict.fromkeys(
        ("expand_dims", "compat.v1.expand_dims"),
        (("input", "axis"), lambda input, axis: ops.expand_dims(input, int(axis))),
    ),
    **dict.fromkeys(
        ("squeeze", "compat.v1.squeeze"),
        (("input", "axis"), lambda input, axis=None: ops.squeeze(input, _axes(axis))),
    ),
    **dict.fromkeys(
        ("nn.depth_to_space", "compat.v1.depth_to_space"),
        (("input", "block_size", "data_format"), _depth_to_space),
    ),
    **dict.fromkeys(
        ("nn.space_to_depth", "compat.v1.space_to_depth"),
        (("input", "block_size", "data_format"), _space_to_depth),
    ),
    "cast": (("x", "dtype"), lambda x, dtype: ops.cast(x, dtype)),
    "identity": (("input",), lambda input: input),
}
"""Functions of TensorFlow: names of their arguments, in order, and what computes them in Keras 3."""


def call_function(function: str, layer: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call the operation of Keras 3 that a function of TensorFlow is.

    Args:
        function: Name of the function without `tf.`, as a TFOpLambda records it.
        layer: Name of the layer, for the error.
        args: Its first arguments, tensors of Keras 3 or constants.
        kwargs: Its other arguments by name.

    Raises:
        TfmpqError: The function is not known.
    """
    if function not in _FUNCTIONS:
        raise unknown_operation(layer, f"tf.{function}")
    names, compute = _FUNCTIONS[function]
    given = dict(zip(names, args, strict=False))
    # What is None or False is left at its default.
    given |= {k: v for k, v in kwargs.items() if k != "name" and v is not None and v is not False}
    if "keep_dims" in given:
        given["keepdims"] = given.pop("keep_dims")
    if names == _BINARY:
        given = {name: np.asarray(v, np.float32) if isinstance(v, list) else v for name, v in given.items()}
    # By place as far as possible: Keras and TensorFlow call the same argument by different names.
    placed = list(itertools.takewhile(lambda name: name in given, names))
    rest = {name: value for name, value in given.items() if name not in placed}
    try:
        return compute(*(given[name] for name in placed), **rest)
    except (TypeError, KeyError, ValueError) as error:
        raise unknown_operation(layer, f"tf.{function} with {', '.join(sorted(given))}") from error


def unknown_operation(layer: str, operation: str) -> TfmpqError:
    """The error for an operation that has no counterpart here."""
    return TfmpqError(
        "An operation between layers needs a counterpart in Keras 3. Received: "
        f"{operation} in layer {layer}. Rebuild the model with the Keras layer that computes the same, load "
        "its weights, and give MODULE:FUNCTION."
    )
