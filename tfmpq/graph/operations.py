"""Operations of `keras.ops`, and layers that stand for others, as layers that a deployed network has.

This comes first: what reads sequences, and what is rewritten further, sees layers only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from tfmpq.graph import arithmetic
from tfmpq.graph.composite import is_composite
from tfmpq.graph.opening import Opening
from tfmpq.graph.recognition import is_kerass_own, known_function
from tfmpq.graph.replay import Replay, config_of, weights_of
from tfmpq.graph.resizing import resized
from tfmpq.graph.rewrites import ELEMENTWISE
from tfmpq.graph.slicing import Slice
from tfmpq.graph.tracing import traced, traced_function
from tfmpq.keras_internals import all_layers, calls_in_order, functional_of, own_operation

Expansion = Callable[[Replay, Any, tuple[Any, ...]], Any]
"""Gets an operation and its new arguments; gives the new value, several, or None to leave it alone."""

_AUGMENTATIONS = tuple(
    getattr(layers, name)
    for name in dir(layers)
    if name in ("AugMix", "CutMix", "MixUp", "RandAugment", "AlphaDropout", "SpatialDropout3D")
    or (name.startswith("Random") and name != "RandomCrop")
)
"""Layers that change nothing in inference."""

_BY_ELEMENT = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Rescaling, layers.Dropout)


def expand(model: keras.Model, note: Callable[[str], None] = lambda line: None) -> keras.Model:
    """Make layers of operations, and of layers that stand for others.

    Args:
        model: Functional model.
        note: Hears which layers got another name, one line each.

    Returns:
        A model of new layers that computes the same in inference; `model` itself if there is nothing to do.
        Operations that are not known stay, to be refused by name.
    """
    notes: list[str] = []
    expansion = _Expansion(model, notes.append)
    inputs = [expansion.input(tensor, tensor.shape[1:]) for tensor in model.inputs]
    outputs = expansion.replay(model, inputs)
    if not (expansion.expanded or expansion.opened):
        return model
    for line in notes:
        note(line)
    return expansion.model(inputs[0] if len(inputs) == 1 else inputs, outputs, model)


def without_functions(model: keras.Model) -> keras.Model:
    """Replace Lambda layers, and layers of the user's own, by the operations that they are made of.

    Args:
        model: Any model.

    Returns:
        A model of new layers; `model` itself if there are none, or it is not functional.
    """
    return expand(model) if any(map(_holds_code, all_layers(model))) else model


def _holds_code(layer: Any) -> bool:
    """Whether a file that holds a layer has to be read with code of the user's."""
    return isinstance(layer, layers.Lambda) or (is_composite(layer) and not is_kerass_own(layer))


