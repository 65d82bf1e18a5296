"""Networks with float activations: quantizers on kernels and on what they read, and then integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmpq.graph.dynamic import (
    DynamicLayer,
    DynamicModel,
    DynamicWeights,
    container_bits,
)
from tfmpq.graph.dynamic_reading import input_grid, kernel_of
from tfmpq.graph.equivalence import noise
from tfmpq.graph.kinds import WEIGHTED
from tfmpq.graph.layers import is_transparent
from tfmpq.graph.network import Network, Node
from tfmpq.graph.recognition import is_a
from tfmpq.graph.shortcut import PadShortcut
from tfmpq.policy.search_space import Candidates
from tfmpq.quantization.dynamic_folding import fold_factors
from tfmpq.quantization.folding import affine_of, array, norm_factor, norm_offset, normalization_of
from tfmpq.quantization.freeze import ATTRIBUTES
from tfmpq.quantization.fused_float import require_fused
from tfmpq.quantizers.choices import quantize_wrappers
from tfmpq.quantizers.config import MixedPrecisionQuantizeConfig
from tfmpq.quantizers.relaxation import Relaxation
from tfmpq.quantizers.wrapper import QuantizeWrapper, inner


def quantize_dynamic(
    model: keras.Model,
    network: Network,
    weight_bits: Candidates,
    relaxation: Relaxation = "softmax",
    images: np.ndarray | None = None,
) -> keras.Model:
    """Clone a float model with quantizers on every kernel and on what it reads.

    No data are needed: grids of activations are those of the values that are there.

    Args:
        model: Functional float model.
        network: Its analysis.
        weight_bits: Candidates of every layer with weights.
        relaxation: How the logits of a choice weight its candidates.
        images: Preprocessed images (N, height, width, channels) on which the analysis is held against the
            model, beside noise.

    Returns:
        Functional model of the same layer names.

    Raises:
        TfmpqError: The analysis does not compute what the model computes.
    """
    given = noise(network.input_shape)
    require_fused(model, network, given if images is None else np.concatenate([images, given]))
    nodes = {node.name: node for node in network.weighted}

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        copy = type(layer).from_config(layer.get_config())
        if layer.name not in nodes:
            return copy
        grid, patch = input_grid(nodes[layer.name])
        config = MixedPrecisionQuantizeConfig(
            weight_bits=tuple(weight_bits[layer.name]), relaxation=relaxation, input_grid=grid, patch=patch
        )
        return QuantizeWrapper(copy, config)

    quantized = keras.models.clone_model(model, clone_function=clone)
    for layer in model.layers:
        if layer.weights:
            inner(quantized.get_layer(layer.name)).set_weights(layer.get_weights())
    for wrapper in quantize_wrappers(quantized):
        if wrapper.weight_quantizer is not None:
            kernel = np.asarray(wrapper.layer.kernel)
            wrapper.weight_variables["log_step"].assign(wrapper.weight_quantizer.initial_log_step(kernel))
    return quantized


def freeze_dynamic(
    model: keras.Model, network: Network, metadata: Mapping[str, Any] | None = None
) -> DynamicModel:
    """Turn a quantized model with one candidate per kernel into integers and float numbers.

    Args:
        model: What `quantize_dynamic` made.
        network: Its analysis.
        metadata: JSON-able facts to carry along.

    Raises:
        ValueError: A quantizer still has several candidates.
    """
    layers: list[DynamicLayer] = []
    alias: dict[str, str] = {}
    for node in network.nodes:
        inputs = tuple(alias.get(name, name) for name in node.inputs)
        if is_transparent(node.main):
            alias[node.name] = inputs[0]
            continue
        weights = _weights(model, node) if node.kind in WEIGHTED else None
        layers.append(
            DynamicLayer(
                node.name,
                node.kind,
                () if node.kind == "constant" else inputs,
                node.output_shape,
                node.activation,
                weights,
                _arrays(node),
                _attributes(node),
            )
        )
    outputs = tuple(alias.get(name, name) for name in network.outputs)
    made = DynamicModel(model.name, network.input_shape, tuple(layers), dict(metadata or {}), outputs)
    return fold_factors(made)


def _weights(model: keras.Model, node: Node) -> DynamicWeights:
    wrapper: QuantizeWrapper = model.get_layer(node.name)
    quantizer = wrapper.weight_quantizer
    if quantizer is None or len(quantizer.bits) != 1:
        raise ValueError(f"Only a layer with one weight bit-width can be frozen. Received: {node.name}.")
    step = array(ops.exp(ops.convert_to_tensor(wrapper.weight_variables["log_step"])), np.float32)[0]
    levels = quantizer.levels[0]
    integers = np.clip(np.round(array(wrapper.layer.kernel, np.float32) / step), levels.low, levels.high)
    scales = step.astype(np.float64).reshape(-1)
    bias = getattr(wrapper.layer, "bias", None)
    bias = np.zeros(scales.size) if bias is None else array(bias)
    norm = node.batch_norm
    if norm is not None:
        factor = norm_factor(norm)
        bias = bias * factor + norm_offset(norm, factor)
        integers = integers * np.sign(np.where(factor == 0, 0.0, factor)).reshape(step.shape)
        scales = np.where(factor == 0, scales, scales * np.abs(factor))
    grid, patch = input_grid(node)
    kernel = kernel_of(node)
    fan_in = integers.size // scales.size
    bits = quantizer.bits[0]
    smallest = float(np.finfo(np.float32).tiny)
    return DynamicWeights(
        integers.astype(np.int8),
        np.maximum(scales, smallest).astype(np.float32),
        bias.astype(np.float32),
        bits,
        kernel,
        container_bits(bits, fan_in, kernel),
        grid,
        patch,
    )


def _arrays(node: Node) -> dict[str, np.ndarray]:
    layer = node.main
    if node.kind == "affine":
        factor, offset = affine_of(node)
        if node.fixed_step is not None:  # a hard sigmoid, which has no grid here
            offset = np.full_like(offset, 0.5)
        return {"factor": factor.astype(np.float32), "offset": offset.astype(np.float32)}
    if node.kind == "layer_normalization":
        facts = normalization_of(layer)
        return {"factor": facts.factor, "offset": facts.offset}
    if node.kind == "leaky_relu":
        slope = array(layer.alpha) if hasattr(layer, "alpha") else layer.negative_slope
        flat = np.asarray(slope, np.float32).reshape(-1)
        return {"slope": np.broadcast_to(flat, node.output_shape[-1:]).copy()}
    return {"value": array(layer.value, np.float32)} if node.kind == "constant" else {}


def _normalization(node: Node) -> dict[str, Any]:
    facts = normalization_of(node.main)
    return {"epsilon": facts.epsilon, "centred": facts.centred}


def _padding(node: Node) -> dict[str, Any]:
    """Zeros around the image; a shortcut that widens takes every so many pixels first."""
    layer = node.main
    if not is_a(layer, PadShortcut):
        return ATTRIBUTES["zero_padding"](node)
    side = (layer.filters - int(node.layers[0].input.shape[-1])) // 2
    return {"paddings": ((0, 0), (0, 0), (side, side)), "strides": (layer.strides, layer.strides)}


_OWN: dict[str, Callable[[Node], dict[str, Any]]] = {
    "affine": lambda node: {"bounded": node.fixed_step is not None},
    "layer_normalization": _normalization,
    "matmul": lambda node: {"transpose_b": bool(node.main.transpose_b)},
    "zero_padding": _padding,
    "concatenate": lambda node: {"axis": int(node.main.axis) % (len(node.output_shape) + 1) - 1},
    **dict.fromkeys(("softmax", "constant", "leaky_relu", "upsampling2d", "bilinear"), lambda node: {}),
}
"""Attributes of kinds that are one layer with float activations only."""


def _attributes(node: Node) -> dict[str, Any]:
    return (ATTRIBUTES | _OWN)[node.kind](node)
