"""Keras 3 models, plain or quantized, go out as tf_keras models, quantized by TFMOT."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfmpq.errors import TfmpqError, UsageError
from tfmpq.keras_internals import calls_in_order, operation_of
from tfmpq.quantization.finished_runs import finished_model
from tfmpq.quantizers.choices import quantize_wrappers
from tfmpq.quantizers.wrapper import QuantizeWrapper, inner
from tfmpq.tfmot.apply import PREFIX, AsAnnotated, check_configs, mixed_wrappers
from tfmpq.tfmot.layers import copy_weights, to_legacy
from tfmpq.tfmot.packages import tf_keras, tfmot

SAVED = (".keras", ".h5")
"""Endings of the files that quantized tf_keras models are saved to and loaded from."""


def to_tf_keras(model: keras.Model) -> Any:
    """A plain tf_keras model with the layers and weights of a float Keras 3 model.

    Raises:
        TfmpqError: A layer has no counterpart in tf_keras.
    """
    return _build(model, frozenset(), annotate=False)


def to_tfmot(model: keras.Model, float_layers: Collection[str] = ()) -> Any:
    """A TFMOT-quantized tf_keras model that computes what a quantized Keras 3 model computes.

    Its quantizers are those of the model, with their steps and, in a searchable model, their bit choices. It
    trains on in tf_keras, and its `.keras` and `.h5` files load with `tfmpq.tfmot.load_model`.

    Args:
        model: Model of `quantize_model`, searched, restricted to a policy, or fine-tuned.
        float_layers: Layers whose kernels are left in float.

    Raises:
        UsageError: The model is not quantized, or its activations are dynamic.
        TfmpqError: A layer has no counterpart in tf_keras.
    """
    if not any(isinstance(layer, QuantizeWrapper) for layer in model.layers):
        raise UsageError(
            f"A quantized model goes out to TFMOT. Received: {model.name}, which is not quantized. "
            "Use to_tf_keras, or quantize it first."
        )
    if any(wrapper.quantize_config.input_grid for wrapper in quantize_wrappers(model)):
        raise UsageError(
            f"TFMOT quantizes tensors on fixed grids. Received: {model.name}, whose activations are dynamic. "
            "Search or fine-tune it without them."
        )
    annotated = _build(model, frozenset(float_layers), annotate=True)
    quantized = tfmot.quantize_apply(annotated, scheme=AsAnnotated(), quantized_layer_name_prefix=PREFIX)
    planned = {
        layer.layer.name: layer.quantize_config for layer in annotated.layers if hasattr(layer, "layer")
    }
    check_configs(quantized, planned)
    for wrapper in mixed_wrappers(quantized):
        _copy_choice(model.get_layer(wrapper.layer.name), wrapper)
    return quantized


def run_to_tfmot(run: str | Path, float_layers: Collection[str] = ()) -> Any:
    """The fine-tuned (or else searched) network of a run folder as a TFMOT-quantized tf_keras model.

    Raises:
        UsageError: Nothing in the folder is finished.
        TfmpqError: A file of it is damaged, or a layer has no counterpart in tf_keras.
    """
    found = finished_model(Path(run))
    if found is None:
        raise UsageError(
            f"A finished run goes out to TFMOT. Received: {run} without a finished search. "
            "Finish tfmpq search with this --out."
        )
    return to_tfmot(found[1], float_layers)


def load_model(path: str | Path) -> Any:
    """Load a quantized tf_keras model, for training or inference.

    Raises:
        UsageError: There is no such file.
        TfmpqError: It holds no such model.
    """
    if not Path(path).is_file():
        raise UsageError(f"A model file must exist. Received: {path}. Check the path.")
    try:
        with tfmot.quantize_scope():
            return tf_keras.models.load_model(str(path), compile=False, safe_mode=True)
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "")
        raise TfmpqError(
            f"A {' or '.join(SAVED)} file holds a whole tf_keras model without code of its own. Received: "
            f"{path} ({type(error).__name__}: {first[:160]}). Save it again with model.save."
        ) from error


def _build(model: keras.Model, float_layers: Collection[str], annotate: bool) -> Any:
    """The same graph in tf_keras, with weights; quantized layers are annotated."""
    values: dict[int, Any] = {}
    for tensor in model.inputs:
        name = operation_of(tensor).name
        values[id(tensor)] = tf_keras.Input(tensor.shape[1:], name=name, dtype=tensor.dtype)
    inputs = list(values.values())
    made: dict[int, Any] = {}
    for node in calls_in_order(model):
        if node.is_input:
            continue
        layer = node.operation
        if id(layer) not in made:
            made[id(layer)] = _annotated(layer, float_layers) if annotate else _plain(layer)
        args, kwargs = node.arguments.fill_in(values)
        outputs = made[id(layer)](*args, **{k: v for k, v in kwargs.items() if k not in ("mask", "training")})
        values.update(zip(map(id, node.outputs), keras.tree.flatten(outputs), strict=True))
    outputs = [values[id(tensor)] for tensor in model.outputs]
    single = [tensors[0] if len(tensors) == 1 else tensors for tensors in (inputs, outputs)]
    copy = tf_keras.Model(*single, name=model.name)
    for layer in model.layers:
        if id(layer) in made and layer.weights:
            target = made[id(layer)]
            copy_weights(inner(layer), getattr(target, "layer", target))
    return copy


def _plain(layer: Any) -> Any:
    if not isinstance(layer, keras.layers.Layer) or isinstance(layer, (keras.Model, QuantizeWrapper)):
        raise TfmpqError(
            f"Single float layers go out to tf_keras. Received: {layer.name} ({type(layer).__name__}). "
            "Flatten nested models with tfmpq.graph.lowering.lower; quantized models go out with to_tfmot."
        )
    return to_legacy(layer)


def _annotated(layer: Any, float_layers: Collection[str]) -> Any:
    if not isinstance(layer, QuantizeWrapper):
        return _plain(layer)
    config = type(layer.quantize_config).from_config(layer.quantize_config.get_config())
    if layer.name in float_layers:
        config.weight_bits = ()
    copy = to_legacy(layer.layer)
    return tfmot.quantize_annotate_layer(copy, config) if config.weight_bits or config.output_bits else copy


def _copy_choice(source: QuantizeWrapper, target: Any) -> None:
    """Give a TFMOT wrapper the steps and logits of ours."""
    pairs = [(source.weight_variables, variables) for _, _, variables in target._weight_vars]
    if target._output_quantizers:
        pairs.append((source.output_variables, target._output_quantizer_vars))
    for ours, theirs in pairs:
        for name, variable in theirs.items():
            variable.assign(np.asarray(ours[name]))
