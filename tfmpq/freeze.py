"""From the trained quantized model to integers: fold BatchNorm, round, put biases on their grid.

Folding after training is exact with per-channel weights: BatchNorm multiplies each output channel by
k = gamma / sqrt(variance + epsilon), so the integers stay and the scale becomes step * |k| (the sign of k
goes into the integers, whose levels are symmetric).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmpq.frozen import Activation, FrozenLayer, FrozenModel, FrozenWeights, TensorGrid
from tfmpq.graph import INPUT_QUANTIZER, Network, Node, is_transparent, shortcut_channels
from tfmpq.quantizers import LearnedStepQuantizer
from tfmpq.wrapper import QuantizeWrapper

_BIAS_LIMIT = 2.0**30
_SMALLEST_MULTIPLIER = 2.0**-30


@dataclass(frozen=True, slots=True, eq=False)
class _Folded:
    """A node's weights with BatchNorm folded in, before the bias is rounded."""

    integers: np.ndarray
    scales: np.ndarray
    bias: np.ndarray
    bias_grid: np.ndarray


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
    for node in network.nodes:
        inputs = tuple(alias.get(name, name) for name in node.inputs)
        grid = grids[node.grid_of]
        kind = type(node.main).__name__
        if is_transparent(node.main):
            alias[node.name] = inputs[0]
        elif kind == "PadShortcut":
            layers.extend(_shortcut(node, inputs, grid))
        else:
            weights = None
            if node.kind in ("conv2d", "depthwise_conv2d", "dense"):
                weights = _weights(model, node, grids[network.node(node.inputs[0]).grid_of], grid)
            layers.append(
                FrozenLayer(node.name, node.kind, inputs, grid, node.activation, weights, _attributes(node))
            )
    return FrozenModel(model.name, network.input_shape, tuple(layers), dict(metadata or {}))


def snap_biases(model: keras.Model, network: Network) -> None:
    """Move every bias onto its int32 grid (input scale * weight scale), in place.

    A deployed bias is an integer in units of the accumulator. With few weight bits that unit is coarse, up to
    a third of an output step, so the trained model has to use the very same values. The shift goes into
    BatchNorm's beta, or into its moving mean where it has no beta.
    """
    grids = _grids(model, network)
    for node in network.weighted:
        folded = _fold(model, node, grids[network.node(node.inputs[0]).grid_of], grids[node.grid_of])
        snapped = np.round(folded.bias / folded.bias_grid) * folded.bias_grid
        norm, bias = node.batch_norm, getattr(node.main, "bias", None)
        if norm is not None:
            _shift_output(norm, snapped - folded.bias)
        elif bias is not None:
            bias.assign(snapped)


def _shift_output(norm: keras.layers.BatchNormalization, shift: np.ndarray) -> None:
    if norm.center:
        norm.beta.assign(_array(norm.beta) + shift)
        return
    factor = _norm_factor(norm)
    # A channel with factor 0 is 0 everywhere, which is on any grid.
    change = np.divide(shift, factor, out=np.zeros_like(shift), where=factor != 0)
    norm.moving_mean.assign(_array(norm.moving_mean) - change)


def _norm_factor(norm: keras.layers.BatchNormalization) -> np.ndarray:
    """What BatchNorm multiplies each channel by; float64 (channels,)."""
    factor = 1.0 / np.sqrt(_array(norm.moving_variance) + norm.epsilon)
    return factor * _array(norm.gamma) if norm.scale else factor


def _grids(model: keras.Model, network: Network) -> dict[str, TensorGrid]:
    """Grid of every activation tensor, by name."""
    found = {}
    for node in network.nodes:
        if node.grid_of == node.tensor:
            wrapper = model.get_layer(INPUT_QUANTIZER if node.kind == "input" else node.tensor)
            quantizer = wrapper.output_quantizer
            step = _step(quantizer, wrapper.output_variables, wrapper.name)
            found[node.tensor] = TensorGrid(float(step), quantizer.bits[0], quantizer.signed)
    return found


def _step(quantizer: LearnedStepQuantizer, variables: Mapping[str, Any], name: str) -> np.ndarray:
    if len(quantizer.bits) != 1:
        raise ValueError(
            f"Only a model with one bit-width per tensor can be frozen. Received: {name}={quantizer.bits}."
        )
    return _array(ops.exp(ops.convert_to_tensor(variables["log_step"])), np.float32)[0]


