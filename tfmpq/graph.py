"""What a Keras model computes, as the rest of the toolchain sees it.

A deployed network has fused operators: a convolution, its BatchNorm and its ReLU are one. `analyse` walks a
functional model (plain or wrapped) and returns these fused nodes, the activation tensor that each one reads,
and every layer that cannot be deployed, with the reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, get_args

import keras

from tfmpq.containers import Operator
from tfmpq.cost import CostModel, LayerCost
from tfmpq.errors import TfmpqError
from tfmpq.frozen import SCALE_PRESERVING, Activation, LayerKind
from tfmpq.wrapper import inner

INPUT_QUANTIZER = "input_quantizer"
"""Name of the layer that puts the image on its 8-bit grid."""

_KINDS: dict[str, LayerKind] = {
    "Conv2D": "conv2d",
    "DepthwiseConv2D": "depthwise_conv2d",
    "Dense": "dense",
    "Add": "add",
    "GlobalAveragePooling2D": "global_average_pooling2d",
    "AveragePooling2D": "average_pooling2d",
    "MaxPooling2D": "max_pooling2d",
    "ZeroPadding2D": "zero_padding",
    "Flatten": "reshape",
    "Reshape": "reshape",
    "PadShortcut": "zero_padding",
}
_WEIGHTED = ("conv2d", "depthwise_conv2d", "dense")


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operator of the deployed network.

    Attributes:
        name: Layer that holds the parameters, or that computes the value.
        kind: Operator.
        inputs: Names of the nodes that it reads.
        layers: The fused Keras layers in order: main layer, BatchNorm, activation.
        activation: Fused activation.
        tensor: Layer whose output is this node's output; it carries the activation quantizer.
        grid_of: Name of the tensor whose grid the output has: its own, or its input's behind pooling and
            padding.
        signed: Whether the output may be negative.
        output_shape: Without the batch axis.
    """

    name: str
    kind: LayerKind
    inputs: tuple[str, ...]
    layers: tuple[keras.layers.Layer, ...]
    activation: Activation
    tensor: str
    grid_of: str
    signed: bool
    output_shape: tuple[int, ...]

    @property
    def main(self) -> keras.layers.Layer:
        """The layer that gives the node its name, unwrapped."""
        return inner(self.layers[0])

    @property
    def batch_norm(self) -> keras.layers.BatchNormalization | None:
        """The BatchNorm that is folded into the node, unwrapped."""
        found = [
            inner(layer) for layer in self.layers[1:] if type(inner(layer)).__name__ == "BatchNormalization"
        ]
        return found[0] if found else None


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A model's fused nodes in topological order; the first is the input, the last the output."""

    nodes: tuple[Node, ...]
    input_shape: tuple[int, int, int]

    def node(self, name: str) -> Node:
        """The node of that name."""
        return next(node for node in self.nodes if node.name == name)

    @property
    def weighted(self) -> tuple[Node, ...]:
        """Nodes with a kernel."""
        return tuple(node for node in self.nodes if node.kind in _WEIGHTED)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the activation tensors that have a grid of their own, the input's first."""
        return tuple(node.tensor for node in self.nodes if node.grid_of == node.tensor)

    def cost_model(self) -> CostModel:
        """MACs, weights and channels by layer, at this input size."""
        return CostModel(
            layers=tuple(self._layer_cost(node) for node in self.weighted),
            fixed_bytes=sum(9 * shortcut_channels(node) for node in self.nodes),
        )

    def _layer_cost(self, node: Node) -> LayerCost:
        kernel = node.main.kernel.shape
        weights = math.prod(kernel)
        positions = math.prod(node.output_shape[:-1])
        channels = kernel[-1] * kernel[-2] if node.kind == "depthwise_conv2d" else kernel[-1]
        return LayerCost(
            name=node.name,
            operator=operator_of(node),
            macs=positions * weights,
            weights=weights,
            channels=channels,
            fan_in=weights // channels,
            reads=self.node(node.inputs[0]).grid_of,
        )


def operator_of(node: Node) -> Operator:
    """Row of the rule table for a node with a kernel."""
    layer = node.main
    if node.kind == "conv2d":
        pointwise = (
            tuple(layer.kernel_size) == (1, 1) and tuple(layer.strides) == (1, 1) and layer.groups == 1
        )
        return "pointwise" if pointwise else "conv2d"
    return node.kind  # type: ignore[return-value]


