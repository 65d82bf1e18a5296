"""Layers of the user's as the layers and operations that their `call` is made of.

Transformers come as composite layers: an encoder block is one layer whose `call` runs attention, sums and
dense layers. Such a layer is called once on symbolic tensors of one image. What it calls becomes a graph,
whose layers are named after the outer one.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

from tfmpq.errors import TfmpqError
from tfmpq.graph.layers import KINDS, is_transparent
from tfmpq.graph.recognition import class_name, is_kerass_own
from tfmpq.keras_internals import holds_graph, own_operation
from tfmpq.quantizers.wrapper import QuantizeWrapper

_OF_KERAS = (layers.MultiHeadAttention, layers.GroupQueryAttention, layers.Attention)
"""Layers of Keras' own that are several operators."""


@dataclass(frozen=True, slots=True, eq=False)
class Traced:
    """What one call of a layer is made of.

    Attributes:
        model: Graph of symbolic tensors of one image; None where an input is handed on as it is.
        inputs: The new tensors that stand for its inputs, in order.
        outputs: For each output of the layer, the number of its output in the graph; or, negative, of the
            input that it is, counted from -1.
    """

    model: keras.Model | None
    inputs: tuple[Any, ...]
    outputs: tuple[int, ...]


def is_composite(layer: Any) -> bool:
    """Whether a layer stands for what its `call` does: the user's own, and attention."""
    if not isinstance(layer, layers.Layer) or isinstance(layer, (QuantizeWrapper, layers.InputLayer)):
        return False
    if type(layer) in _OF_KERAS:
        return True
    if type(layer) in KINDS or is_transparent(layer) or holds_graph(layer):
        return False
    return own_operation(layer) is None and not is_kerass_own(layer)


def trace(layer: Any, shapes: dict[int, tuple[int, ...]], args: Any, kwargs: dict[str, Any]) -> Traced:
    """Call a layer on symbolic tensors of one image.

    Args:
        layer: Composite layer.
        shapes: Shape of each tensor among the arguments, with the axis of the one image, by its id.
        args: Its arguments.
        kwargs: Its other arguments; `training` and `mask` are dropped.

    Raises:
        TfmpqError: The call fails, gives what is no tensor, or changes a variable of the layer.
    """
    given = {id(x): x for x in keras.tree.flatten([args, kwargs]) if id(x) in shapes}
    copies = {key: keras.Input(batch_shape=shapes[key], dtype=x.dtype) for key, x in given.items()}
    args, kwargs = keras.tree.map_structure(lambda x: copies.get(id(x), x), (args, kwargs))
    kwargs = {name: value for name, value in kwargs.items() if name not in ("training", "mask")}
    if "training" in inspect.signature(layer.call).parameters:
        kwargs["training"] = False
    scope = keras.StatelessScope()
    before = set(map(id, scope.state_mapping))
    try:
        with scope, _exact_shapes():
            made = keras.tree.flatten(layer.call(*args, **kwargs))
    except Exception as error:  # code of the user's
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise TfmpqError(
            "A layer of several operators is called on a symbolic tensor of one image, of a fixed size, to "
            "see what "
            f"it is made of. Received: {layer.name} ({class_name(layer)}), which fails with {reason}. "
            "Write its "
            "call with keras.ops."
        ) from error
    if set(map(id, scope.state_mapping)) - before:
        raise TfmpqError(
            f"A layer computes the same every time. Received: {layer.name} ({class_name(layer)}), whose call "
            "changes its variables. Leave that out in inference."
        )
    if not all(isinstance(x, keras.KerasTensor) for x in made):
        raise TfmpqError(
            f"A layer gives tensors that depend on the image. Received: {layer.name} ({class_name(layer)}), "
            "whose call gives a constant. Leave it out."
        )
    sources = list(copies.values())
    places = [next((-1 - n for n, x in enumerate(sources) if x is y), None) for y in made]
    own = [y for y, place in zip(made, places, strict=True) if place is None]
    numbers = iter(range(len(own)))
    outputs = tuple(next(numbers) if place is None else place for place in places)
    return Traced(keras.Model(sources, own) if own else None, tuple(given.values()), outputs)


@contextmanager
def _exact_shapes() -> Iterator[None]:
    """Have EinsumDense say all sizes of its output, also those that it was given as None."""
    given = layers.EinsumDense.compute_output_shape

    def exact(self: Any, input_shape: Any) -> tuple[Any, ...]:
        shape = given(self, input_shape)
        term, result = self.equation.replace("...", "").partition(",")[0], self.equation.partition("->")[2]
        if "..." in self.equation or len(term) != len(input_shape):
            return shape
        sizes = dict(zip(term, input_shape, strict=True))
        return tuple(
            sizes.get(label) if size is None else size for label, size in zip(result, shape, strict=True)
        )

    layers.EinsumDense.compute_output_shape = exact
    try:
        yield
    finally:
        layers.EinsumDense.compute_output_shape = given


def part_name(outer: Any, part: Any) -> str:
    """What a part of a composite layer is called in it, the same in every session.

    A name of the user's stays. A name that Keras numbered gives way to that of the attribute which holds the
    layer, or to its class.
    """
    automatic = _snake(type(part).__name__)
    if isinstance(part, layers.Layer):
        if not re.fullmatch(rf"{re.escape(automatic)}(_\d+)?", part.name):
            return str(part.name)
        for name, value in vars(outer).items():
            held = list(value) if isinstance(value, (list, tuple)) else [value]
            for number, item in enumerate(held):
                if item is part and name != "_layers":  # that list has them all
                    name = name.lstrip("_")
                    return name if item is value else f"{name}_{number}"
    return automatic


def _snake(name: str) -> str:
    """A class name as Keras makes names of layers of it."""
    found = re.sub(r"\W+", "", name)
    found = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", found)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", found).lower()
