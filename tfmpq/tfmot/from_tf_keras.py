"""tf_keras models, plain or annotated for TFMOT, come into the toolchain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmpq.errors import TfmpqError, UsageError
from tfmpq.graph.kinds import WEIGHTED
from tfmpq.graph.layers import KINDS
from tfmpq.graph.network import Network
from tfmpq.keras_internals import calls_in_order, calls_of, is_functional, operation_of, shape_at_build
from tfmpq.models.keras2_layers import name_for_keras3
from tfmpq.models.keras2_operations import call_function
from tfmpq.policy.cost import REFERENCE_BITS
from tfmpq.policy.policy import LayerChoice, Policy
from tfmpq.policy.search_space import PINNED_BITS, weight_candidates
from tfmpq.progress import Reporter, SilentReporter
from tfmpq.quantizers.config import MixedPrecisionQuantizeConfig
from tfmpq.quantizers.learned_step import LearnedStepQuantizer
from tfmpq.tfmot.apply import mixed_wrappers
from tfmpq.tfmot.layers import copy_weights, to_keras3
from tfmpq.tfmot.packages import is_annotation, is_wrapper, tf_keras

TOLERANCE = 1e-4
"""Largest difference between the outputs of a model and of its copy, relative to the largest output."""

_WEIGHTED = frozenset(kind.__name__ for kind, node in KINDS.items() if node in WEIGHTED)


@dataclass(frozen=True, slots=True, eq=False)
class Imported:
    """A tf_keras model in Keras 3, and what its annotations ask for.

    Attributes:
        model: Float Keras 3 model of the same layer names and weights. Save it as a `.keras` file to give it
            to `tfmpq search --model`.
        weight_bits: Candidate widths of the layers whose annotation says them.
        float_layers: Layers that the annotations leave in float: those with `NoOpQuantizeConfig` and, in a
            model with annotations, those without one. A deployed network has no float layers, so these keep
            8 bits there and are never searched; `to_tfmot` leaves them in float.
    """

    model: keras.Model
    weight_bits: Mapping[str, tuple[int, ...]]
    float_layers: tuple[str, ...]

    def candidates(self, network: Network, bits: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Candidate widths of every layer with weights, for `quantize_model`.

        Args:
            network: The analysed model.
            bits: Widths for the layers that no annotation decides about.
        """
        found = weight_candidates(network, bits) | dict(self.weight_bits)
        found |= dict.fromkeys(self.float_layers, (PINNED_BITS,))
        return {node.name: found[node.name] for node in network.weighted}

    def respect(self, policy: Policy) -> Policy:
        """A policy of this model with every annotated layer at a width that its annotation allows."""
        layers = dict(policy.layers)
        for name, choice in layers.items():
            allowed = (PINNED_BITS,) if name in self.float_layers else self.weight_bits.get(name)
            if allowed and choice.weight_bits not in allowed:
                # The next wider one: fewer bits would lose what the search had kept.
                wider = [b for b in allowed if b > choice.weight_bits]
                layers[name] = LayerChoice(weight_bits=min(wider) if wider else max(allowed))
        return policy.model_copy(update={"layers": layers})


def from_tf_keras(model: Any, reporter: Reporter | None = None) -> Imported:
    """Bring a tf_keras model into Keras 3: layers, connections, weights, and annotations.

    Args:
        model: Functional or Sequential tf_keras model, with or without layers from
            `quantize_annotate_layer`. Nested models and layers that are called several times stay so.
        reporter: Told about layers that are annotated to stay in float.

    Raises:
        TfmpqError: It is no such model, a layer has no counterpart in Keras 3, or the copy computes something
            else.
    """
    if not isinstance(model, tf_keras.Model) or not is_functional(model):
        raise TfmpqError(
            "A functional or Sequential tf_keras model with a known input shape is taken. Received: "
            f"{type(model).__module__}.{type(model).__name__}. Build it with tf_keras.Model(inputs, outputs)."
        )
    copy = _Copy().model(model)
    _compare(model, copy)
    weight_bits, in_float = _annotations(model)
    if in_float:
        (reporter or SilentReporter()).log(
            f"{', '.join(in_float)}: annotated to stay in float. A deployed network has no float layers, so "
            "these keep 8 bits and are not searched."
        )
    return Imported(copy, weight_bits, in_float)


def chosen_policy(model: Any) -> Policy:
    """The most probable widths of a model that learned its bit choices in TFMOT.

    Args:
        model: tf_keras model behind `quantize_apply`. Layers with weights that no config of this package
            quantizes get 8 bits; tensors of 8 bits are not listed.

    Raises:
        UsageError: No layer has a config of this package.
    """
    layers: dict[str, LayerChoice] = {}
    activations: dict[str, int] = {}
    for layer in model.layers:
        inner = layer.layer if is_wrapper(layer) else layer
        bits = PINNED_BITS
        if is_wrapper(layer) and isinstance(layer.quantize_config, MixedPrecisionQuantizeConfig):
            for _, quantizer, variables in layer._weight_vars:
                bits = _most_probable(quantizer, variables)
            for quantizer in layer._output_quantizers:
                width = _most_probable(quantizer, layer._output_quantizer_vars)
                activations |= {inner.name: width} if width != REFERENCE_BITS else {}
        layers |= {name: LayerChoice(weight_bits=bits) for name in _weighted_names(inner)}
    if not mixed_wrappers(model):
        raise UsageError(
            "A policy is read from a model with learned bit choices. Received: "
            f"{model.name} without any. Quantize it with tfmpq.tfmot.quantize_apply."
        )
    return Policy(
        format="tfmpq-policy/1", model=model.name, layers=layers, activations=activations, method="tfmot"
    )


