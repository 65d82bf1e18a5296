"""A rebuilding of a model that opens composite layers: what their `call` is made of takes their place."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from tfmpq.errors import TfmpqError
from tfmpq.graph.composite import is_composite, part_name, trace
from tfmpq.graph.contractions import HANDLERS, einsum_dense, layer_of_one_image, reads_last_axis
from tfmpq.graph.one_image import is_tensor
from tfmpq.graph.recognition import class_name, is_kerass_own
from tfmpq.graph.replay import Replay, config_of, weights_of
from tfmpq.graph.rewrites import ELEMENTWISE
from tfmpq.keras_internals import holds_graph, own_operation, uncalled

_BY_ELEMENT = frozenset(
    {
        *ELEMENTWISE,
        "Maximum",
        "Minimum",
        "Clip",
        "Square",
        "Power",
        "Absolute",
        "Negative",
        "LeakyRelu",
        "Elu",
    }
    | {"Selu", "HardTanh", "Tanh", "Cast", "ConvertToTensor", "Identity", "StopGradient"}
)


class Opening(Replay):
    """One rebuilding; `opened` hears whether a layer was opened."""

    opened = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._outer: Any = None  # the composite layer that is open
        self._prefix = ""  # its name in the new model
        self._alias = ("", "")  # the name of the part that is built, and what it is called in the new model

    def opens(self, operation: Any) -> bool:
        """Whether the graph of a nested model is built again as it is; inside a layer it is traced anew."""
        return self._outer is None and holds_graph(operation)

    def name(self, wanted: str) -> str:
        """A name that is free; that of a part of a composite layer begins with the layer's."""
        return super().name(self._renamed(wanted))

    def part(self, wanted: str) -> str:
        """A name for a part; see `name`."""
        return super().part(self._renamed(wanted))

    def _renamed(self, wanted: str) -> str:
        old, new = self._alias
        if not old or not (wanted == old or wanted.startswith(f"{old}_")):
            return wanted
        return new + wanted[len(old) :]

    def within(self, node: Any) -> None:
        """Note which part of the open layer is built next."""
        if self._outer is not None:
            part = part_name(self._outer, node.operation)
            self._alias = (node.operation.name, f"{self._prefix}_{part}")

    def composite(self, node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any] | None:
        """The parts of a composite layer; None for other layers.

        Raises:
            TfmpqError: It cannot be traced.
        """
        layer = node.operation
        if type(layer) is layers.EinsumDense and self._outer is None:
            product = einsum_dense(self, layer, args[0], (1, *args[0].shape[1:]))
            self.opened |= product is not None
            return None if product is None else [product]
        if not is_composite(layer) and not (self._outer is not None and holds_graph(layer)):
            return None
        given = [x for x in keras.tree.flatten([args, kwargs]) if is_tensor(x)]
        shapes = {
            id(new): tuple(old.shape) if self._outer is not None else (1, *old.shape[1:])
            for new, old in zip(given, node.input_tensors, strict=True)
        }
        if any(None in shape for shape in shapes.values()):
            return None
        traced = trace(layer, shapes, args, kwargs)
        before = (self._outer, self._prefix, self._alias)
        self._prefix = self._alias[1] if self._outer is not None else layer.name
        self._outer = layer
        self.opened = True
        made = [] if traced.model is None else self.replay(traced.model, traced.inputs)
        self._outer, self._prefix, self._alias = before
        return [made[place] if place >= 0 else traced.inputs[-1 - place] for place in traced.outputs]

    def of_one_image(self, node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any] | None:
        """A part of the open layer, where batches take more than a call of it; None for other parts.

        Raises:
            TfmpqError: The part reads something else than images along its first axis, which it cannot.
        """
        if self._outer is None:
            return None
        operation, name = node.operation, own_operation(node.operation)
        if kwargs.get("mask") is not None:
            raise TfmpqError(
                f"Attention has no mask in a deployed network. Received: {self._prefix} "
                f"({class_name(operation)}) "
                "with one. Leave the mask out."
            )
        handler = HANDLERS.get(name or "")
        every = (*args, *kwargs.values()) if kwargs and isinstance(name, str) else args
        made = None
        if handler is not None:
            made = handler(self, node, every)
        elif isinstance(operation, layers.Layer):
            made = layer_of_one_image(self, node, args)
        if made is not None:
            return list(keras.tree.flatten(made))
        alike = reads_last_axis(operation) or name in _BY_ELEMENT
        if not alike and any(tensor.shape[:1] != (1,) for tensor in (*node.input_tensors, *node.outputs)):
            raise TfmpqError(
                "A layer of several operators keeps the images of a batch apart. Received: "
                f"{self._prefix}, whose {class_name(operation)} has {node.input_tensors[0].shape} for one "
                "image. "
                "Keep the first axis for the image."
            )
        return None

    def copied(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """As for any rebuilding; parts of a composite layer get names of their own."""
        if self._outer is not None and own_operation(operation) is not None:
            operation = uncalled(operation)
            operation.name = self.name(operation.name)  # it may be refused, by this name
        own = isinstance(operation, layers.Layer) and is_kerass_own(operation)
        if self._outer is None or not own:
            return super().copied(operation, args, kwargs)
        kwargs.pop("mask", None)
        config = config_of(operation) | {"name": self.name(operation.name), "dtype": "float32"}
        copy = type(operation).from_config(config)
        outputs = keras.tree.flatten(copy(*args, **kwargs))
        if weights := weights_of(operation):
            copy.set_weights(weights)
        return outputs
