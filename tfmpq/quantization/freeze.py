"""From the trained quantized model to integers: fold BatchNorm, round, put biases on their grid.

Folding after training is exact with per-channel weights: BatchNorm multiplies each output channel by
k = gamma / sqrt(variance + epsilon), so the integers stay and the scale becomes step * |k| (the sign of k
goes into the integers, whose levels are symmetric).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmpq.graph.frozen import WIDE, FrozenLayer, FrozenModel, FrozenWeights, TensorGrid
from tfmpq.graph.kinds import WEIGHTED
from tfmpq.graph.layers import is_transparent, reaches_over_border
from tfmpq.graph.network import INPUT_QUANTIZER, Network, Node
from tfmpq.graph.recognition import function_name, is_a
from tfmpq.graph.shortcut import PadShortcut
from tfmpq.quantization import decomposition
from tfmpq.quantization.folding import (
    Folded,
    affine_of,
    array,
    fold,
    fold_by_channel,
    norm_factor,
    norm_offset,
)
from tfmpq.quantizers.learned_step import LearnedStepQuantizer
from tfmpq.quantizers.wrapper import QuantizeWrapper


def freeze(model: keras.Model, network: Network, metadata: Mapping[str, Any] | None = None) -> FrozenModel:
    """Turn a trained quantized model with one candidate per quantizer into integers.

    Args:
        model: Quantized functional model.
        network: Its analysis.
        metadata: JSON-able facts to carry along.

    Raises:
        ValueError: A quantizer still has several candidates.
    """
    grids = _grids(model, network)
    layers: list[FrozenLayer] = []
    alias: dict[str, str] = {}
    taken = {node.name for node in network.nodes}
    for node in network.nodes:
        inputs = tuple(alias.get(name, name) for name in node.inputs)
        if is_transparent(node.main):
            alias[node.name] = inputs[0]
        else:
            sources = [grids[network.node(name).grid_of] for name in node.inputs]
            layers += _unique(_layers(model, node, inputs, sources, grids[node.grid_of]), taken)
    outputs = tuple(alias.get(name, name) for name in network.outputs)
    return FrozenModel(model.name, network.input_shape, tuple(layers), dict(metadata or {}), outputs)


def _unique(layers: list[FrozenLayer], taken: set[str]) -> list[FrozenLayer]:
    """The layers of one node; its parts get names that no node and no other part has."""
    renamed: dict[str, str] = {}
    for part in layers[:-1]:
        name, number = part.name, 1
        while name in taken:
            number += 1
            name = f"{part.name}_{number}"
        taken.add(name)
        renamed[part.name] = name
    return [
        replace(
            layer,
            name=renamed.get(layer.name, layer.name),
            inputs=tuple(renamed.get(name, name) for name in layer.inputs),
        )
        for layer in layers
    ]


def _layers(
    model: keras.Model, node: Node, inputs: tuple[str, ...], sources: list[TensorGrid], grid: TensorGrid
) -> list[FrozenLayer]:
    """The frozen layers of one node; the last one has its name."""
    if is_a(node.main, PadShortcut):
        return decomposition.shortcut(node, inputs, grid)
    if node.kind in decomposition.DECOMPOSED:
        return decomposition.DECOMPOSED[node.kind](node, inputs, sources[0], grid)
    kind: Any = node.kind  # a `LayerKind`: all others are decomposed, which no type checker sees
    weights = _weights(model, node, sources[0], grid) if kind in WEIGHTED else None
    return [FrozenLayer(node.name, kind, inputs, grid, node.activation, weights, ATTRIBUTES[kind](node))]


def snap_biases(model: keras.Model, network: Network) -> None:
    """Move every bias onto its int32 grid (input scale * weight scale), in place.

    A deployed bias is an integer in units of the accumulator. With few weight bits that unit is coarse, up to
    a third of an output step, so the trained model has to use the very same values. The shift goes into
    BatchNorm's beta, or into its moving mean where it has no beta.
    """
    grids = _grids(model, network)
    for node in network.nodes:
        norm, bias = node.batch_norm, getattr(node.main, "bias", None)
        if norm is None and (bias is None or node.kind not in WEIGHTED):
            continue
        source, target = grids[network.node(node.inputs[0]).grid_of], grids[node.grid_of]
        if node.kind in WEIGHTED:
            folded = _fold(model, node, source, target)
        else:
            folded = fold_by_channel(*affine_of(node), source, target)
        snapped = np.round(folded.bias / folded.bias_grid) * folded.bias_grid
        if norm is not None:
            _shift_output(norm, snapped - folded.bias)
        elif bias is not None:
            bias.assign(snapped)


def _shift_output(norm: keras.layers.BatchNormalization, shift: np.ndarray) -> None:
    if norm.center:
        norm.beta.assign(array(norm.beta) + shift)
        return
    factor = norm_factor(norm)
    # A channel with factor 0 is 0 everywhere, which is on any grid.
    change = np.divide(shift, factor, out=np.zeros_like(shift), where=factor != 0)
    norm.moving_mean.assign(array(norm.moving_mean) - change)


def _grids(model: keras.Model, network: Network) -> dict[str, TensorGrid]:
    """Grid of every activation tensor, by name."""
    found = {}
    wrappers = {name: _output_wrapper(model, network, name) for name in network.tensors}
    wide = any(wrapper.output_quantizer.bits[0] == WIDE for wrapper in wrappers.values())
    for name, wrapper in wrappers.items():
        node = network.on_grid(name)[0]
        quantizer = wrapper.output_quantizer
        step = node.fixed_step or float(_step(quantizer, wrapper.output_variables, wrapper.name))
        container = WIDE if wide else 8
        found[name] = TensorGrid(step, quantizer.bits[0], quantizer.signed, container, quantizer.halfway)
    return found


def _output_wrapper(model: keras.Model, network: Network, name: str) -> Any:
    """The layer that puts tensors on the grid of that name."""
    return model.get_layer(INPUT_QUANTIZER if network.on_grid(name)[0].kind == "input" else name)


def _step(quantizer: LearnedStepQuantizer, variables: Mapping[str, Any], name: str) -> np.ndarray:
    if len(quantizer.bits) != 1:
        raise ValueError(
            f"Only a model with one bit-width per tensor can be frozen. Received: {name}={quantizer.bits}."
        )
    return array(ops.exp(ops.convert_to_tensor(variables["log_step"])), np.float32)[0]


def _fold(model: keras.Model, node: Node, source: TensorGrid, target: TensorGrid) -> Folded:
    wrapper: QuantizeWrapper = model.get_layer(node.name)
    quantizer = wrapper.weight_quantizer
    if quantizer is None:
        raise ValueError(f"Only layers with a weight quantizer can be frozen. Received: {node.name}.")
    step = _step(quantizer, wrapper.weight_variables, node.name)
    levels = quantizer.levels[0]
    kernel = array(wrapper.layer.kernel, np.float32)
    # Both are float32, as in training: in float64 a quotient close to a tie may round otherwise.
    integers = np.clip(np.round(kernel / step), levels.low, levels.high)
    scales = step.astype(np.float64).reshape(-1)
    bias = getattr(wrapper.layer, "bias", None)
    bias = np.zeros(scales.size) if bias is None else array(bias)
    channel_shape = step.shape  # broadcasts over the kernel: ones but for the output channel
    norm = node.batch_norm
    if norm is not None:
        factor = norm_factor(norm)
        bias = bias * factor + norm_offset(norm, factor)
        integers = integers * np.where(factor < 0, -1.0, 1.0).reshape(channel_shape)
        scales = scales * np.abs(factor)
    return fold(integers, scales, bias, channel_shape, source, target)


def _weights(model: keras.Model, node: Node, source: TensorGrid, target: TensorGrid) -> FrozenWeights:
    bits = model.get_layer(node.name).weight_quantizer.bits[0]
    return _fold(model, node, source, target).weights(bits)


def _convolution(node: Node) -> dict[str, Any]:
    layer = node.main
    return {
        "strides": tuple(layer.strides),
        "padding": layer.padding,
        "dilation": tuple(layer.dilation_rate),
    }


def _pooling(node: Node) -> dict[str, Any]:
    layer = node.main
    # Inside the image both paddings give the same windows; `valid` is the one that XNNPACK's averages have.
    whole = node.kind == "average_pooling2d" and not reaches_over_border(node.layers[0])
    return {
        "pool_size": tuple(layer.pool_size),
        "strides": tuple(layer.strides),
        "padding": "valid" if whole else layer.padding,
    }


ATTRIBUTES: dict[str, Callable[[Node], dict[str, Any]]] = {
    "conv2d": lambda node: _convolution(node) | {"groups": node.main.groups},
    "depthwise_conv2d": _convolution,
    "conv2d_transpose": lambda node: {"strides": tuple(node.main.strides), "padding": node.main.padding},
    "gelu": lambda node: {"approximate": function_name(node.main) == "gelu_tanh"},
    "global_average_pooling2d": lambda node: {"keepdims": node.main.keepdims},
    "average_pooling2d": _pooling,
    "max_pooling2d": _pooling,
    "zero_padding": lambda node: {"paddings": (*(tuple(pair) for pair in node.main.padding), (0, 0))},
    "cropping2d": lambda node: {"croppings": tuple(tuple(pair) for pair in node.main.cropping)},
    "slice": lambda node: {"parts": tuple(tuple(part) for part in node.main.parts)},
    "transpose": lambda node: {"axes": tuple(axis - 1 for axis in node.main.dims)},
    "reshape": lambda node: {"shape": node.output_shape},
    **dict.fromkeys(
        ("input", "dense", "add", "subtract", "multiply", "sigmoid", "tanh", "elu"), lambda node: {}
    ),
}
"""Attributes of the frozen layer of a node that becomes one layer; see `FrozenLayer`."""
