"""Models of the user's own: from a file or from a function, brought to one form."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections import Counter
from typing import Any

import keras

import tfmpq.graph.activations
import tfmpq.graph.shortcut
import tfmpq.graph.slicing  # noqa: F401 (these register what files of this toolchain hold)
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.graph.recognition import is_kerass_own, known_function
from tfmpq.graph.replay import config_of, weights_of
from tfmpq.keras_internals import call_of, functional_of, holds_graph, operation_of


def call_function(spec: str, input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Import MODULE and call FUNCTION with those of the known arguments that it takes.

    Raises:
        UsageError: There is no such module or function.
        TfmpqError: The user's code raises an error.
    """
    function = _import(spec)
    known = {
        "input_shape": input_shape,
        "classes": classes,
        "weights": None,
        "classifier_activation": None,
    }
    try:
        taken = inspect.signature(function).parameters
        model = function(**{name: value for name, value in known.items() if name in taken})
    except Exception as error:
        raise TfmpqError(
            f"The function of a model must return a Keras model. Received: {spec}, which raised "
            f"{one_line(error)}. Correct the function."
        ) from error
    name_by_order(model, Counter(), set())
    return model


def name_by_order(model: Any, counts: Counter[str], seen: set[int]) -> None:
    """Give layers without a name of the user's the names that a first call of the function gives them.

    Keras numbers them over all models of a process; a policy needs the same names in every call.
    """
    operations = getattr(functional_of(model), "operations", [])
    for operation in operations:
        if id(operation) not in seen and _named_by_keras(operation):
            base = snake_case(type(operation).__name__)
            operation.name = f"{base}_{counts[base]}" if counts[base] else base
            counts[base] += 1
        seen.add(id(operation))
        name_by_order(operation, counts, seen)


def _named_by_keras(operation: Any) -> bool:
    return re.fullmatch(rf"{snake_case(type(operation).__name__)}(_\d+)?", operation.name) is not None


