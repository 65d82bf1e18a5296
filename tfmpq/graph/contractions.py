"""Sums of products, and arithmetic of elements, of tensors of one image (`tfmpq.graph.one_image`)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from keras import layers

from tfmpq.graph.kernels_of_one_image import OF_KERNELS
from tfmpq.graph.one_image import (
    OF_ONE_IMAGE,
    Handler,
    Shape,
    aligned,
    array_of,
    held,
    is_tensor,
    permuted,
    reshaped,
    shapes_of,
)
from tfmpq.graph.recognition import known_function
from tfmpq.graph.replay import Replay, config_of, weights_of
from tfmpq.graph.tensors import MatMul


def _terms(equation: str, ranks: Sequence[int]) -> tuple[list[str], str] | None:
    """Labels of the operands and of the result of an equation; None for one that is none of two operands.

    An ellipsis becomes labels of its own.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or len(terms) != len(ranks):
        return None
    spare = [label for label in "ZYXWVUTSRQPONMLKJIHGFEDCBA" if label not in equation]
    lengths = [rank - len(t.replace("...", "")) for t, rank in zip(terms, ranks, strict=True) if "..." in t]
    names = "".join(spare[: max(lengths, default=0)])
    found = [
        t.replace("...", names[len(names) - (rank - len(t) + 3) :] if "..." in t else "")
        for t, rank in zip(terms, ranks, strict=True)
    ]
    right = right.replace("...", names)
    if any(len(set(t)) < len(t) for t in (*found, right)) or not set(right) <= set("".join(found)):
        return None
    return found, right


def _einsum(replay: Replay, node: Any, args: tuple[Any, ...]) -> Any:
    """Two tensors: their axes are brought into the order of a product of matrices."""
    if len(args) != 2:
        return None
    shapes, name = shapes_of(node, args), node.operation.name
    parsed = _terms(node.operation.subscripts, [len(shape) for shape in shapes])
    if parsed is None or not all(map(is_tensor, args)):
        return _with_matrix(replay, node, args, parsed, shapes)
    (one, other), result = parsed
    sizes = {k: v for t, s in zip((one, other), shapes, strict=True) for k, v in zip(t, s, strict=True)}
    both = [k for k in one if k in other and k in result]
    summed = [k for k in one if k in other and k not in result]
    rows = [k for k in one if k not in other]
    columns = [k for k in other if k not in one]
    if not set(rows + columns) <= set(result) or not summed:
        return None  # a sum over an axis of one of them, or a product element by element

    def matrices(number: int, term: str, first: list[str], second: list[str]) -> Any:
        axes = [term.index(k) for k in (*both, *first, *second)]
        value = permuted(replay, f"{name}_operand{number}", args[number], shapes[number], axes)
        shape = (*(sizes[k] for k in both), prod(sizes[k] for k in first), prod(sizes[k] for k in second))
        return reshaped(replay, f"{name}_matrices{number}", value, held(shape))

    value = replay.call(
        MatMul,
        f"{name}_product",
        [matrices(0, one, rows, summed), matrices(1, other, columns, summed)],
        transpose_b=True,
    )
    order = [*both, *rows, *columns]
    shape = tuple(sizes[k] for k in order)
    value = reshaped(replay, f"{name}_axes", value, held(shape))
    return permuted(replay, name, value, shape, [order.index(k) for k in result])


def _with_matrix(
    replay: Replay, node: Any, args: tuple[Any, ...], parsed: Any, shapes: Sequence[Shape]
) -> Any:
    """A tensor and a constant one, which is the kernel of a dense layer."""
    if parsed is None or not is_tensor(args[0]) or is_tensor(args[1]):
        return None
    return _dense(replay, node.operation.name, args[0], shapes[0], parsed, array_of(args[1]), None)


def _dense(
    replay: Replay,
    name: str,
    value: Any,
    shape: Shape,
    parsed: tuple[list[str], str],
    kernel: np.ndarray,
    bias: np.ndarray | None,
) -> Any:
    """A dense layer between reshapes; None where labels are shared without being summed."""
    (term, weights), result = parsed
    summed = [k for k in term if k in weights and k not in result]
    rows, columns = [k for k in term if k not in weights], [k for k in weights if k not in term]
    if len(summed) + len(columns) < len(weights) or not summed or not set(rows + columns) <= set(result):
        return None
    sizes = dict(zip(term, shape, strict=True)) | dict(zip(weights, kernel.shape, strict=True))
    value = permuted(replay, f"{name}_order", value, shape, [term.index(k) for k in (*rows, *summed)])
    inside = (*(sizes[k] for k in rows), prod(sizes[k] for k in summed))
    value = reshaped(replay, f"{name}_rows", value, held(inside))
    matrix = kernel.transpose([weights.index(k) for k in (*summed, *columns)])
    matrix = matrix.reshape(inside[-1], prod(sizes[k] for k in columns))
    if bias is None:
        given: list[Any] = [matrix]
    else:
        own = [k for k in result if k in columns]
        if any(size != 1 for size in bias.shape[: max(0, bias.ndim - len(own))]):
            return None  # another one for each token
        full = np.broadcast_to(bias.reshape(bias.shape[-len(own) :]), [sizes[k] for k in own])
        given = [matrix, full.transpose([own.index(k) for k in columns]).reshape(-1)]
    value = replay.call(layers.Dense, name, value, given, units=matrix.shape[1], use_bias=bias is not None)
    order = [*rows, *columns]
    shape = tuple(sizes[k] for k in order)
    value = reshaped(replay, f"{name}_axes", value, held(shape))
    return permuted(replay, f"{name}_back", value, shape, [order.index(k) for k in result])


