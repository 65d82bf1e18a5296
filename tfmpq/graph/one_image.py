"""Operations on tensors of one image as layers on batches.

A composite layer is traced on symbolic tensors of one image. Their first axis is that image, or something
that was put there, as the windows of a Swin block. A tensor of shape (1, a, b) is (batch, a, b) in the new
graph; one of shape (n, a, b) is (batch, n, a, b). `held` is that shape without the batch. A handler gets the
call, whose tensors have the shapes of one image, and the new tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod, sqrt
from typing import Any

import keras
import numpy as np
from keras import layers

from tfmpq.graph.replay import Replay
from tfmpq.graph.slicing import Slice
from tfmpq.graph.tensors import Constant, MatMul

Handler = Callable[[Replay, Any, tuple[Any, ...]], Any]
Shape = tuple[int, ...]


def held(shape: Sequence[int]) -> Shape:
    """Axes behind the batch in which a tensor of one image is held."""
    sizes = tuple(int(size) for size in shape)
    return sizes[1:] if sizes[:1] == (1,) else sizes


def reshaped(replay: Replay, name: str, value: Any, shape: Sequence[int]) -> Any:
    """The same elements in another shape, given without the batch."""
    if tuple(value.shape[1:]) == tuple(shape):
        return value
    return replay.call(layers.Reshape, name, value, target_shape=tuple(shape))


def permuted(replay: Replay, name: str, value: Any, shape: Shape, axes: Sequence[int]) -> Any:
    """A tensor of one image, of this shape, with its axes in another order.

    Args:
        replay: The rebuilding.
        name: Of the layer.
        value: The new tensor.
        shape: Shape with the axis of the image.
        axes: Where each axis comes from.
    """
    behind = [axis for axis in axes if axis or shape[0] != 1]
    first = 0 if shape[0] != 1 else 1
    dims = tuple(axis - first + 1 for axis in behind)
    order = [axis for axis in behind if shape[axis] != 1]
    if order != sorted(order):
        value = replay.call(layers.Permute, name, value, dims=dims)
        name = f"{name}_shape"
    return reshaped(replay, name, value, held([shape[axis] for axis in axes]))


def is_tensor(value: Any) -> bool:
    """Whether it depends on the image."""
    return isinstance(value, keras.KerasTensor)


def array_of(value: Any) -> np.ndarray:
    """A constant of any library."""
    return np.asarray(keras.ops.convert_to_numpy(value), np.float32)


def constant(replay: Replay, name: str, value: np.ndarray, like: Any) -> Any:
    """A constant tensor of the shape that `value` has, for every image that `like` has."""
    return replay.call(Constant, f"{name}_constant", like, [value], shape=value.shape)


def _movement(replay: Replay, node: Any, args: tuple[Any, ...]) -> Any:
    """Whatever keeps the order of the elements."""
    return reshaped(replay, node.operation.name, args[0], held(node.outputs[0].shape))


def _permutation(order: Callable[[Any, int], Sequence[int]]) -> Handler:
    def handler(replay: Replay, node: Any, args: tuple[Any, ...]) -> Any:
        shape = tuple(node.input_tensors[0].shape)
        axes = [axis % len(shape) for axis in order(node.operation, len(shape))]
        return permuted(replay, node.operation.name, args[0], shape, axes)

    return handler


def _swapped(operation: Any, rank: int) -> list[int]:
    axes = list(range(rank))
    one, other = operation.axis1 % rank, operation.axis2 % rank
    axes[one], axes[other] = axes[other], axes[one]
    return axes


def _moved(operation: Any, rank: int) -> list[int]:
    sources, targets = ([axis % rank for axis in axes] for axes in (operation.source, operation.destination))
    axes = [axis for axis in range(rank) if axis not in sources]
    for target, source in sorted(zip(targets, sources, strict=True)):
        axes.insert(target, source)
    return axes


def _cut(replay: Replay, name: str, value: Any, shape: Shape, axis: int, begin: int, end: int) -> Any:
    """A range of one axis of a tensor of one image; of an axis before the last ones."""
    if (begin, end) == (0, shape[axis]):
        return value
    ranges = [(0, size, 1) for size in shape]
    ranges[axis] = (begin, end, 1)
    return replay.call(Slice, name, value, parts=ranges if shape[0] != 1 else ranges[1:])


def _get_item(replay: Replay, node: Any, args: tuple[Any, ...]) -> Any:
    shape, key = tuple(node.input_tensors[0].shape), args[1] if isinstance(args[1], tuple) else (args[1],)
    key = tuple(part for part in key if part is not None)
    if Ellipsis in key:
        place = key.index(Ellipsis)
        key = (*key[:place], *[slice(None)] * (len(shape) - len(key) + 1), *key[place + 1 :])
    key = (*key, *[slice(None)] * (len(shape) - len(key)))
    if not all(isinstance(part, (int, slice)) for part in key):
        return None
    ranges = [
        part.indices(size) if isinstance(part, slice) else (part % size, part % size + 1, 1)
        for part, size in zip(key, shape, strict=True)
    ]
    if any(step < 1 for _, _, step in ranges):
        return None
    name, value = node.operation.name, args[0]
    parts = ranges if shape[0] != 1 else ranges[1:]
    if any(tuple(part) != (0, size, 1) for part, size in zip(parts, value.shape[1:], strict=True)):
        value, name = replay.call(Slice, name, value, parts=parts), f"{name}_shape"
    return reshaped(replay, name, value, held(node.outputs[0].shape))


def _split(replay: Replay, node: Any, args: tuple[Any, ...]) -> Any:
    shape, operation = tuple(node.input_tensors[0].shape), node.operation
    axis, where = operation.axis % len(shape), operation.indices_or_sections
    if isinstance(where, int):
        ends = [shape[axis] // where * number for number in range(1, where + 1)]
    else:
        ends = [*(int(end) for end in where), shape[axis]]
    found = []
    for number, (begin, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        part = _cut(replay, f"{operation.name}_{number}", args[0], shape, axis, begin, end)
        found.append(
            reshaped(replay, f"{operation.name}_{number}_shape", part, held(node.outputs[number].shape))
        )
    return found


def _unstacked(replay: Replay, node: Any, args: tuple[Any, ...]) -> Any:
    shape = tuple(node.input_tensors[0].shape)
    axis = node.operation.axis % len(shape)
    name = node.operation.name
    return [
        reshaped(
            replay,
            f"{name}_{number}_shape",
            _cut(replay, f"{name}_{number}", args[0], shape, axis, number, number + 1),
            held(node.outputs[number].shape),
        )
        for number in range(shape[axis])
    ]


def _roll(replay: Replay, node: Any, args: tuple[Any, ...]) -> Any:
    """Along one axis or several: the end of each axis goes before its beginning."""
    shape, operation, value = tuple(node.input_tensors[0].shape), node.operation, args[0]
    axes = operation.axis if isinstance(operation.axis, (list, tuple)) else (operation.axis,)
    shifts = operation.shift if isinstance(operation.shift, (list, tuple)) else (operation.shift,) * len(axes)
    if None in axes:
        return None
    for axis, shift in zip(axes, shifts, strict=True):
        axis, number = axis % len(shape), int(shift) % shape[axis]
        if number:
            name, middle = f"{operation.name}_{axis}", shape[axis] - number
            parts = [
                _cut(replay, f"{name}_end", value, shape, axis, middle, shape[axis]),
                _cut(replay, f"{name}_begin", value, shape, axis, 0, middle),
            ]
            value = replay.call(layers.Concatenate, name, parts, axis=axis - len(shape))
    return value


def _joined(replay: Replay, node: Any, args: tuple[Any, ...]) -> Any:
    """Concatenation and stacking of tensors, and of tensors with constants."""
    operation, parts = node.operation, list(args[0])
    stacks = type(operation).__name__ == "Stack"
    sources = iter(node.input_tensors)
    shapes = [tuple(next(sources).shape) if is_tensor(part) else np.shape(part) for part in parts]
    rank = len(shapes[0]) + stacks
    axis = operation.axis % rank
    if stacks:
        shapes = [(*shape[:axis], 1, *shape[axis:]) for shape in shapes]
    like = next(part for part in parts if is_tensor(part))
    leading = axis == 0 or any(shape[0] != 1 for shape in shapes)
    made = []
    for number, (part, shape) in enumerate(zip(parts, shapes, strict=True)):
        wanted = shape if leading else shape[1:]
        name = f"{operation.name}_part{number}"
        if is_tensor(part):
            made.append(reshaped(replay, name, part, wanted))
        else:
            made.append(constant(replay, name, array_of(part).reshape(wanted), like))
    value = replay.call(layers.Concatenate, operation.name, made, axis=axis - rank)
    return reshaped(replay, f"{operation.name}_shape", value, held(node.outputs[0].shape))


def _matmul(replay: Replay, node: Any, args: tuple[Any, ...]) -> Any:
    one, other = args[:2]
    name = node.operation.name
    if not is_tensor(other) and np.ndim(other) == 2:
        kernel = array_of(other)
        return replay.call(layers.Dense, name, one, [kernel], units=kernel.shape[1], use_bias=False)
    shapes = shapes_of(node, (one, other))
    if min(map(len, shapes)) < 2:
        return None
    operands = aligned(replay, name, (one, other), shapes, keep=2)
    value = replay.call(MatMul, name, operands)
    return reshaped(replay, f"{name}_shape", value, held(node.outputs[0].shape))


def shapes_of(node: Any, operands: Sequence[Any]) -> list[Shape]:
    """Shapes of operands with the axis of the one image; constants have their own."""
    sources = iter(node.input_tensors)
    return [tuple(next(sources).shape) if is_tensor(x) else tuple(np.shape(x)) for x in operands]


def aligned(
    replay: Replay, name: str, operands: Sequence[Any], shapes: Sequence[Shape], keep: int = 0
) -> list[Any]:
    """Operands with as many axes each, constants as layers, so that they are broadcast as in one image.

    Args:
        replay: The rebuilding.
        name: Of the operation.
        operands: New tensors and constants.
        shapes: Their shapes with the axis of the image.
        keep: Last axes that have to be there whatever comes before them.
    """
    rank = max(map(len, shapes))
    full = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    if rank > keep and all(shape[0] == 1 for shape in full):
        full = [shape[1:] for shape in full]
    like = next(x for x in operands if is_tensor(x))
    return [
        reshaped(replay, f"{name}_operand{number}", x, shape)
        if is_tensor(x)
        else constant(replay, f"{name}_operand{number}", array_of(x).reshape(shape), like)
        for number, (x, shape) in enumerate(zip(operands, full, strict=True))
    ]


def _attention(replay: Replay, node: Any, args: tuple[Any, ...]) -> Any:
    """`keras.ops.dot_product_attention` of (1, tokens, heads, size) tensors without a mask."""
    operation = node.operation
    given: list[Any] = [*args, *[None] * (6 - len(args))]
    query, key, value, bias, mask, scale = given
    same = all(is_tensor(x) for x in (query, key, value))
    if not same or mask is not None or operation.is_causal or operation.attn_logits_soft_cap is not None:
        return None
    shapes = [tuple(tensor.shape) for tensor in node.input_tensors[:3]]
    if any(shape[0] != 1 for shape in shapes) or shapes[0][2] != shapes[1][2]:
        return None  # windows in the place of images; fewer heads of keys than of queries
    name = operation.name
    size = shapes[0][-1]
    query = replay.call(
        layers.Rescaling, f"{name}_scale", query, scale=1 / sqrt(size) if scale is None else float(scale)
    )
    heads = [
        permuted(replay, f"{name}_{which}", x, shape, (0, 2, 1, 3))
        for which, x, shape in zip(("query", "key", "value"), (query, key, value), shapes, strict=True)
    ]
    scores = replay.call(MatMul, f"{name}_scores", heads[:2], transpose_b=True)
    if bias is not None:
        if is_tensor(bias):
            return None
        added = array_of(bias)
        added = constant(replay, f"{name}_bias", added.reshape(added.shape[1:]), scores)
        scores = replay.call(layers.Add, f"{name}_biased", [scores, added])
    weights = replay.call(layers.Softmax, f"{name}_weights", scores)
    mixed = replay.call(MatMul, f"{name}_mixed", [weights, heads[2]])
    return permuted(replay, name, mixed, (1, shapes[0][2], shapes[0][1], shapes[2][3]), (0, 2, 1, 3))


def _mean(replay: Replay, node: Any, args: tuple[Any, ...]) -> Any:
    """Over tokens, or over rows and columns; other axes are brought there where that moves nothing."""
    shape, operation, value = tuple(node.input_tensors[0].shape), node.operation, args[0]
    axes = operation.axis if isinstance(operation.axis, (list, tuple)) else (operation.axis,)
    if None in axes or shape[0] != 1:
        return None
    axes = sorted(axis % len(shape) for axis in axes)
    # All axes between the image and the channels.
    if axes != list(range(1, len(shape) - 1)):
        return None
    value = reshaped(replay, f"{operation.name}_image", value, (1, prod(shape[1:-1]), shape[-1]))
    value = replay.call(layers.GlobalAveragePooling2D, operation.name, value)
    return reshaped(replay, f"{operation.name}_shape", value, held(node.outputs[0].shape))


def _softmax(replay: Replay, node: Any, args: tuple[Any, ...]) -> Any:
    """Along the last axis."""
    operation, rank = node.operation, len(node.input_tensors[0].shape)
    if operation.axis not in (-1, rank - 1):
        return None
    return replay.call(layers.Softmax, operation.name, args[0])


def _repeated(replay: Replay, node: Any, args: tuple[Any, ...]) -> Any:
    """`broadcast_to` that changes nothing."""
    same = tuple(node.input_tensors[0].shape) == tuple(node.outputs[0].shape)
    return args[0] if same else None


OF_ONE_IMAGE: dict[str, Handler] = {
    **dict.fromkeys(("Reshape", "ExpandDims", "Squeeze", "Ravel", "Flatten"), _movement),
    "Transpose": _permutation(lambda op, rank: op.axes or tuple(reversed(range(rank)))),
    "Swapaxes": _permutation(_swapped),
    "Moveaxis": _permutation(_moved),
    "GetItem": _get_item,
    "Split": _split,
    "Unstack": _unstacked,
    "Roll": _roll,
    "Concatenate": _joined,
    "Stack": _joined,
    "Matmul": _matmul,
    "DotProductAttention": _attention,
    "Mean": _mean,
    "Softmax": _softmax,
    "BroadcastTo": _repeated,
}
"""Handlers of operations of `keras.ops`, by class name."""
