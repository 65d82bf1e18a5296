"""A float network from one of its layers on: what a change of one kernel or tensor does to the outputs.

Every node with a kernel is compiled by itself, with kernel and offset as arguments and BatchNorm folded into
them, so that convolution, offset and activation are one pass over memory and any kernel can take the place of
the float one. Nodes before the change are not computed again: all changes of a layer begin at its input.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from keras import ops

from tfmpq.graph.kinds import WEIGHTED
from tfmpq.graph.network import Network, Node
from tfmpq.quantization.fused_float import activated, affine_behind, product, unweighted
from tfmpq.training.backend import compiled

Values = dict[str, Any]
"""Tensors by the name of the node that computes them."""

OnGrid = tuple[str, Callable[[Any], Any]]
"""Name of a grid, and what is done to the tensors on it."""

_VALUES = 2**25
"""Values of one layer's inputs and outputs that are computed at once."""

_MOST_IMAGES = 64


class FusedNetwork:
    """A fused float network, node by node.

    Args:
        network: Its analysis.

    Attributes:
        network: As it was given.
        kernels: By layer, the kernel times the factors behind it, a float32 tensor in the layout of Keras.
        offsets: By layer, what is added to each channel, a float32 tensor (channels,).
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.kernels: Values = {}
        self.offsets: Values = {}
        self._functions: dict[str, Callable[..., Any]] = {}
        self._products: dict[str, Callable[..., Any]] = {}
        for node in network.nodes:
            if node.kind in WEIGHTED:
                kernel = np.asarray(node.main.kernel, np.float64)
                self.kernels[node.name] = self.scaled(node, kernel)
                self.offsets[node.name] = ops.convert_to_tensor(affine_behind(node)[1].astype(np.float32))
                self._functions[node.name] = compiled(partial(_with_kernel, node))
                self._products[node.name] = compiled(partial(product, node))
        last = {name: i for i, node in enumerate(network.nodes) for name in node.inputs}
        self._last_reader = last | dict.fromkeys(network.outputs, len(network.nodes))

    @staticmethod
    def scaled(node: Node, kernel: np.ndarray) -> Any:
        """A kernel times the factors of the channels behind it, a float32 tensor."""
        shapes = {"conv2d_transpose": (-1, 1), "depthwise_conv2d": kernel.shape[2:]}
        factor = affine_behind(node)[0].reshape(shapes.get(node.kind, (-1,)))
        return ops.convert_to_tensor((kernel * factor).astype(np.float32))

    def compute(self, node: Node, values: Values, kernel: Any = None, offset: Any = None) -> Any:
        """Output of a node, with another kernel or offset than its own where one is given."""
        inputs = [values[name] for name in node.inputs]
        if node.kind not in WEIGHTED:
            return activated(node, unweighted(node, inputs))
        kernel = self.kernels[node.name] if kernel is None else kernel
        offset = self.offsets[node.name] if offset is None else offset
        return self._functions[node.name](inputs[0], kernel, offset)

    def times(self, node: Node, x: Any, kernel: Any) -> Any:
        """An input times a kernel of a node, without anything behind it."""
        return self._products[node.name](x, kernel)

    def outputs(self, begin: int, values: Values, grid: OnGrid | None = None) -> list[Any]:
        """Outputs of the network.

        Args:
            begin: Number of the first node that is computed.
            values: What nodes before it gave, as far as later ones read it; left as it is.
            grid: Changes the tensors on one grid.
        """
        values = dict(values)
        for index, node in enumerate(self.network.nodes):
            if index < begin or node.kind == "input":
                continue
            values[node.name] = self.compute(node, values)
            if grid is not None and node.grid_of == grid[0] and node.rounds:
                values[node.name] = grid[1](values[node.name])
            self.drop(index, values)
        return [values[name] for name in self.network.outputs]

    def drop(self, index: int, values: Values) -> None:
        """Forget what no node behind a number reads."""
        for name in self.network.nodes[index].inputs:
            if self._last_reader[name] <= index:
                values.pop(name, None)

    def images_at_once(self) -> int:
        """Images that are computed at once where no more than one layer's tensors are held."""
        sizes = self._sizes()
        largest = max(sum(sizes[name] for name in (*node.inputs, node.name)) for node in self.network.nodes)
        return max(1, min(_MOST_IMAGES, _VALUES // largest))

    def images_at_once_of_all(self, held: int) -> int:
        """Images that are computed at once where the tensors of all layers are held, so many times."""
        return max(1, min(_MOST_IMAGES, 4 * _VALUES // (held * sum(self._sizes().values()))))

    def _sizes(self) -> dict[str, int]:
        """Values of each node's output for one image."""
        return {node.name: int(np.prod(node.output_shape)) for node in self.network.nodes}


def _with_kernel(node: Node, x: Any, kernel: Any, offset: Any) -> Any:
    return activated(node, product(node, x, kernel) + offset)