def snake_case(name: str) -> str:
    """A class name as Keras writes it in the names of layers."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _import(spec: str) -> Any:
    module, _, name = spec.partition(":")
    # As `python -m` does: modules beside the user are found though we run from an installed script.
    sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module), name, None)
    except Exception as error:
        raise UsageError(
            f"MODULE:FUNCTION must name a module that can be imported. Received: {spec} ({one_line(error)}). "
            "Check the name and the folder you are in."
        ) from error
    finally:
        sys.path.remove(os.getcwd())
    if not callable(function):
        raise UsageError(
            f"MODULE:FUNCTION must name a function. Received: {spec}. Check the name after the colon."
        )
    return function


def as_classifier(
    model: Any, input_shape: tuple[int, int, int], several_outputs: bool = False
) -> tuple[keras.Model, keras.Model, tuple[bool, ...]]:
    """Bring a model to functional form with one image, sequence or vector in and logits out.

    Args:
        model: What a file or a function gave.
        input_shape: (height, width, channels), for a Sequential model that has no input shape yet.
        several_outputs: Whether to take models with outputs of any number and shape.

    Returns:
        The model as it was given, the model that ends in logits, which shares its weights but for layers
        with a softmax in them, and for each output whether a softmax was taken off.

    Raises:
        UsageError: It is not such a model.
    """
    if isinstance(model, keras.Sequential):
        if not model.built:
            _build(model, input_shape)
        model = keras.Model(model.inputs, model.outputs, name=model.name)
    inputs, outputs = getattr(model, "inputs", None) or [], getattr(model, "outputs", None) or []
    several = several_outputs and len(outputs) > 1
    if not isinstance(model, keras.Model) or len(inputs) != 1 or not (several or len(outputs) == 1):
        raise UsageError(
            "A model must be a functional or Sequential Keras model with one input and one output. "
            f"Received: {type(model).__name__} with {len(inputs)} inputs and {len(outputs)} outputs. "
            "Rebuild it with keras.Model on the output to train; several are for tfmpq export --calibrate."
        )
    if len(inputs[0].shape) not in (2, 3, 4) or None in inputs[0].shape[1:]:
        raise UsageError(
            "A model must take images of a fixed size, (height, width, channels), sequences of a fixed "
            f"length, (length, channels), or vectors. Received: {inputs[0].shape}. Rebuild it for these."
        )
    made: dict[int, list[tuple[Any, bool]]] = {}
    found = [_logits_of(output, made) for output in outputs]
    tensors = [tensor for tensor, _ in found]
    # Made anew: nothing has been traced with the old activation, and a tensor is taken where files of Keras 2
    # want a list of one.
    network = keras.Model(inputs[0], tensors if several else tensors[0], name=model.name)
    return model, network, tuple(stripped for _, stripped in found)


def _build(model: keras.Sequential, input_shape: tuple[int, int, int]) -> None:
    """Give a Sequential model its input; layers of sequences get images one pixel high without the height."""
    shape = input_shape[1:] if input_shape[0] == 1 and _reads_sequences(model.layers[0]) else input_shape
    try:
        model.build((None, *shape))
    except Exception as error:
        raise UsageError(
            f"A Sequential model without an input takes data as they are. Received: {model.name} for "
            f"{shape} ({one_line(error)}). Begin it with keras.Input."
        ) from error


def _reads_sequences(layer: keras.layers.Layer) -> bool:
    spec = getattr(layer, "input_spec", None)
    return spec is not None and 3 in (spec.ndim, spec.min_ndim)


def _logits_of(output: Any, made: dict[int, list[tuple[Any, bool]]]) -> tuple[Any, bool]:
    """The logits behind an output, and whether a softmax was taken off.

    It may be at the end, before layers that only change the shape, or in a nested model.

    Args:
        output: Symbolic tensor.
        made: Outputs of nested models that were made anew, by call.
    """
    last, call = operation_of(output), call_of(output)
    if type(last) in _SHAPES and call.input_tensors[0].shape[-1:] == output.shape[-1:]:
        # A softmax is along the last axis, which stays.
        logits, stripped = _logits_of(call.input_tensors[0], made)
        return (last(logits), True) if stripped else (output, False)
    if holds_graph(last):
        if id(call) not in made:
            made[id(call)] = _logits_of_nested(last, call, made)
        return made[id(call)][next(i for i, tensor in enumerate(call.outputs) if tensor is output)]
    return _without_softmax(output)


def _logits_of_nested(
    model: Any, call: Any, made: dict[int, list[tuple[Any, bool]]]
) -> list[tuple[Any, bool]]:
    """The outputs of a nested model's call without softmaxes, and which had one."""
    graph = functional_of(model)
    found = [_logits_of(output, made) for output in graph.outputs]
    if not any(stripped for _, stripped in found):
        return [(output, False) for output in call.outputs]
    inner = keras.Model(graph.inputs, [logits for logits, _ in found], name=model.name)
    outputs = keras.tree.flatten(inner(call.input_tensors))
    return [(output, stripped) for output, (_, stripped) in zip(outputs, found, strict=True)]


_SHAPES = (keras.layers.Reshape, keras.layers.Flatten, keras.layers.Identity, keras.layers.Dropout)


def _without_softmax(output: Any) -> tuple[Any, bool]:
    """The logits behind an output, and whether a softmax was taken off; the user's layers stay as is."""
    last = operation_of(output)
    if not is_kerass_own(last) or not _is_softmax(last, len(output.shape)):
        return output, False
    (source,) = call_of(output).input_tensors
    if not last.weights:
        return source, True
    copy = type(last).from_config(config_of(last) | {"activation": "linear"})
    logits = copy(source)
    copy.set_weights(weights_of(last))
    return logits, True


def _is_softmax(layer: Any, rank: int) -> bool:
    """Whether a layer is a softmax along the last axis, or ends in one."""
    if isinstance(layer, keras.layers.Softmax):
        return layer.axis in (-1, rank - 1)
    function = getattr(layer, "activation", None)
    if isinstance(function, keras.layers.Layer):
        return is_kerass_own(function) and _is_softmax(function, rank)
    return known_function(function) == "softmax"


def one_line(error: Exception) -> str:
    """Type and first line of an error, short enough for one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}".rstrip(": ")
