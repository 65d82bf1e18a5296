"""What of a Keras model file can be quantized and deployed, layer by layer, before any training."""

from __future__ import annotations

from typing import Any

from tfmpq.graph.containers import container_for
from tfmpq.graph.fusion import analyse, layer_problems
from tfmpq.graph.layers import type_name
from tfmpq.graph.network import operator_of
from tfmpq.models.registry import load_model
from tfmpq.policy.network_cost import cost_model
from tfmpq.quantizers.choices import quantize_wrappers

_LOW_BITS = 4


def inspect_model(path: str) -> dict[str, Any]:
    """Say of each layer whether it is supported, or why not.

    Layers that change nothing once a network is deployed, or that were rewritten to supported ones when the
    file was read, appear as what they became.

    Args:
        path: A `.keras` file.

    Returns:
        JSON-able facts; `layers` has a row for each layer.

    Raises:
        UsageError: The model is no classifier of images.
        TfmpqError: The file is damaged.
    """
    loaded = load_model(path, input_shape=(0, 0, 0), classes=0, several_outputs=True)
    model = loaded.model
    found = layer_problems(model)
    problems = [layer.name for layer, reason in found if reason]
    operators = {} if problems else _operators(model)
    rows = [
        {
            "name": layer.name,
            "class": type_name(layer),
            "supported": reason is None,
            "reason": reason,
            **operators.get(layer.name, {"operator": None, "weights": None, "packed_at_4_bits": None}),
        }
        for layer, reason in found
    ]
    return {
        "model": loaded.name,
        "input_shape": list(loaded.input_shape),
        "classes": loaded.classes if len(model.outputs) == 1 else None,
        "outputs": [list(output.shape[1:]) for output in model.outputs],
        "parameters": int(model.count_params()),
        "quantized": bool(quantize_wrappers(model)),
        "preprocessing": loaded.preprocessing,
        "supported": not problems,
        "unsupported_layers": problems,
        "layers": rows,
    }


def _operators(model: Any) -> dict[str, dict[str, Any]]:
    """Of each layer with a kernel: row of the rule table, and targets in which 4-bit weights are packed."""
    network = analyse(model)
    costs = {layer.name: layer for layer in cost_model(network).layers}
    rows = {}
    for node in network.weighted:
        cost = costs[node.name]
        packed = [
            target
            for target in ("litert", "storage", "tflm")
            if container_for(cost.operator, _LOW_BITS, cost.fan_in, target).bits < 8
        ]
        rows[node.name] = {
            "operator": operator_of(node),
            "weights": cost.weights,
            "packed_at_4_bits": packed,
        }
    return rows
