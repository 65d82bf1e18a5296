"""Shapes of a frozen network, and what of it a file can hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tfmpq.errors import TfmpqError, UsageError
from tfmpq.graph.dynamic import DynamicLayer
from tfmpq.graph.frozen import WIDE, FrozenLayer, FrozenModel, TensorGrid
from tfmpq.graph.kinds import ABSORBING, INEXACT_WIDE, WEIGHTED

Shape = tuple[int, ...]
_GIVEN_GRIDS = {"sigmoid": TensorGrid(1.0 / 256, 8, signed=False), "tanh": TensorGrid(1.0 / 128, 8)}
"""LOGISTIC and TANH write codes of these grids and of no others."""


def deployable(frozen: FrozenModel) -> FrozenModel:
    """The network as a file holds it: without layers that change nothing (padding by 0, for example).

    Raises:
        UsageError: Two outputs are the same tensor.
        TfmpqError: A layer cannot be written; it is named with the reason.
    """
    shapes = output_shapes(frozen)
    alias: dict[str, str] = {}
    layers: list[FrozenLayer] = []
    known: dict[str, str] = {}
    for layer in frozen.layers:
        sources = [shapes[name] for name in layer.inputs]
        problem = _problem(layer, sources, frozen)
        if problem:
            raise TfmpqError(
                "Every layer has to have a form in a .tflite file. "
                f"Received: layer {layer.name} ({layer.kind}): {problem}. "
                "Change the layer or leave it out of the model."
            )
        kept = replace(layer, inputs=tuple(alias.get(name, name) for name in layer.inputs))
        if _changes_nothing(layer, shapes):
            alias[layer.name] = kept.inputs[0]
        # The converter merges operators that compute the same from the same: the second of them would have no
        # tensor of its own.
        elif layer.name not in frozen.returned and (before := _before_reshapes(kept, layers, shapes)):
            alias[layer.name] = before
        elif layer.name not in frozen.returned and _computation(kept) in known:
            alias[layer.name] = known[_computation(kept)]
        elif _averages_whole_map(layer, sources):
            # MEAN needs no weights, a depthwise kernel of ones as many as the map has pixels.
            layers.append(replace(kept, kind="global_average_pooling2d", attributes={"keepdims": True}))
        elif layer.kind == "global_average_pooling2d" and sources[0][:2] == (1, 1):
            layers += _average_of_one(kept, shapes[layer.name])
            alias[layer.name] = layers[-1].name
        else:
            layers.append(kept)
            known[_computation(kept)] = layer.name
    outputs = tuple(alias.get(name, name) for name in frozen.returned)
    if len(set(outputs)) < len(outputs):
        raise UsageError(
            f"Outputs are different tensors. Received: {frozen.name} with {len(outputs)} of them, some of "
            "which are the same. Leave out those that are there twice."
        )
    return replace(frozen, layers=tuple(layers), outputs=outputs)


def _averages_whole_map(layer: FrozenLayer, sources: list[Shape]) -> bool:
    """Whether one window of an average is the whole map, of more than one pixel."""
    if layer.kind != "average_pooling2d" or layer.keeps_grid:
        return False
    return geometry(layer)[0] == sources[0][:2] != (1, 1)


def _before_reshapes(layer: FrozenLayer, layers: list[FrozenLayer], shapes: dict[str, Shape]) -> str | None:
    """The layer that a reshape gives back by undoing those before it, as the converter sees; else None."""
    known = {known.name: known for known in layers}
    name = layer.name
    while layer.kind == "reshape":
        layer = known[layer.inputs[0]]
        if shapes[layer.name] == shapes[name]:
            return layer.name
    return None


def _computation(layer: FrozenLayer) -> str:
    """What a layer computes, the same for two layers that compute the same from the same."""
    if layer.weights is not None or layer.kind == "input":
        return layer.name
    return repr((layer.kind, layer.inputs, layer.grid, layer.activation, sorted(layer.attributes.items())))


def undelegated(layer: FrozenLayer) -> bool:
    """Whether XNNPACK has no int8 operator for a layer, so that LiteRT's own kernel runs it, exactly."""
    if layer.kind == "slice":
        return any(step != 1 for _, _, step in layer.attributes["parts"])
    return layer.kind in ("gelu", "elu") or (layer.kind == "average_pooling2d" and layer.keeps_grid)