def einsum_dense(replay: Replay, layer: Any, value: Any, shape: Shape) -> Any:
    """An EinsumDense as a dense layer between reshapes.

    Args:
        replay: The rebuilding.
        layer: EinsumDense.
        value: What it is called with.
        shape: Its shape with the axis of the one image.
    """
    kernel, *bias = weights_of(layer)
    parsed = _terms(layer.equation, [len(shape), kernel.ndim])
    if parsed is None:
        return None
    made = _dense(replay, layer.name, value, shape, parsed, kernel, bias[0] if bias else None)
    if made is None or known_function(layer.activation) == "linear":
        return made
    return replay.call(layers.Activation, f"{layer.name}_activation", made, activation=layer.activation)


_KINDS = {"Add": layers.Add, "Subtract": layers.Subtract, "Multiply": layers.Multiply}


def _binary(replay: Replay, node: Any, args: tuple[Any, ...]) -> Any:
    """A sum, difference, product or quotient of two tensors, or of one and a constant."""
    operation, operands = node.operation, list(args[:2])
    kind = type(operation).__name__
    if kind in ("Divide", "TrueDivide"):
        if is_tensor(operands[1]):
            return None
        kind, operands[1] = "Multiply", 1.0 / array_of(operands[1])
    shapes = shapes_of(node, operands)
    numbers = [None if is_tensor(x) else array_of(x) for x in operands]
    number = next((x for x in numbers if x is not None), None)
    if number is not None and tuple(node.outputs[0].shape) == tuple(node.input_tensors[0].shape):
        channels = node.outputs[0].shape[-1]
        if number.size == 1 or (number.size == channels and number.shape[-1] == channels):
            value = operands[0] if numbers[0] is None else operands[1]
            return _by_channel(replay, operation.name, value, kind, number.reshape(-1), numbers[0] is None)
    made = aligned(replay, operation.name, operands, shapes)
    value = replay.call(_KINDS[kind], operation.name, made)
    return reshaped(replay, f"{operation.name}_shape", value, held(node.outputs[0].shape))


def _by_channel(replay: Replay, name: str, value: Any, kind: str, number: np.ndarray, first: bool) -> Any:
    """A factor or an offset for each channel."""
    listed = number.tolist() if number.size > 1 else float(number[0])
    negative = (-number).tolist() if number.size > 1 else -float(number[0])
    options: dict[str, Any] = {
        "Add": {"scale": 1.0, "offset": listed},
        "Multiply": {"scale": listed},
        "Subtract": {"scale": 1.0, "offset": negative} if first else {"scale": -1.0, "offset": listed},
    }[kind]
    return replay.call(layers.Rescaling, name, value, **options)


HANDLERS: dict[str, Handler] = {
    **OF_ONE_IMAGE,
    **OF_KERNELS,
    "Einsum": _einsum,
    **dict.fromkeys((*_KINDS, "Divide", "TrueDivide"), _binary),
}
"""Handlers of operations of `keras.ops` on tensors of one image, by class name."""

_LAST_AXIS = (
    layers.Dense,
    layers.LayerNormalization,
    layers.RMSNormalization,
    layers.Activation,
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
    layers.Rescaling,
    layers.Softmax,
    layers.Dropout,
    layers.Identity,
)
_MOVING = (layers.Reshape, layers.Flatten)
_PAIRS = (layers.Add, layers.Subtract, layers.Multiply, layers.Concatenate)


def layer_of_one_image(replay: Replay, node: Any, args: tuple[Any, ...]) -> Any:
    """A layer of Keras' own that was called on tensors of one image, where that takes more than a copy."""
    layer, shape = node.operation, tuple(node.input_tensors[0].shape)
    if type(layer) is layers.EinsumDense:
        return einsum_dense(replay, layer, args[0], shape)
    if type(layer) in _MOVING:
        return reshaped(replay, layer.name, args[0], held(node.outputs[0].shape))
    if type(layer) is layers.Permute:
        return permuted(replay, layer.name, args[0], shape, (0, *layer.dims))
    if type(layer) in _PAIRS and any(tensor.shape[0] != 1 for tensor in node.input_tensors):
        operands = list(args[0])
        made = aligned(replay, layer.name, operands, shapes_of(node, operands))
        config = config_of(layer) | {"name": layer.name}
        if "axis" in config and config["axis"] >= 0:
            config["axis"] -= len(shape)
        config.pop("name"), config.pop("dtype", None), config.pop("trainable", None)
        return replay.call(type(layer), layer.name, made, **config)
    return None


def reads_last_axis(layer: Any) -> bool:
    """Whether a layer does the same to all axes but the last one, however many there are."""
    axis = getattr(layer, "axis", -1)
    return type(layer) in _LAST_AXIS and (axis in (-1, (-1,), [-1]))
