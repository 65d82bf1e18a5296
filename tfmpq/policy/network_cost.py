"""Counts of a network, layer by layer: what costs are computed from."""

from __future__ import annotations

import math

from tfmpq.graph.dynamic_reading import kernel_of
from tfmpq.graph.kinds import WEIGHTED
from tfmpq.graph.network import Network, Node, operator_of, shortcut_channels
from tfmpq.policy.cost import CostModel, LayerCost


def cost_model(network: Network) -> CostModel:
    """Multiply-accumulates, weights and channels of every layer, at the input size of the network."""
    return CostModel(
        layers=tuple(_layer_cost(network, node) for node in network.weighted),
        fixed_bytes=sum(
            _float_bytes(node) if network.dynamic else 9 * helper_channels(node) for node in network.nodes
        ),
    )


def activation_products(network: Network) -> int:
    """Multiply-accumulates of two activations for one image, as in attention, which have no weights."""
    products = [node for node in network.nodes if node.kind == "matmul"]
    return sum(math.prod(node.output_shape) * int(node.main.input[0].shape[-1]) for node in products)


def _float_bytes(node: Node) -> int:
    """Bytes of the float numbers of a node without a kernel: of normalizations and constants."""
    if node.kind in WEIGHTED:
        return 0
    return sum(4 * math.prod(weight.shape) for layer in node.layers for weight in layer.weights)


def _layer_cost(network: Network, node: Node) -> LayerCost:
    kernel = node.main.kernel.shape
    weights = math.prod(kernel)
    transposed = node.kind == "conv2d_transpose"
    # A transposed convolution spreads every pixel of its input over a window of its output.
    shape = node.layers[0].input.shape[1:] if transposed else node.output_shape
    positions = math.prod(int(size) for size in shape[:-1])
    channels = {
        "depthwise_conv2d": kernel[-1] * kernel[-2],
        "conv2d_transpose": kernel[-2],
    }.get(node.kind, kernel[-1])
    return LayerCost(
        name=node.name,
        operator=operator_of(node),
        macs=positions * weights,
        weights=weights,
        channels=channels,
        fan_in=weights // channels,
        reads=network.node(node.inputs[0]).grid_of,
        kernel=kernel_of(node) if network.dynamic else None,
    )


def helper_channels(node: Node) -> int:
    """Output channels of the depthwise 8-bit operators that a node without a kernel needs in a file."""
    operators = {"affine": 1, "leaky_relu": 3}.get(node.kind, 0)
    return shortcut_channels(node) + operators * node.output_shape[-1]