def _array(tensor: Any, dtype: Any = np.float64) -> np.ndarray:
    return np.asarray(tensor).astype(dtype)


def _fold(model: keras.Model, node: Node, source: TensorGrid, target: TensorGrid) -> _Folded:
    wrapper: QuantizeWrapper = model.get_layer(node.name)
    quantizer = wrapper.weight_quantizer
    if quantizer is None:
        raise ValueError(f"Only layers with a weight quantizer can be frozen. Received: {node.name}.")
    step = _step(quantizer, wrapper.weight_variables, node.name)
    levels = quantizer.levels[0]
    kernel = _array(wrapper.layer.kernel, np.float32)
    integers = np.clip(np.round(kernel / step), levels.low, levels.high)
    scales = step.astype(np.float64).reshape(-1)
    bias = getattr(wrapper.layer, "bias", None)
    bias = np.zeros(scales.size) if bias is None else _array(bias)
    channel_shape = step.shape  # broadcasts over the kernel: ones but for the output channel
    norm = node.batch_norm
    if norm is not None:
        factor = _norm_factor(norm)
        bias = (bias - _array(norm.moving_mean)) * factor + (_array(norm.beta) if norm.center else 0.0)
        integers = integers * np.where(factor < 0, -1.0, 1.0).reshape(channel_shape)
        scales = scales * np.abs(factor)
    # A channel that BatchNorm has all but switched off would need a bias beyond int32, or a multiplier beyond
    # the runtime's: give it the coarsest grid that fits, on which its weights round to (nearly) nothing.
    floor = np.maximum(
        np.abs(bias) / (source.scale * _BIAS_LIMIT), target.scale / source.scale * _SMALLEST_MULTIPLIER
    )
    raised = np.maximum(scales, floor)
    integers = np.round(integers * (scales / raised).reshape(channel_shape))
    scales = raised.astype(np.float32)
    grid = (np.float32(source.scale) * scales).astype(np.float64)
    return _Folded(integers.astype(np.int8), scales, bias, grid)


def _weights(model: keras.Model, node: Node, source: TensorGrid, target: TensorGrid) -> FrozenWeights:
    folded = _fold(model, node, source, target)
    bias = np.round(folded.bias / folded.bias_grid).astype(np.int32)
    return FrozenWeights(
        folded.integers, folded.scales, bias, model.get_layer(node.name).weight_quantizer.bits[0]
    )


def _attributes(node: Node) -> dict[str, Any]:
    layer = node.main
    if node.kind in ("conv2d", "depthwise_conv2d"):
        found = {
            "strides": tuple(layer.strides),
            "padding": layer.padding,
            "dilation": tuple(layer.dilation_rate),
        }
        return found | ({"groups": layer.groups} if node.kind == "conv2d" else {})
    if node.kind in ("max_pooling2d", "average_pooling2d"):
        return {
            "pool_size": tuple(layer.pool_size),
            "strides": tuple(layer.strides),
            "padding": layer.padding,
        }
    if node.kind == "zero_padding":
        return {"paddings": (*(tuple(pair) for pair in layer.padding), (0, 0))}
    if node.kind == "reshape":
        return {"shape": node.output_shape}
    return {"keepdims": layer.keepdims} if node.kind == "global_average_pooling2d" else {}


def _shortcut(node: Node, inputs: tuple[str, ...], grid: TensorGrid) -> list[FrozenLayer]:
    """A parameter-free shortcut: a depthwise 1x1 of ones that subsamples, then zeros beside the channels."""
    layers: list[FrozenLayer] = []
    linear: Activation = "linear"
    channels = shortcut_channels(node)
    stride = node.main.strides
    if channels:
        ones = FrozenWeights(
            np.ones((1, 1, channels, 1), np.int8),
            np.ones(channels, np.float32),
            np.zeros(channels, np.int32),
            8,
        )
        attributes = {"strides": (stride, stride), "padding": "valid", "dilation": (1, 1)}
        name = f"{node.name}_subsample"
        layers.append(FrozenLayer(name, "depthwise_conv2d", inputs, grid, linear, ones, attributes))
        inputs = (name,)
    extra = node.output_shape[-1] - int(node.layers[0].input.shape[-1])
    paddings = ((0, 0), (0, 0), (extra // 2, extra - extra // 2))
    layers.append(FrozenLayer(node.name, "zero_padding", inputs, grid, linear, None, {"paddings": paddings}))
    return layers