def shortcut_channels(node: Node) -> int:
    """Channels that a parameter-free shortcut copies by a depthwise operator of ones; 0 for other nodes."""
    subsamples = type(node.main).__name__ == "PadShortcut" and node.main.strides > 1
    return int(node.layers[0].input.shape[-1]) if subsamples else 0


def analyse(model: keras.Model, input_signed: bool = True) -> Network:
    """Find the fused operators of a functional model.

    Args:
        model: Functional Keras 3 model with one image input and one output; its layers may be wrapped.
        input_signed: Whether the preprocessed image may be negative.

    Raises:
        TfmpqError: Some layers cannot be quantized and deployed; all of them are listed with the reason.
    """
    walk = _Walk(model)
    walk.refuse_unsupported()
    nodes: list[Node] = []
    home: dict[str, Node] = {}
    for layer in walk.layers:
        if layer.name in home:
            continue
        node = walk.fuse(layer, home, input_signed)
        nodes.append(node)
        for member in node.layers:
            home[member.name] = node
    shape = model.input_shape[1:]
    return Network(tuple(nodes), (int(shape[0]), int(shape[1]), int(shape[2])))


class _Walk:
    """The layer graph of a functional model: layers in order, producers and consumers by name."""

    def __init__(self, model: keras.Model) -> None:
        if not hasattr(model, "_nodes_by_depth") or len(model.inputs) != 1 or len(model.outputs) != 1:
            raise TfmpqError(
                "A model has to be functional, with one image input and one output. Received: "
                f"{type(model).__name__} '{model.name}'. Rebuild it with keras.Model(inputs, outputs)."
            )
        if len(model.inputs[0].shape) != 4 or None in model.inputs[0].shape[1:]:
            raise TfmpqError(
                "A model's input is a batch of images of fixed size (height, width, channels). Received: "
                f"'{model.name}' with input shape {tuple(model.inputs[0].shape)}. "
                "Fix the size in keras.Input."
            )
        self.layers: list[Any] = list(model.operations)
        self.output = model.outputs[0]._keras_history.operation.name
        # A layer may have been called outside this graph too: a Sequential calls it again with every `add`.
        members = {id(node) for depth in model._nodes_by_depth.values() for node in depth}
        self.producers: dict[str, list[str]] = {}
        self.consumers: dict[str, list[Any]] = {layer.name: [] for layer in self.layers}
        self.calls: dict[str, int] = {}
        for layer in self.layers:
            nodes = [node for node in layer._inbound_nodes if id(node) in members]
            self.calls[layer.name] = len(nodes)
            tensors = nodes[0].input_tensors if nodes else []
            self.producers[layer.name] = [t._keras_history.operation.name for t in tensors]
            for producer in self.producers[layer.name]:
                self.consumers[producer].append(layer)

    def refuse_unsupported(self) -> None:
        """Raise one error that lists every layer without a counterpart in the deployed network."""
        problems = [(layer, reason) for layer in self.layers if (reason := self._problem(layer))]
        if problems:
            shown = "; ".join(
                f"{layer.name} ({type(inner(layer)).__name__}): {why}" for layer, why in problems[:12]
            )
            more = f"; and {len(problems) - 12} more" if len(problems) > 12 else ""
            raise TfmpqError(
                f"Every layer has to have a quantized counterpart. Received: {len(problems)} that have none: "
                f"{shown}{more}. Replace these layers or leave them out of the model."
            )

    def _problem(self, wrapped: Any) -> str | None:
        if not isinstance(wrapped, keras.layers.Layer):
            return "an operation that is not a layer"
        layer, name = inner(wrapped), type(inner(wrapped)).__name__
        if self.calls[wrapped.name] > 1:
            return "called more than once"
        if name == "BatchNormalization":
            return self._batch_norm_problem(wrapped)
        if is_transparent(layer) or name == "InputLayer":
            return None
        if name in ("ReLU", "Activation"):
            return self._activation_problem(wrapped)
        if name not in _KINDS:
            return "not supported"
        if getattr(layer, "data_format", None) == "channels_first":
            return "channels_first data"
        if name in ("Conv2D", "DepthwiseConv2D", "Dense"):
            return _weighted_problem(layer, len(wrapped.input.shape))
        if name == "Add" and (len(wrapped.input) != 2 or len({tuple(t.shape) for t in wrapped.input}) != 1):
            return "only of two tensors of one shape"
        if name == "AveragePooling2D" and layer.padding != "valid":
            return f"padding '{layer.padding}'"
        return None

    def _batch_norm_problem(self, layer: Any) -> str | None:
        producer = self._layer(self.producers[layer.name][0])
        kind = _KINDS.get(type(inner(producer)).__name__)
        if kind not in _WEIGHTED or len(self.consumers[producer.name]) != 1:
            return "only directly behind a convolution or dense layer that nothing else reads"
        if _activation_of(producer) != "linear":
            return "behind an activation"
        return None

    def _activation_problem(self, layer: Any) -> str | None:
        if _activation_of(layer) is None:
            return "only relu and relu6 (max_value=6, no slope, no threshold)"
        producer = self._layer(self.producers[layer.name][0])
        name = type(inner(producer)).__name__
        if _activation_of(producer) != "linear":
            return "behind another activation"
        if name == "Add" or _KINDS.get(name) in _WEIGHTED or name == "BatchNormalization":
            return None if len(self.consumers[producer.name]) == 1 else "its input is also read elsewhere"
        return "only directly behind a convolution, dense layer, BatchNormalization or Add"

    def _layer(self, name: str) -> Any:
        return next(layer for layer in self.layers if layer.name == name)

    def fuse(self, layer: Any, home: dict[str, Node], input_signed: bool) -> Node:
        """Make the node that starts at `layer`."""
        members = [layer]
        if type(inner(layer)).__name__ == "InputLayer":
            members += [c for c in self.consumers[layer.name] if c.name == INPUT_QUANTIZER]
            return self._node(layer, "input", members, "linear", input_signed, home)
        kind = _KINDS.get(type(inner(layer)).__name__, "reshape")
        activation = _activation_of(layer) or "linear"
        if kind in _WEIGHTED or kind == "add":
            for name in ("BatchNormalization", "ReLU", "Activation"):
                following = self.consumers[members[-1].name]
                if (
                    len(following) != 1
                    or type(inner(following[0])).__name__ != name
                    or activation != "linear"
                ):
                    continue
                if name == "BatchNormalization" and kind == "add":
                    continue
                members.append(following[0])
                activation = _activation_of(following[0]) or "linear"
        signed = activation == "linear"
        if kind in SCALE_PRESERVING or kind.endswith("average_pooling2d"):
            signed = home[self.producers[layer.name][0]].signed
        return self._node(layer, kind, members, activation, signed, home)

    def _node(
        self,
        layer: Any,
        kind: LayerKind,
        members: list[Any],
        activation: Activation,
        signed: bool,
        home: dict[str, Node],
    ) -> Node:
        inputs = tuple(home[producer].name for producer in self.producers[layer.name])
        # The image keeps the input's name, whether or not its quantizer is there yet.
        tensor = layer.name if kind == "input" else members[-1].name
        return Node(
            name=layer.name,
            kind=kind,
            inputs=inputs,
            layers=tuple(members),
            activation=activation,
            tensor=tensor,
            grid_of=home[self.producers[layer.name][0]].grid_of if kind in SCALE_PRESERVING else tensor,
            signed=signed,
            output_shape=tuple(int(size) for size in members[-1].output.shape[1:]),
        )


