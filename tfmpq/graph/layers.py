"""What each Keras layer is in a deployed network, or why it is nothing there.

These are facts about one layer; what depends on its neighbours is in `tfmpq.graph.fusion`. All functions take
layers that may be wrapped.
"""

from __future__ import annotations

from typing import Any, get_args

import keras
from keras import layers

from tfmpq.graph.frozen import Activation
from tfmpq.graph.kinds import OPERATORS, WEIGHTED, NodeKind
from tfmpq.graph.recognition import LINEAR, function_name, is_a, is_kerass_own
from tfmpq.graph.shortcut import PadShortcut
from tfmpq.graph.slicing import Slice
from tfmpq.graph.tensors import Constant, MatMul
from tfmpq.quantizers.wrapper import inner

LARGEST_BILINEAR = 5
"""Largest factor of bilinear interpolation, whose weights are multiples of 1 / (2 * factor)^2 up to 127."""

KINDS: dict[type, NodeKind] = {
    layers.Conv2D: "conv2d",
    layers.DepthwiseConv2D: "depthwise_conv2d",
    layers.Conv2DTranspose: "conv2d_transpose",
    layers.Dense: "dense",
    layers.Add: "add",
    layers.Subtract: "subtract",
    layers.Multiply: "multiply",
    layers.Concatenate: "concatenate",
    layers.GlobalAveragePooling2D: "global_average_pooling2d",
    layers.AveragePooling2D: "average_pooling2d",
    layers.MaxPooling2D: "max_pooling2d",
    layers.ZeroPadding2D: "zero_padding",
    PadShortcut: "zero_padding",
    layers.Cropping2D: "cropping2d",
    Slice: "slice",
    layers.Permute: "transpose",
    layers.UpSampling2D: "upsampling2d",
    layers.Flatten: "reshape",
    layers.Reshape: "reshape",
    layers.BatchNormalization: "affine",
    layers.Rescaling: "affine",
    layers.ReLU: "affine",
    layers.LeakyReLU: "leaky_relu",
    layers.PReLU: "leaky_relu",
    layers.LayerNormalization: "layer_normalization",
    layers.RMSNormalization: "layer_normalization",
    layers.Softmax: "softmax",
    MatMul: "matmul",
    Constant: "constant",
}

_TRANSPARENT = (
    layers.Dropout,
    layers.SpatialDropout2D,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.ActivityRegularization,
    layers.Identity,
)
_OF_ACTIVATION: dict[str, NodeKind] = {
    "relu": "affine",
    "relu6": "affine",
    "hard_sigmoid": "affine",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "elu": "elu",
    "gelu": "gelu",
    "gelu_tanh": "gelu",
    "softmax": "softmax",
}

_OF_INTERPOLATION: dict[str, NodeKind] = {"nearest": "upsampling2d", "bilinear": "bilinear"}

FIXED_STEPS = {"sigmoid": 1.0 / 256, "hard_sigmoid": 1.0 / 255, "tanh": 1.0 / 128}
"""Step of tensors whose 8-bit grid is given: LiteRT's LOGISTIC has 1/256, TANH 1/128, and saturation at 255
steps is the upper bound of a hard sigmoid."""


_REASONS: dict[type, str] = {
    layers.Lambda: "a function that is not made of known operations; write it with keras.ops",
}
"""Why layers that users will look for are not supported."""

FLOAT_ONLY = "exists with float activations only; tfmpq export, search and run have --activation-bits dynamic"
"""Why a layer is not supported where activations are integers."""


def is_transparent(layer: keras.layers.Layer) -> bool:
    """Whether a layer changes nothing in inference."""
    return is_a(layer, *_TRANSPARENT) or (is_a(layer, layers.Activation) and function_name(layer) == LINEAR)


def is_activation(layer: Any) -> bool:
    """Whether a layer is one of the activations that an operator before it can absorb."""
    return is_a(layer, layers.ReLU, layers.Activation) and activation_of(layer) not in (None, LINEAR)


