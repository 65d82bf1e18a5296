"""A network as it will be deployed, of random integers: latency depends on shapes and widths only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from tfmpq.data.preprocess import pixel_step, value_range
from tfmpq.graph.frozen import FrozenLayer, FrozenModel, TensorGrid
from tfmpq.graph.fusion import Network, analyse
from tfmpq.models.registry import load_model
from tfmpq.quantization.freeze import freeze
from tfmpq.quantization.insertion import quantize_model

BITS = 8


@dataclass(frozen=True, slots=True, eq=False)
class StandIn:
    """A network of random integers.

    Attributes:
        name: Name of the network.
        network: Its fused nodes.
        classes: Number of logits.
        frozen: All of it at 8 bits.
    """

    name: str
    network: Network
    classes: int
    frozen: FrozenModel

    def with_bits(
        self, weight_bits: Mapping[str, int], activation_bits: Mapping[str, int] | None = None
    ) -> FrozenModel:
        """The network at other widths.

        Args:
            weight_bits: By layer name; helpers that are not listed keep 8.
            activation_bits: By name of the activation tensor; tensors that are not listed keep 8.
        """
        generator = np.random.default_rng(0)
        grids = self._grids(activation_bits or {})

        def changed(layer: FrozenLayer) -> FrozenLayer:
            layer = replace(layer, grid=grids.get(id(layer.grid), layer.grid))
            if layer.weights is None or layer.name not in weight_bits:
                return layer
            bits = weight_bits[layer.name]
            top = 2 ** (bits - 1) - 1
            integers = generator.integers(-top, top + 1, layer.weights.integers.shape).astype(np.int8)
            return replace(layer, weights=replace(layer.weights, integers=integers, bits=bits))

        return replace(self.frozen, layers=tuple(changed(layer) for layer in self.frozen.layers))

    def _grids(self, activation_bits: Mapping[str, int]) -> dict[int, TensorGrid]:
        """New grids by the identity of the old: all layers on one tensor's grid hold the same object."""
        found = {}
        frozen = {layer.name: layer for layer in self.frozen.layers}
        for node in self.network.nodes:
            if node.grid_of in activation_bits and node.name in frozen:
                grid = frozen[node.name].grid
                found[id(grid)] = replace(grid, bits=activation_bits[node.grid_of])
        return found


def stand_in(spec: str, input_shape: tuple[int, int, int], classes: int) -> StandIn:
    """Build a network, put it on 8-bit grids of noise and freeze it.

    Args:
        spec: Built-in name, `.keras` file or `MODULE:FUNCTION`.
        input_shape: (height, width, channels); a model from a file keeps its own.
        classes: Number of logits; a model from a file keeps its own.

    Raises:
        UsageError: The specification names nothing.
        TfmpqError: The network has layers that cannot be quantized, or a file is damaged.
    """
    loaded = load_model(spec, input_shape=input_shape, classes=classes)
    low, high = value_range(loaded.preprocessing)
    network = analyse(loaded.model, input_signed=low < 0)
    noise = np.random.default_rng(0).uniform(low, high, (1, *network.input_shape)).astype(np.float32)
    quantized = quantize_model(
        loaded.model,
        network,
        {node.name: (BITS,) for node in network.weighted},
        dict.fromkeys(network.tensors, (BITS,)),
        noise,
        (low, high),
        pixel_step=pixel_step(loaded.preprocessing),
    )
    return StandIn(loaded.name, network, loaded.classes, freeze(quantized, network))