def is_transparent(layer: keras.layers.Layer) -> bool:
    """Whether an (unwrapped) layer changes nothing in inference."""
    name = type(layer).__name__
    return name in ("Dropout", "Identity") or (name == "Activation" and _activation_of(layer) == "linear")


def _activation_of(wrapped: Any) -> Activation | None:
    """The activation that a layer applies; None if it is not one of the supported ones."""
    layer = inner(wrapped)
    if type(layer).__name__ == "ReLU":
        if layer.negative_slope or layer.threshold:
            return None
        return "relu" if layer.max_value is None else "relu6" if float(layer.max_value) == 6.0 else None
    name = getattr(getattr(layer, "activation", None), "__name__", "linear")
    return next((known for known in get_args(Activation) if known == name), None)


def _weighted_problem(layer: Any, input_rank: int) -> str | None:
    if _activation_of(layer) is None:
        return f"activation '{layer.activation.__name__}'"
    if getattr(layer, "padding", "valid") not in ("same", "valid"):
        return f"padding '{layer.padding}'"
    if type(layer).__name__ == "Dense" and input_rank != 2:
        return "a dense layer on more than one axis; use a 1x1 Conv2D"
    if type(layer).__name__ == "DepthwiseConv2D" and layer.depth_multiplier != 1:
        return "depth multiplier above 1"
    return "grouped convolution" if getattr(layer, "groups", 1) != 1 else None
