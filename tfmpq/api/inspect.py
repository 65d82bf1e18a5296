"""What a policy, a `.tflite`, a `.keras` file or a run folder holds."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from tfmpq.api.given import given_model
from tfmpq.api.sources import file_of
from tfmpq.errors import UsageError
from tfmpq.files import read_json
from tfmpq.graph.containers import Target, alternatives, container_for
from tfmpq.graph.fusion import analyse, layer_problems
from tfmpq.graph.network import operator_of
from tfmpq.graph.recognition import class_name
from tfmpq.models.registry import is_model_file, load_model
from tfmpq.policy.cost import LayerCost
from tfmpq.policy.network_cost import cost_model
from tfmpq.policy.policy import Policy, load_policy
from tfmpq.quantization.im2col import group_count
from tfmpq.quantizers.choices import quantize_wrappers
from tfmpq.results import Result
from tfmpq.training.run_folder import Stage


@dataclass(frozen=True, slots=True)
class Inspection(Result, verb="inspect"):
    """Facts about one file or folder.

    Attributes:
        kind: `policy`, `tflite`, `model` or `run`.
        path: What was inspected.
        facts: JSON-able content, by kind.
    """

    kind: str
    path: str
    facts: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Kind, path and the facts beside them."""
        return {"kind": self.kind, "path": self.path} | self.facts


def inspect(subject: Any) -> Inspection:
    """Say what a policy file, a `.tflite` file, a `.keras` file, a run folder or a Keras model holds.

    Files of others are opened in a child process, which they may crash.

    Args:
        subject: A path, a Keras model, or the result of another verb that stands for a file or a run.

    Raises:
        UsageError: The path is none of these.
        TfmpqError: A file is damaged.
    """
    if isinstance(subject, keras.Model):
        with tempfile.TemporaryDirectory() as folder:
            model = given_model(subject, Path(folder))
            return Inspection("model", model.name, inspect_model(model.word, model.name))
    path = file_of(subject, _INSPECTED)
    if path.is_dir() and not is_model_file(str(path)):
        return Inspection("run", str(path), _run(path))
    if path.suffix in (".yaml", ".yml"):
        return Inspection("policy", str(path), _policy(load_policy(path)))
    if path.suffix == ".tflite":
        from tfmpq.deploy.runtime.inspect_file import inspect_file

        return Inspection("tflite", str(path), inspect_file(path).to_json())
    if is_model_file(str(path)):
        from tfmpq.deploy.runtime.sandbox import Sandbox

        with Sandbox(path) as sandbox:
            facts = sandbox.call("tfmpq.api.inspect:inspect_model", str(path))
        return Inspection("model", str(path), facts)
    raise UsageError(f"{_INSPECTED} Received: {path}. Give one of these.")


_INSPECTED = "A policy (.yaml), a .tflite file, a model (.keras, .h5, SavedModel), a run folder is inspected."


def _policy(policy: Policy) -> dict[str, Any]:
    facts = policy.model_dump(mode="json", exclude_defaults=True)
    return facts | {"layers": policy.weight_bits}


def _run(folder: Path) -> dict[str, Any]:
    stages = {}
    for name in ("float", "search", "finetune"):
        stage = Stage(folder, name)
        if stage.finished:
            stages[name] = {"state": "finished", "result": read_json(stage.path(".result.json"))}
        elif stage.path(".npz").exists() or stage.path(".json").exists():
            stages[name] = {"state": "finished" if name == "float" else "begun"}
    if not stages:
        raise UsageError(
            f"A run folder holds a search or a fine-tuning. Received: {folder}, which holds neither."
        )
    facts: dict[str, Any] = {"stages": stages}
    if (folder / "policy.yaml").exists():
        facts["policy"] = _policy(load_policy(folder / "policy.yaml"))
    return facts | {"files": sorted(file.name for file in folder.glob("*.tflite"))}


_LOW_BITS = 4


def inspect_model(path: str, name: str | None = None) -> dict[str, Any]:
    """Say of each layer whether it is supported, or why not.

    Layers that change nothing once a network is deployed, or that were rewritten to supported ones when the
    file was read, appear as what they became.

    Args:
        path: A `.keras` or `.h5` file, or the folder of a SavedModel.
        name: What the model is called; None for the name of the file.

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
    dynamic = not any(reason for _, reason in layer_problems(model, dynamic=True))
    operators = _operators(model, dynamic) if dynamic or not problems else {}
    rows = [
        {
            "name": layer.name,
            "class": class_name(layer),
            "supported": reason is None,
            "reason": reason,
            **operators.get(layer.name, {"operator": None, "weights": None, "packed_at_4_bits": None}),
        }
        for layer, reason in found
    ]
    return {
        "model": name or loaded.name,
        "input_shape": list(loaded.input_shape),
        "classes": loaded.classes if len(model.outputs) == 1 else None,
        "outputs": [list(output.shape[1:]) for output in model.outputs],
        "parameters": int(model.count_params()),
        "quantized": bool(quantize_wrappers(model)),
        "preprocessing": loaded.preprocessing,
        "supported": not problems,
        "supported_with_float_activations": dynamic,
        "unsupported_layers": problems,
        "layers": rows,
    }


def _operators(model: Any, dynamic: bool) -> dict[str, dict[str, Any]]:
    """Of each layer with a kernel: row of the rule table, and targets in which 4-bit weights are packed."""
    network = analyse(model, dynamic=dynamic)
    costs = {layer.name: layer for layer in cost_model(network).layers}
    rows = {}
    for node in network.weighted:
        cost = costs[node.name]
        whole = group_count(node) == 1  # others are not unfolded
        packed = [target for target in ("litert", "storage", "tflm") if _is_packed(cost, target, whole)]
        rows[node.name] = {
            "operator": operator_of(node),
            "weights": cost.weights,
            "packed_at_4_bits": packed,
        }
    return rows


def _is_packed(cost: LayerCost, target: Target, whole: bool) -> bool:
    """Whether a target holds 4-bit weights of a layer in fewer than 8 bits, or may where that pays."""
    containers = [container_for(cost.operator, _LOW_BITS, cost.fan_in, target)]
    if whole:
        containers += alternatives(cost.operator, _LOW_BITS, cost.fan_in, target)
    return min(container.bits for container in containers) < 8
