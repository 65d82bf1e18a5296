"""The fused network that the rest of the toolchain sees: its nodes, activation grids and costs."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from tfmpq.graph.containers import Operator
from tfmpq.graph.frozen import Activation
from tfmpq.graph.kinds import KEEPS_GRID, WEIGHTED, NodeKind
from tfmpq.graph.layers import fixed_step
from tfmpq.graph.recognition import is_a
from tfmpq.graph.shortcut import PadShortcut
from tfmpq.quantizers.wrapper import inner

INPUT_QUANTIZER = "input_quantizer"
"""Name of the layer that puts the image on its 8-bit grid."""


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operator of the deployed network.

    Attributes:
        name: Layer that holds the parameters, or that computes the value.
        kind: Operator.
        inputs: Names of the nodes that it reads.
        layers: The fused Keras layers in order: main layer, BatchNorm, activation.
        activation: Fused activation.
        tensor: Layer whose output is this node's output; it carries the activation quantizer if the grid is
            its own.
        grid_of: Name of the grid that the output has: that of its own tensor, that of its input behind
            pooling and padding, or one that all inputs of a concatenation share.
        signed: Whether the output's grid has negative values.
        output_shape: Without the batch axis.
    """

    name: str
    kind: NodeKind
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
        """The BatchNorm that is folded into the node, or that it is, unwrapped."""
        found = [inner(layer) for layer in self.layers if is_a(layer, keras.layers.BatchNormalization)]
        return found[0] if found else None

    @property
    def rounds(self) -> bool:
        """Whether the output has to be put on its grid, because it is not made of the codes of its input."""
        return self.kind not in KEEPS_GRID

    @property
    def fixed_step(self) -> float | None:
        """Step of the output's 8-bit grid if it is given by what the node computes."""
        return fixed_step(self.layers[0])


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A model's fused nodes in topological order; the first is the input.

    Attributes:
        nodes: The nodes.
        input_shape: (height, width, channels).
        outputs: Names of the nodes whose tensors the model returns, in its order.
        dynamic: Whether activations are float, quantized where a kernel reads them.
    """

    nodes: tuple[Node, ...]
    input_shape: tuple[int, int, int]
    outputs: tuple[str, ...]
    dynamic: bool = False

    def node(self, name: str) -> Node:
        """The node of that name."""
        return next(node for node in self.nodes if node.name == name)

    @property
    def weighted(self) -> tuple[Node, ...]:
        """Nodes with a kernel."""
        return tuple(node for node in self.nodes if node.kind in WEIGHTED)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the activation grids, the image's first, those of the outputs last."""
        found = dict.fromkeys(node.grid_of for node in self.nodes)
        last = dict.fromkeys(self.node(name).grid_of for name in self.outputs)
        return (*(name for name in found if name not in last), *last)

    @property
    def fixed_tensors(self) -> tuple[str, ...]:
        """Names of the activation grids of 8 bits that are given by what is computed."""
        return tuple(node.grid_of for node in self.nodes if node.fixed_step is not None)

    def on_grid(self, name: str) -> tuple[Node, ...]:
        """The nodes whose output is put on the grid of that name."""
        return tuple(node for node in self.nodes if node.grid_of == name and node.rounds)


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
    subsamples = is_a(node.main, PadShortcut) and node.main.strides > 1
    return int(node.layers[0].input.shape[-1]) if subsamples else 0
