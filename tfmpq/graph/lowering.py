"""Rewrites a model into layers that a deployed network has operators for; what it computes stays the same.

Layers of sequences become those of images one pixel high (`tfmpq.graph.sequences`), and the layers in
`tfmpq.graph.rewrites` become others. What cannot be rewritten is left as it is:
`tfmpq.graph.fusion.analyse` refuses it by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from tfmpq.graph.biases import with_biases
from tfmpq.graph.operations import expand
from tfmpq.graph.recognition import is_a
from tfmpq.graph.replay import Replay
from tfmpq.graph.rewrites import (
    Channels,
    affine_step,
    fold_into,
    hard_sigmoid_source,
    rewrite_of,
    takes_affine,
)
from tfmpq.graph.sequences import lift
from tfmpq.graph.vectors import with_image


def lower(model: keras.Model, note: Callable[[str], None] = lambda line: None) -> keras.Model:
    """Rewrite a functional model.

    Args:
        model: Functional model with one input.
        note: Hears which layers got another name, one line each.

    Returns:
        A model of new layers that computes the same; `model` itself if there is nothing to rewrite. Where
        `model` takes sequences (length, channels) or vectors (length,), the new one takes images
        (1, length, channels) or (1, 1, length).
    """
    model = lift(with_image(expand(model, note), note), note)
    lowering = Lowering(model, note)
    (source,) = model.inputs
    image = lowering.input(source, source.shape[1:])
    outputs = lowering.replay(model, [image])
    return with_biases(lowering.model(image, outputs, model) if lowering.changed else model, note)


class Lowering(Replay):
    """One rewriting of one model."""

    def __init__(self, model: Any, note: Callable[[str], None]) -> None:
        super().__init__(model, note)
        self._affine: dict[int, Channels] = {}  # by id of a tensor of the old graph: still to be applied
        self._readers: dict[int, list[Any]] = {}

    def begin(self, graph: Any, nodes: Sequence[Any]) -> None:
        """Note which layers read each tensor."""
        for node in nodes:
            for tensor in node.input_tensors:
                self._readers.setdefault(id(tensor), []).append(node.operation)
        for tensor in graph.outputs:
            self._readers.setdefault(id(tensor), []).append(None)

    def outputs(
        self, node: Any, values: dict[int, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Any]:
        """Rewrite one call."""
        operation = node.operation
        source = hard_sigmoid_source(operation)
        if source is not None and id(source) in values:
            self.changed = True
            kind, name = keras.layers.Activation, operation.name
            return [self.call(kind, name, values[id(source)], activation="hard_sigmoid")]
        if (step := affine_step(operation, args)) is not None:
            return [self._apply_affine(node, values, step)]
        pending = self._affine.pop(id(node.input_tensors[0]), None)
        if pending is not None:
            return [fold_into(self, operation, args[0], pending)]
        rewrite = rewrite_of(operation)
        made = None if rewrite is None else rewrite(self, operation, args)
        if made is not None:
            self.changed = True
            return [made]
        return self.copied(operation, args, kwargs)

    def _apply_affine(self, node: Any, values: dict[int, Any], step: Channels) -> Any:
        """Factors and offsets by channel: into the next layer if that can take them, else a layer."""
        source, result = node.input_tensors[0], node.outputs[0]
        total = self._affine.pop(id(source), Channels()).then(step)
        readers = self._readers[id(result)]
        if len(readers) == 1 and takes_affine(readers[0], total):
            self.changed = True
            self._affine[id(result)] = total
            return values[id(source)]
        name = node.operation.name
        self.changed |= not is_a(node.operation, keras.layers.Rescaling)
        return self.call(keras.layers.Rescaling, name, values[id(source)], **total.config())