def _most_probable(quantizer: LearnedStepQuantizer, variables: Mapping[str, Any]) -> int:
    logits = variables.get("bit_logits")
    return quantizer.bits[0 if logits is None else int(np.argmax(logits.numpy()))]


class _Copy:
    """One copying of one model: every layer is made once, however often it is called."""

    def __init__(self) -> None:
        self.layers: dict[int, Any] = {}

    def model(self, model: Any) -> keras.Model:
        """Copy a (nested) functional model."""
        values: dict[int, Any] = {}
        for tensor in model.inputs:
            name = name_for_keras3(operation_of(tensor).name)
            values[id(tensor)] = keras.Input(tensor.shape[1:], name=name, dtype=tensor.dtype.name)
        inputs = list(values.values())
        for node in calls_in_order(model):
            if not node.is_input:
                outputs = self._call(node, values)
                values.update(zip(map(id, tf.nest.flatten(node.outputs)), outputs, strict=True))
        outputs = [values[id(tensor)] for tensor in model.outputs]
        single = [tensors[0] if len(tensors) == 1 else tensors for tensors in (inputs, outputs)]
        return keras.Model(*single, name=name_for_keras3(model.name))

    def _call(self, node: Any, values: Mapping[int, Any]) -> list[Any]:
        """Call the copy of a node's layer on copied tensors."""

        def fill_in(structure: Any) -> Any:
            return tf.nest.map_structure(lambda item: values.get(id(item), item), structure)

        kwargs = {k: v for k, v in fill_in(dict(node.call_kwargs)).items() if k not in ("mask", "training")}
        if type(node.layer).__name__ in ("TFOpLambda", "SlicingOpLambda"):
            function = node.layer.get_config()["function"]
            value = call_function(function, node.layer.name, fill_in(node.call_args), kwargs)
            return list(keras.tree.flatten(value))
        layer = self._layer(node.layer, kwargs)
        return list(keras.tree.flatten(layer(*fill_in(node.call_args), **kwargs)))

    def _layer(self, layer: Any, kwargs: Mapping[str, Any]) -> Any:
        source = layer.layer if is_annotation(layer) else layer
        if id(source) in self.layers:
            return self.layers[id(source)]
        if is_wrapper(source):
            raise TfmpqError(
                f"A model comes in before quantize_apply. Received: {source.name}, quantized already. "
                "Give the annotated model."
            )
        nested = isinstance(source, tf_keras.Model) and is_functional(source)
        copy = self.model(source) if nested else _built(source)
        if kwargs:
            raise TfmpqError(
                "Layers are called with tensors only. Received: "
                f"{source.name} with {', '.join(sorted(kwargs))}. Use the layer that computes the same."
            )
        self.layers[id(source)] = copy
        return copy


def _built(source: Any) -> keras.layers.Layer:
    """A copy of one layer, with weights."""
    copy = to_keras3(source)
    shape = source.get_input_shape_at(0) if calls_of(source) else shape_at_build(source)
    if not copy.built and source.weights:
        copy.build(tuple(shape) if isinstance(shape, (list, tuple)) else shape)
    copy_weights(source, copy)
    return copy


def _compare(model: Any, copy: keras.Model) -> None:
    """Make sure that both compute the same.

    Raises:
        TfmpqError: They do not.
    """
    generator = np.random.default_rng(0)
    images = [generator.normal(0, 1, (2, *tensor.shape[1:])).astype(np.float32) for tensor in copy.inputs]
    given = images if len(images) > 1 else images[0]
    wanted = [np.asarray(t) for t in tf.nest.flatten(model(given, training=False))]
    found = [np.asarray(t) for t in keras.tree.flatten(copy(given, training=False))]
    for one, other in zip(wanted, found, strict=True):
        difference = float(np.max(np.abs(one - other)))
        if not difference <= TOLERANCE * max(1e-6, float(np.max(np.abs(one)))):
            raise TfmpqError(
                "A model computes the same in Keras 2 and 3. Received: "
                f"{model.name}, whose outputs differ by {difference:.2g}. Report this model."
            )


def _annotations(model: Any) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    """Candidate widths by layer, and the layers with weights that stay in float."""
    annotated = {layer.layer.name: layer.quantize_config for layer in model.layers if is_annotation(layer)}
    bits: dict[str, tuple[int, ...]] = {}
    in_float: list[str] = []
    for layer in (layer.layer if is_annotation(layer) else layer for layer in model.layers):
        names = _weighted_names(layer) if annotated else ()
        config = annotated.get(layer.name)
        if isinstance(config, MixedPrecisionQuantizeConfig):
            bits |= dict.fromkeys(names, config.weight_bits) if config.weight_bits else {}
        elif layer.name not in annotated or type(config).__name__ == "NoOpQuantizeConfig":
            in_float += names
        else:
            bits |= dict.fromkeys(names, (PINNED_BITS,))  # TFMOT's own configs
    return bits, tuple(in_float)


def _weighted_names(layer: Any) -> tuple[str, ...]:
    """Names of the layers with a bit-width that a layer becomes in the toolchain."""
    kind, name = type(layer).__name__, name_for_keras3(layer.name)
    if kind == "SeparableConv2D":
        return (f"{name}_depthwise", name)
    return (name,) if kind in _WEIGHTED else ()