def activation_of(wrapped: Any) -> Activation | None:
    """The activation that a layer applies if an operator can absorb it; None for any other."""
    layer = inner(wrapped)
    if is_a(layer, layers.ReLU):
        if layer.negative_slope or layer.threshold:
            return None
        return "relu" if layer.max_value is None else "relu6" if float(layer.max_value) == 6.0 else None
    return next((known for known in get_args(Activation) if known == function_name(layer)), None)


def kind_of(layer: Any) -> NodeKind:
    """Kind of the node that starts at a supported layer."""
    if is_a(layer, layers.Activation):
        return _OF_ACTIVATION.get(function_name(layer), "reshape")
    if is_a(layer, layers.UpSampling2D):
        return _OF_INTERPOLATION.get(inner(layer).interpolation, "upsampling2d")
    return KINDS.get(type(inner(layer)), "reshape")


def fixed_step(layer: Any) -> float | None:
    """Step of a layer's output if its grid is given by what it computes."""
    return FIXED_STEPS.get(function_name(layer)) if is_a(layer, layers.Activation) else None


def reaches_over_border(layer: Any) -> bool:
    """Whether windows of a pooling layer stick out of the image, so that averages are of fewer pixels."""
    pooling = inner(layer)
    if pooling.padding == "valid":
        return False
    return any(
        (-(-size // stride) - 1) * stride + extent > size
        for size, extent, stride in zip(
            layer.input.shape[1:3], pooling.pool_size, pooling.strides, strict=True
        )
    )


def problem_of(wrapped: Any, dynamic: bool = False) -> str | None:
    """Why a layer has no counterpart in a deployed network; None if it has one.

    Args:
        wrapped: The layer.
        dynamic: Whether activations are float, quantized where a kernel reads them.
    """
    layer, kind = inner(wrapped), type(inner(wrapped))
    if is_transparent(wrapped) or kind is layers.InputLayer:
        return None
    if kind is layers.Activation:
        known = (*get_args(Activation), *_OF_ACTIVATION)
        if function_name(layer) not in known:
            return f"activation '{function_name(layer)}'"
    elif kind not in KINDS:
        if not is_kerass_own(layer):
            return "a class that is not Keras' own, which may compute anything"
        return _REASONS.get(kind, "not supported")
    if getattr(layer, "data_format", None) == "channels_first":
        return "channels_first data"
    if not OPERATORS[kind_of(wrapped)].integer and not dynamic:
        return FLOAT_ONLY
    if KINDS.get(kind) in WEIGHTED:
        return _weighted_problem(layer, len(wrapped.input.shape))
    if dynamic and kind in _DYNAMIC_PROBLEMS:
        return _DYNAMIC_PROBLEMS[kind](wrapped)
    return _OTHER_PROBLEMS[kind](wrapped) if kind in _OTHER_PROBLEMS else None


def _weighted_problem(layer: Any, input_rank: int) -> str | None:
    if activation_of(layer) is None:
        return f"activation '{function_name(layer)}'"
    if getattr(layer, "padding", "valid") not in ("same", "valid"):
        return f"padding '{layer.padding}'"
    if is_a(layer, layers.Conv2DTranspose):
        return _transposed_problem(layer)
    if is_a(layer, layers.Dense) and input_rank != 2:
        return "a dense layer on more than one axis; use a 1x1 Conv2D"
    return None


def _transposed_problem(layer: Any) -> str | None:
    if any(step != 1 for step in layer.dilation_rate):
        return f"dilation {tuple(layer.dilation_rate)} of a transposed convolution, which the runtime has not"
    if layer.output_padding is not None:
        return "output_padding, which the runtime has not; crop or pad behind it"
    reach = [extent - stride for extent, stride in zip(layer.kernel_size, layer.strides, strict=True)]
    if layer.padding == "same" and min(reach) < 0 < max(reach):
        return "padding 'same' with a kernel smaller than its stride along one axis only; use 'valid'"
    return None


def _relu_problem(layer: Any) -> str | None:
    return None if activation_of(layer) else "only relu and relu6 (max_value=6, no slope, no threshold)"


def _channel_problem(layer: Any) -> str | None:
    """For layers that treat each channel alike."""
    rank = len(layer.input.shape)
    return f"on a tensor with {rank} axes" if rank not in (2, 4) else _axis_problem(layer)


def _axis_problem(layer: Any) -> str | None:
    """For layers that read the last axis."""
    rank, axis = len(layer.input.shape), getattr(inner(layer), "axis", -1)
    axes = axis if isinstance(axis, (list, tuple)) else (axis,)
    if any(a not in (-1, rank - 1) for a in axes if a is not None):
        return f"axis {axis}; only the last one"
    return None


def _prelu_problem(layer: Any) -> str | None:
    if any(size != 1 for size in inner(layer).alpha.shape[:-1]):
        return "one slope per pixel; use shared_axes=[1, 2]"
    return _channel_problem(layer)


def _pairwise_problem(layer: Any) -> str | None:
    tensors = layer.input if isinstance(layer.input, (list, tuple)) else [layer.input]
    shapes = [tuple(tensor.shape[1:]) for tensor in tensors]
    if len(shapes) != 2 or not _broadcasts(shapes[0], shapes[1]):
        return "only of two tensors of one shape, or of one with a single pixel"
    return None


def _broadcasts(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two shapes are the same, or one of them is a single pixel with the other's channels."""
    if one == other:
        return True
    small, large = sorted((one, other), key=lambda shape: (len(shape), *shape))
    return len(small) == len(large) == 3 and small == (1, 1, large[2])


def _upsampling_problem(layer: Any) -> str | None:
    upsampling = inner(layer)
    if upsampling.interpolation not in ("nearest", "bilinear"):
        return f"interpolation '{upsampling.interpolation}'; only 'nearest' and 'bilinear'"
    if upsampling.interpolation == "bilinear" and max(upsampling.size) > LARGEST_BILINEAR:
        return f"bilinear interpolation by more than {LARGEST_BILINEAR}, whose weights need more than 8 bits"
    return None


_OTHER_PROBLEMS: dict[type, Any] = {
    layers.ReLU: _relu_problem,
    layers.BatchNormalization: _channel_problem,
    layers.Rescaling: _channel_problem,
    layers.LeakyReLU: _channel_problem,
    layers.PReLU: _prelu_problem,
    layers.Add: _pairwise_problem,
    layers.Subtract: _pairwise_problem,
    layers.Multiply: _pairwise_problem,
    layers.UpSampling2D: _upsampling_problem,
}


def _normalization_problem(layer: Any) -> str | None:
    if inner(layer).rms_scaling:
        return "rms_scaling, which divides by another number than its name says; use RMSNormalization"
    return _axis_problem(layer)


def _broadcast_problem(layer: Any) -> str | None:
    tensors = layer.input if isinstance(layer.input, (list, tuple)) else [layer.input]
    if len(tensors) != 2:
        return "only of two tensors"
    return None if len({len(tensor.shape) for tensor in tensors}) == 1 else "of tensors with other axes"


_DYNAMIC_PROBLEMS: dict[type, Any] = {
    layers.BatchNormalization: _axis_problem,
    layers.Rescaling: _axis_problem,
    layers.LeakyReLU: _axis_problem,
    layers.LayerNormalization: _normalization_problem,
    layers.RMSNormalization: _axis_problem,
    layers.Softmax: _axis_problem,
    layers.Add: _broadcast_problem,
    layers.Subtract: _broadcast_problem,
    layers.Multiply: _broadcast_problem,
    MatMul: _broadcast_problem,
}
"""Of layers that float operators take in more forms than integer ones."""