class _Expansion(Opening):
    """One expansion of one model."""

    expanded = False

    def outputs(
        self, node: Any, values: dict[int, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Any]:
        """Expand one call."""
        operation = node.operation
        self.within(node)
        opened = self.composite(node, args, kwargs) or self.of_one_image(node, args, kwargs)
        if opened is not None:
            return opened
        table: Any = _LAYERS.get(type(operation))
        if table is None and not isinstance(operation, layers.Layer):
            table = _OPERATIONS.get(own_operation(operation) or "")
        # Some operations take arguments by name that others keep.
        made = (
            None if table is None else table(self, operation, (*args, *kwargs.values()) if kwargs else args)
        )
        if made is None:
            made = _split_activation(self, operation, args)
        if made is None:
            return self.copied(operation, args, kwargs)
        self.expanded = True
        return list(keras.tree.flatten(made))


def _split_activation(replay: Replay, layer: Any, args: tuple[Any, ...]) -> Any:
    """Take an activation out of a layer: several layers, a layer, or a function of the user's."""
    function = getattr(layer, "activation", None)
    if function is None or not is_kerass_own(layer):
        return None
    own = isinstance(function, layers.Layer)
    if not own and known_function(function) is not None and not arithmetic.is_composed(function):
        return None
    model = None if own or arithmetic.is_composed(function) else _made_of_operations(function, args[0])
    if model is None and not own and not arithmetic.is_composed(function):
        return None
    value, name = args[0], layer.name
    if not isinstance(layer, layers.Activation):
        config = config_of(layer) | {"activation": "linear", "name": replay.name(layer.name)}
        copy = type(layer).from_config(config)
        value, name = copy(value), replay.part(f"{layer.name}_activation")
        copy.set_weights(weights_of(layer))
    if model is not None:
        return replay.replay(model, [value])[0]
    if own:
        return _activation_layer(replay, function, name, value)
    return arithmetic.activated(replay, function, name, value)


def _made_of_operations(function: Any, like: Any) -> keras.Model | None:
    """A function of the user's as a model; None if it is not made of operations that are known."""
    model = traced(function, like)
    if model is None:
        return None
    known = {*_OPERATIONS, *ELEMENTWISE}
    found = [call.operation for call in calls_in_order(functional_of(model)) if not call.is_input]
    return model if all(own_operation(operation) in known for operation in found) else None


def _activation_layer(replay: Replay, layer: Any, name: str, value: Any) -> Any:
    """A layer that was given to another one as its activation, behind that one."""
    copy = type(layer).from_config(config_of(layer) | {"name": name})
    table = _LAYERS.get(type(layer))
    made = None if table is None else table(replay, copy, (value,))
    if made is None:
        made = _split_activation(replay, copy, (value,)) if isinstance(layer, layers.Activation) else None
    if made is None:
        copy.name = replay.name(name)
        made = copy(value)
        if weights := weights_of(layer):
            copy.set_weights(weights)
    return made


def _nothing(replay: Replay, operation: Any, args: tuple[Any, ...]) -> Any:
    return args[0]


def _time_distributed(replay: Replay, wrapper: Any, args: tuple[Any, ...]) -> Any:
    """Layers that look at the last axis only do the same at every time anyway."""
    inner, value = wrapper.layer, args[0]
    if type(inner) is layers.Flatten:
        shape = (value.shape[1], int(np.prod(value.shape[2:])))
        return replay.call(layers.Reshape, wrapper.name, value, target_shape=shape)
    last = type(inner) in (layers.Dense, *_BY_ELEMENT)
    if type(inner) is layers.BatchNormalization:
        last = inner.axis in (-1, len(value.shape) - 2)
    if not last:
        return None
    config = config_of(inner) | {"name": wrapper.name}
    if type(inner) is layers.BatchNormalization:
        config["axis"] = -1
    copy = type(inner).from_config(config)
    copy.build(value.shape)
    copy.set_weights(weights_of(inner))
    split = _split_activation(replay, copy, args)
    if split is not None:
        return split
    copy.name = replay.name(wrapper.name)
    return copy(value)


def _lambda(replay: Replay, layer: Any, args: tuple[Any, ...]) -> Any:
    model = traced_function(layer, args[0])
    return None if model is None else replay.replay(model, keras.tree.flatten(args[0]))


def _reshape(replay: Replay, operation: Any, args: tuple[Any, ...]) -> Any:
    """Whatever keeps the order of the elements."""
    shape = operation.compute_output_spec(*args).shape
    if None in shape[1:] or int(np.prod(shape[1:])) != int(np.prod(args[0].shape[1:])):
        return None
    return replay.call(layers.Reshape, operation.name, args[0], target_shape=shape[1:])


def _transpose(replay: Replay, operation: Any, args: tuple[Any, ...]) -> Any:
    rank = len(args[0].shape)
    axes = tuple(reversed(range(rank))) if operation.axes is None else operation.axes
    axes = tuple(axis % rank for axis in axes)
    return permuted(replay, operation.name, args[0], axes) if axes[0] == 0 else None


def _swapaxes(replay: Replay, operation: Any, args: tuple[Any, ...]) -> Any:
    axes = list(range(len(args[0].shape)))
    one, other = operation.axis1, operation.axis2
    axes[one], axes[other] = axes[other], axes[one]
    return permuted(replay, operation.name, args[0], tuple(axes)) if axes[0] == 0 else None


def _permute(replay: Replay, layer: Any, args: tuple[Any, ...]) -> Any:
    axes = (0, *layer.dims)
    order = [axis for axis in axes[1:] if args[0].shape[axis] != 1]
    return permuted(replay, layer.name, args[0], axes) if order == sorted(order) else None


def permuted(replay: Replay, name: str, value: Any, axes: Sequence[int]) -> Any:
    """A tensor with its axes in another order; a reshape where only axes of one element move."""
    order = [axis for axis in axes[1:] if value.shape[axis] != 1]
    if order == sorted(order):
        shape = tuple(value.shape[axis] for axis in axes[1:])
        return replay.call(layers.Reshape, name, value, target_shape=shape)
    return replay.call(layers.Permute, name, value, dims=tuple(axes[1:]))


def _concatenate(replay: Replay, operation: Any, args: tuple[Any, ...]) -> Any:
    return replay.call(layers.Concatenate, operation.name, list(args[0]), axis=operation.axis)


def _stack(replay: Replay, operation: Any, args: tuple[Any, ...]) -> Any:
    parts = list(args[0])
    axis = operation.axis % (len(parts[0].shape) + 1)
    shape = (*parts[0].shape[1:axis], 1, *parts[0].shape[axis:])
    parts = [
        replay.call(layers.Reshape, f"{operation.name}_part{number}", part, target_shape=shape)
        for number, part in enumerate(parts)
    ]
    return replay.call(layers.Concatenate, operation.name, parts, axis=axis)


def _pad(replay: Replay, operation: Any, args: tuple[Any, ...]) -> Any:
    pads, fill = [tuple(pair) for pair in operation.pad_width], args[1] if len(args) > 1 else None
    if operation.mode != "constant" or fill or len(pads) != 4 or any(pads[0]) or any(pads[3]):
        return None
    return replay.call(layers.ZeroPadding2D, operation.name, args[0], padding=(pads[1], pads[2]))


def sliced(replay: Replay, name: str, value: Any, parts: Sequence[slice]) -> Any:
    """A part of a tensor, given by slices of its axes behind the batch."""
    ranges = [part.indices(size) for part, size in zip(parts, value.shape[1:], strict=True)]
    if all(
        begin == 0 and end == size and step == 1
        for (begin, end, step), size in zip(ranges, value.shape[1:], strict=True)
    ):
        return value
    return replay.call(Slice, name, value, parts=ranges)


def _get_item(replay: Replay, operation: Any, args: tuple[Any, ...]) -> Any:
    # A file keeps a tuple as a list.
    value, key = args[0], tuple(args[1]) if isinstance(args[1], tuple | list) else (args[1],)
    if Ellipsis in key:
        place = key.index(Ellipsis)
        missing = len(value.shape) - (len(key) - 1)
        key = (*key[:place], *[slice(None)] * missing, *key[place + 1 :])
    key = (*key, *[slice(None)] * (len(value.shape) - len(key)))
    batch, *rest = key
    simple = all(isinstance(part, (int, slice)) for part in rest)
    if batch != slice(None) or not simple or any(isinstance(p, slice) and (p.step or 1) < 1 for p in rest):
        return None
    parts = [part if isinstance(part, slice) else slice(part, part + 1 or None) for part in rest]
    whole = all(isinstance(part, slice) for part in rest)
    made = sliced(replay, operation.name if whole else f"{operation.name}_part", value, parts)
    if whole:
        return made
    kept = tuple(size for size, part in zip(made.shape[1:], rest, strict=True) if isinstance(part, slice))
    return replay.call(layers.Reshape, operation.name, made, target_shape=kept)


def _split(replay: Replay, operation: Any, args: tuple[Any, ...]) -> Any:
    value, where = args[0], operation.indices_or_sections
    axis = operation.axis % len(value.shape)
    size = value.shape[axis]
    if axis == 0 or size is None:
        return None
    if isinstance(where, int):
        ends = [size // where * number for number in range(1, where + 1)]
    else:
        ends = [*(int(end) for end in where), size]
    found = []
    for number, (begin, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        parts = [slice(None)] * (len(value.shape) - 1)
        parts[axis - 1] = slice(begin, end)
        found.append(sliced(replay, f"{operation.name}_{number}", value, parts))
    return found


def _mean(replay: Replay, operation: Any, args: tuple[Any, ...]) -> Any:
    """Over the rows and columns of an image, or one of them; over the times of a sequence."""
    value = args[0]
    rank, name = len(value.shape), operation.name
    axes = operation.axis if isinstance(operation.axis, (list, tuple)) else (operation.axis,)
    if None in axes:
        return None
    axes = tuple(sorted(axis % rank for axis in axes))
    keepdims = bool(operation.keepdims)
    if rank == 4 and axes == (1, 2):
        return replay.call(layers.GlobalAveragePooling2D, name, value, keepdims=keepdims)
    if rank == 3 and axes == (1,):
        return replay.call(layers.GlobalAveragePooling1D, name, value, keepdims=keepdims)
    if rank != 4 or axes not in ((1,), (2,)):
        return None
    window = tuple(value.shape[axis] if axis in axes else 1 for axis in (1, 2))
    pooled = replay.call(layers.AveragePooling2D, f"{name}_window", value, pool_size=window)
    shape = tuple(size for axis, size in enumerate(pooled.shape) if axis and (keepdims or axis not in axes))
    return replay.call(layers.Reshape, name, pooled, target_shape=shape)


def _largest(replay: Replay, operation: Any, args: tuple[Any, ...]) -> Any:
    axes = operation.axis if isinstance(operation.axis, (list, tuple)) else (operation.axis,)
    if None in axes or len(args[0].shape) != 4 or tuple(sorted(axis % 4 for axis in axes)) != (1, 2):
        return None
    return replay.call(layers.GlobalMaxPooling2D, operation.name, args[0], keepdims=bool(operation.keepdims))


def _pooling(kind: Any) -> Expansion:
    def expanded(replay: Replay, operation: Any, args: tuple[Any, ...]) -> Any:
        if len(args[0].shape) != 4 or operation.data_format == "channels_first":
            return None
        options = {
            "pool_size": operation.pool_size,
            "strides": operation.strides,
            "padding": operation.padding,
        }
        return replay.call(kind, operation.name, args[0], **options)

    return expanded


def _random_crop(replay: Replay, layer: Any, args: tuple[Any, ...]) -> Any:
    """Nothing where it keeps the size; else Keras crops in training only, and says another shape."""
    return args[0] if (layer.height, layer.width) == tuple(args[0].shape[1:3]) else None


def _center_crop(replay: Replay, layer: Any, args: tuple[Any, ...]) -> Any:
    """What lies in the middle."""
    value, size = args[0], (layer.height, layer.width)
    spare = [have - want for have, want in zip(value.shape[1:3], size, strict=True)]
    if len(value.shape) != 4 or min(spare) < 0:
        return None
    pads = tuple((extra // 2, extra - extra // 2) for extra in spare)
    return replay.call(layers.Cropping2D, layer.name, value, cropping=pads)


def _normalization(replay: Replay, layer: Any, args: tuple[Any, ...]) -> Any:
    """One mean and one variance for all elements."""
    if layer.axis not in ((), None):
        return None
    mean, deviation = float(np.ravel(layer.mean)[0]), float(np.sqrt(np.ravel(layer.variance)[0]))
    deviation = max(deviation, keras.config.epsilon())
    scale, offset = (deviation, mean) if layer.invert else (1.0 / deviation, -mean / deviation)
    return replay.call(layers.Rescaling, layer.name, args[0], scale=scale, offset=offset)


_LAYERS: dict[type, Expansion] = {
    **dict.fromkeys(_AUGMENTATIONS, _nothing),
    layers.CenterCrop: _center_crop,
    layers.RandomCrop: _random_crop,
    layers.TimeDistributed: _time_distributed,
    layers.Lambda: _lambda,
    layers.Permute: _permute,
    layers.Normalization: _normalization,
    layers.Resizing: resized,
    **arithmetic.LAYERS,
}
_OPERATIONS: dict[str, Expansion] = {
    **dict.fromkeys(("Reshape", "ExpandDims", "Squeeze", "Ravel"), _reshape),
    **dict.fromkeys(("Cast", "ConvertToTensor", "Identity", "StopGradient"), _nothing),
    "Transpose": _transpose,
    "Swapaxes": _swapaxes,
    "Concatenate": _concatenate,
    "Stack": _stack,
    "Pad": _pad,
    "GetItem": _get_item,
    "Split": _split,
    "Mean": _mean,
    "Max": _largest,
    "AveragePool": _pooling(layers.AveragePooling2D),
    "MaxPool": _pooling(layers.MaxPooling2D),
    "Resize": resized,
    **arithmetic.OPERATIONS,
}