def _average_of_one(layer: FrozenLayer, shape: Shape) -> list[FrozenLayer]:
    """A global average of one pixel: the converter would drop it, so it becomes a 1x1 window, reshaped."""
    window = {"keepdims": True, "pool_size": (1, 1), "strides": (1, 1), "padding": "valid"}
    pooled = replace(layer, attributes=window)
    if len(shape) == 3:
        return [pooled]
    flat = FrozenLayer(
        f"{layer.name}/flat", "reshape", (layer.name,), layer.grid, attributes={"shape": shape}
    )
    return [pooled, flat]


def output_shapes(frozen: FrozenModel) -> dict[str, Shape]:
    """Shape of every layer's output without the batch axis, by name."""
    shapes: dict[str, Shape] = {}
    for layer in frozen.layers:
        if layer.kind == "input":
            shapes[layer.name] = tuple(frozen.input_shape)
        else:
            shapes[layer.name] = _SHAPES[layer.kind](layer, [shapes[name] for name in layer.inputs])
    return shapes


def _windowed(layer: FrozenLayer, sources: list[Shape]) -> Shape:
    source = sources[0]
    channels = source[2] if layer.weights is None else layer.weights.scales.size
    window, strides, dilation = geometry(layer)
    spatial = (
        (size + sum(pad) - (extent - 1) * step - 1) // stride + 1
        for size, pad, extent, step, stride in zip(
            source[:2], window_padding(layer, source), window, dilation, strides, strict=True
        )
    )
    return (*spatial, channels)


def _transposed(layer: FrozenLayer, sources: list[Shape]) -> Shape:
    return (*transposed_size(layer, sources[0]), _channels(layer))


def _dense(layer: FrozenLayer, sources: list[Shape]) -> Shape:
    return (*sources[0][:-1], _channels(layer))


def _channels(layer: FrozenLayer) -> int:
    """Output channels; 0 without weights, which is refused with a better reason than a shape."""
    return 0 if layer.weights is None else layer.weights.scales.size


def _zero_padding(layer: FrozenLayer, sources: list[Shape]) -> Shape:
    return tuple(
        size + sum(pair) for size, pair in zip(sources[0], layer.attributes["paddings"], strict=True)
    )


def _cropping(layer: FrozenLayer, sources: list[Shape]) -> Shape:
    height, width, channels = sources[0]
    rows, columns = map(sum, layer.attributes["croppings"])
    return (height - rows, width - columns, channels)


def _concatenate(layer: FrozenLayer, sources: list[Shape]) -> Shape:
    axis = layer.attributes["axis"]
    return (*sources[0][:axis], sum(shape[axis] for shape in sources), *sources[0][axis + 1 :])


def _global_average(layer: FrozenLayer, sources: list[Shape]) -> Shape:
    channels = sources[0][2]
    return (1, 1, channels) if layer.attributes.get("keepdims") else (channels,)


_SHAPES: dict[str, Callable[[FrozenLayer, list[Shape]], Shape]] = {
    "conv2d": _windowed,
    "depthwise_conv2d": _windowed,
    "conv2d_transpose": _transposed,
    "dense": _dense,
    # Two tensors of one shape, or one of them is a pixel, whose shape compares as the smaller one.
    "add": lambda layer, sources: max(sources),
    "subtract": lambda layer, sources: max(sources),
    "multiply": lambda layer, sources: max(sources),
    "concatenate": _concatenate,
    "sigmoid": lambda layer, sources: sources[0],
    "tanh": lambda layer, sources: sources[0],
    "elu": lambda layer, sources: sources[0],
    "gelu": lambda layer, sources: sources[0],
    "global_average_pooling2d": _global_average,
    "average_pooling2d": _windowed,
    "max_pooling2d": _windowed,
    "zero_padding": _zero_padding,
    "cropping2d": _cropping,
    "slice": lambda layer, sources: tuple(len(range(*part)) for part in layer.attributes["parts"]),
    "transpose": lambda layer, sources: tuple(sources[0][axis] for axis in layer.attributes["axes"]),
    "reshape": lambda layer, sources: tuple(layer.attributes["shape"]),
}
"""Shape of a layer's output, from the shapes of its inputs."""


