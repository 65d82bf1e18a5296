"""What a candidate width makes of a kernel or a tensor, with everything else in float."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import keras
import numpy as np

from tfmpq.graph.fusion import analyse
from tfmpq.quantization.tails import FusedNetwork, Values
from tfmpq.quantizers.choices import quantize_wrappers
from tfmpq.quantizers.learned_step import LearnedStepQuantizer
from tfmpq.quantizers.wrapper import QuantizeWrapper


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The candidates of everything that has a choice, in the order of the widths.

    Attributes:
        kernels: By layer, a kernel for each width, scaled as `FusedNetwork.kernels` are.
        grids: By grid of activations, a function for each width that puts tensors on it.
        begins: By grid, the number of the first node whose output is put on it.
        reads: By layer, what a quantized kernel makes of its input, where that stays float until it is read.
    """

    kernels: dict[str, list[Any]]
    grids: dict[str, list[Callable[[Any], Any]]]
    begins: dict[str, int]
    reads: dict[str, Callable[[Any], Any]]

    def zeros(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """A zero for every candidate, float64 (widths,) by layer and by grid."""
        kernels, grids = (
            {name: np.zeros(len(each)) for name, each in found.items()}
            for found in (self.kernels, self.grids)
        )
        return kernels, grids


def float_network(model: keras.Model) -> FusedNetwork:
    """The fused float network inside a searchable model."""
    dynamic = any(wrapper.quantize_config.input_grid is not None for wrapper in quantize_wrappers(model))
    return FusedNetwork(analyse(model, dynamic=dynamic))


def candidates_of(model: keras.Model, network: FusedNetwork) -> Candidates:
    """The candidates of a searchable model, rounded to the nearest level.

    Args:
        model: The model; left as it was.
        network: Its fused float network.
    """
    found = Candidates({}, {}, {}, {})
    for wrapper in quantize_wrappers(model):
        for kind, quantizer, variables in wrapper.quantizers:
            positions = range(len(quantizer.bits))
            if len(positions) < 2:
                continue
            if kind == "weight":
                node = network.network.node(wrapper.name)
                rounded = [_rounded(wrapper, quantizer, position) for position in positions]
                found.kernels[wrapper.name] = [network.scaled(node, kernel) for kernel in rounded]
                found.reads[wrapper.name] = wrapper.quantized_input
            else:
                found.grids[wrapper.name] = [
                    partial(_on_grid, quantizer, variables, position) for position in positions
                ]
    for index, node in reversed(list(enumerate(network.network.nodes))):
        if node.grid_of in found.grids and node.rounds:
            found.begins[node.grid_of] = index
    return found


def _rounded(wrapper: QuantizeWrapper, quantizer: LearnedStepQuantizer, position: int) -> np.ndarray:
    kept, quantizer.kept = quantizer.kept, (position,)
    try:
        return np.asarray(wrapper.quantized_kernel(), np.float64)
    finally:
        quantizer.kept = kept


def _on_grid(quantizer: LearnedStepQuantizer, variables: dict[str, Any], position: int, x: Any) -> Any:
    kept, quantizer.kept = quantizer.kept, (position,)
    try:
        return quantizer(x, training=False, weights=variables)
    finally:
        quantizer.kept = kept


Change = tuple[Literal[0, 1], str, int, np.ndarray]
"""Whether a kernel or a grid was changed, its name, the number of the width, and the first output."""


def outputs_of_each(
    network: FusedNetwork, candidates: Candidates, images: np.ndarray
) -> tuple[np.ndarray, Iterator[Change]]:
    """What the float network gives, and what it gives with each of the candidates in turn.

    Args:
        network: The network.
        candidates: Its candidates.
        images: Preprocessed images, float32 (N, height, width, channels).
    """
    image = {network.network.nodes[0].name: keras.ops.convert_to_tensor(images)}
    return as_array(network.outputs(0, image)[0]), _each(network, candidates, image)


def _each(network: FusedNetwork, candidates: Candidates, values: Values) -> Iterator[Change]:
    for index, node in enumerate(network.network.nodes):
        for position, kernel in enumerate(candidates.kernels.get(node.name, ())):
            read = {name: candidates.reads[node.name](values[name]) for name in node.inputs}
            changed = values | {node.name: network.compute(node, read, kernel)}
            yield 0, node.name, position, as_array(network.outputs(index + 1, changed)[0])
        if candidates.begins.get(node.grid_of) == index:
            for position, grid in enumerate(candidates.grids[node.grid_of]):
                found = network.outputs(index, values, (node.grid_of, grid))
                yield 1, node.grid_of, position, as_array(found[0])
        if node.kind != "input":
            values[node.name] = network.compute(node, values)
            network.drop(index, values)


def as_array(tensor: Any) -> np.ndarray:
    """A tensor of the backend as a NumPy array."""
    found: np.ndarray = keras.ops.convert_to_numpy(tensor)
    return found
