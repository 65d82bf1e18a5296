"""Factors of channels behind a layer with weights, as in LayerScale: they go into its scales and biases."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from tfmpq.graph.dynamic import DynamicLayer, DynamicModel, DynamicWeights

_SMALLEST = float(np.finfo(np.float32).tiny)


def fold_factors(model: DynamicModel) -> DynamicModel:
    """Take products with a constant, and affine steps, into the layer before that nothing else reads.

    Integers stay but for their signs. What has the name of the product before has that of the layer then.
    """
    known = {layer.name: layer for layer in model.layers}
    readers = Counter(name for layer in model.layers for name in layer.inputs)
    readers.update(model.outputs)
    alias: dict[str, str] = {}
    folded: dict[str, DynamicLayer] = {}
    for layer in model.layers:
        step = _step(layer, known)
        if step is None:
            continue
        source, factor, offset = alias.get(step[0], step[0]), *step[1:]
        before = folded.get(source, known[source])
        if before.weights is None or before.activation != "linear" or readers[source] != 1:
            continue
        if len(factor) != len(before.weights.scales):
            continue
        weights = _scaled(before.weights, factor, offset)
        folded[source] = replace(before, weights=weights, activation=layer.activation)
        alias[layer.name] = source
        readers[source] = readers[layer.name]
    left = [folded.get(layer.name, layer) for layer in model.layers if layer.name not in alias]
    left = [replace(layer, inputs=tuple(alias.get(name, name) for name in layer.inputs)) for layer in left]
    outputs = tuple(alias.get(name, name) for name in model.outputs)
    read = {name for layer in left for name in layer.inputs} | set(outputs)
    kept = tuple(layer for layer in left if layer.kind != "constant" or layer.name in read)
    return replace(model, layers=kept, outputs=outputs)


def _step(layer: DynamicLayer, known: dict[str, DynamicLayer]) -> tuple[str, np.ndarray, np.ndarray] | None:
    """The layer that is multiplied, with a factor and an offset for each channel; None for other layers."""
    if layer.kind == "affine" and not layer.attributes["bounded"]:
        return layer.inputs[0], layer.arrays["factor"], layer.arrays["offset"]
    if layer.kind != "multiply":
        return None
    for source, other in (layer.inputs, layer.inputs[::-1]):
        value = known[other].arrays.get("value") if known[other].kind == "constant" else None
        if value is not None and value.size == value.shape[-1] == layer.shape[-1]:
            factor = value.reshape(-1)
            return source, factor, np.zeros_like(factor)
    return None


def _scaled(weights: DynamicWeights, factor: np.ndarray, offset: np.ndarray) -> DynamicWeights:
    wide = factor.astype(np.float64)
    signs = replace(weights, scales=np.sign(wide)).channel_scales
    scales = np.where(wide == 0, weights.scales, weights.scales * np.abs(wide))
    return replace(
        weights,
        integers=(weights.integers * signs).astype(np.int8),
        scales=np.maximum(scales, _SMALLEST).astype(np.float32),
        bias=(weights.bias * wide + offset).astype(np.float32),
    )