def geometry(layer: FrozenLayer | DynamicLayer) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Window, strides and dilation, each (height, width), of a convolution or pooling."""
    attributes: Any = layer.attributes
    if layer.weights is None:
        return tuple(attributes["pool_size"]), tuple(attributes["strides"]), (1, 1)
    height, width = layer.weights.integers.shape[:2]
    return (height, width), tuple(attributes["strides"]), tuple(attributes.get("dilation", (1, 1)))


def window_padding(
    layer: FrozenLayer | DynamicLayer, source: Shape
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns, ((top, bottom), (left, right)), that `same` adds, as TensorFlow defines it."""
    window, strides, dilation = geometry(layer)
    pads = []
    for size, extent, stride, step in zip(source[:2], window, strides, dilation, strict=True):
        missing = (-(-size // stride) - 1) * stride + (extent - 1) * step + 1 - size
        total = max(0, missing) if layer.attributes["padding"] == "same" else 0
        pads.append((total // 2, total - total // 2))
    return pads[0], pads[1]


def transposed_size(layer: FrozenLayer | DynamicLayer, source: Shape) -> tuple[int, int]:
    """Height and width that a transposed convolution gives, as TensorFlow defines it."""
    window, strides, _ = geometry(layer)
    beyond = 0 if layer.attributes["padding"] == "same" else 1
    height, width = (
        size * stride + beyond * max(extent - stride, 0)
        for size, extent, stride in zip(source[:2], window, strides, strict=True)
    )
    return height, width


def _changes_nothing(layer: FrozenLayer, shapes: dict[str, Shape]) -> bool:
    """Whether a layer gives its input as it is: the converter would drop it, and with it its tensor."""
    if layer.kind == "zero_padding":
        return not any(map(any, layer.attributes["paddings"]))
    if layer.kind == "cropping2d":
        return not any(map(any, layer.attributes["croppings"]))
    if layer.kind == "concatenate":
        return len(layer.inputs) == 1
    if layer.kind == "slice":
        return shapes[layer.name] == shapes[layer.inputs[0]]
    if layer.kind == "transpose":
        return list(layer.attributes["axes"]) == sorted(layer.attributes["axes"])
    if layer.kind in ("max_pooling2d", "average_pooling2d"):
        return geometry(layer)[:2] == ((1, 1), (1, 1))
    return layer.kind == "reshape" and shapes[layer.name] == shapes[layer.inputs[0]]


def _problem(layer: FrozenLayer, sources: list[Shape], frozen: FrozenModel) -> str | None:
    """Why a layer cannot be written; None if it can."""
    if layer.kind == "input":
        whole = (8, layer.grid.container)
        return None if layer.grid.bits in whole else "the input tensor has 8 bits, or those of its container"
    if frozen.wide != (layer.grid.container == WIDE):
        return "all tensors have codes of one size"
    if frozen.wide and layer.kind in INEXACT_WIDE:
        return "the runtime's kernel for 16-bit activations is more than one step off"
    if layer.activation != "linear" and layer.kind not in ABSORBING:
        return f"activation {layer.activation} cannot be fused into it"
    if layer.keeps_grid and any(frozen.layer(name).grid != layer.grid for name in layer.inputs):
        return "its output has the grid of its input"
    if layer.kind in ("add", "subtract", "multiply") and not _fits_pairwise(sources):
        return "it takes two tensors of one shape, or one of a single pixel"
    given = _GIVEN_GRIDS.get(layer.kind)
    if given is not None and layer.grid != given:
        return f"the runtime's {layer.kind} has 8 bits and the step 1/{1 / given.scale:.0f}"
    if layer.kind == "dense" and len(sources[0]) != 1:
        return "a dense layer reads a vector; put a Flatten before it"
    return _weight_problem(layer)


def _fits_pairwise(sources: list[Shape]) -> bool:
    """Whether two tensors have one shape, or one is a pixel that goes with every pixel of the other."""
    if len(sources) != 2 or sources[0] == sources[1]:
        return len(sources) == 2
    small, large = sorted(sources)
    return len(small) == len(large) == 3 and small == (1, 1, large[2])


def _weight_problem(layer: FrozenLayer) -> str | None:
    weights = layer.weights
    if weights is None:
        return "it has no weights" if layer.kind in WEIGHTED else None
    shape = weights.integers.shape
    if layer.kind == "depthwise_conv2d":
        channels = shape[2] * shape[3]
    else:
        channels = shape[-2] if layer.kind == "conv2d_transpose" else shape[-1]
    if not weights.scales.shape == weights.bias.shape == (channels,):
        return f"{channels} output channels need as many scales and biases"
    if not (weights.scales > 0).all() or not (weights.scales < float("inf")).all():
        return "weight scales are positive and finite"
    limit = 2 ** (weights.bits - 1) - 1
    if abs(weights.integers.astype(int)).max(initial=0) > limit:
        return f"its integers do not fit into {weights.bits} bits (-{limit} to {limit})"
    return None
