"""Sequences as images one pixel high: a tensor (length, channels) is one of (1, length, channels).

Runtimes have no operators for sequences; a convolution along time is one of an image, with a window of height
1. Layers that have no such counterpart read and give sequences as before, and are refused by name later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from tfmpq.graph.recognition import is_a
from tfmpq.graph.replay import Replay, config_of, weights_of
from tfmpq.graph.rewrites import ELEMENTWISE, affine_step
from tfmpq.graph.slicing import Slice
from tfmpq.graph.tensors import Constant, MatMul
from tfmpq.keras_internals import calls_in_order, functional_of, holds_graph, own_operation

_SEQUENCE_RANK = 3

_ALIKE = frozenset(
    {
        layers.Activation,
        layers.ActivityRegularization,
        layers.Add,
        layers.BatchNormalization,
        layers.Concatenate,
        layers.Dense,
        layers.Dropout,
        layers.Flatten,
        layers.GaussianDropout,
        layers.GaussianNoise,
        layers.Identity,
        layers.LayerNormalization,
        layers.LeakyReLU,
        layers.Multiply,
        layers.PReLU,
        layers.RMSNormalization,
        layers.ReLU,
        layers.Rescaling,
        layers.Reshape,
        layers.Softmax,
        layers.Subtract,
        Constant,
        MatMul,
        Slice,
    }
)
"""Layers that do the same to the image as to the sequence, but for the number of an axis."""


def lift(model: keras.Model, note: Callable[[str], None] = lambda line: None) -> keras.Model:
    """Turn sequences inside a model, or at its input, into images one pixel high.

    Args:
        model: Functional model with one input.
        note: Hears which layers got another name, one line each.

    Returns:
        A model of new layers that computes the same; `model` itself if it has no sequences.
    """
    if not _has_sequences(model):
        return model
    (source,) = model.inputs
    lifting = _Lifting(model, note)
    image = lifting.input(source, (1, *source.shape[1:]) if _is_sequence(source) else source.shape[1:])
    return lifting.model(image, lifting.replay(model, [image]), model)


def _has_sequences(model: Any) -> bool:
    for node in calls_in_order(functional_of(model)):
        if any(_is_sequence(tensor) for tensor in (*node.input_tensors, *node.outputs)):
            return True
        if holds_graph(node.operation) and _has_sequences(node.operation):
            return True
    return False


def _is_sequence(tensor: Any) -> bool:
    return len(tensor.shape) == _SEQUENCE_RANK


class _Lifting(Replay):
    """One lifting of one model."""

    def outputs(
        self, node: Any, values: dict[int, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Any]:
        """Build one call again, on images where it was on sequences."""
        operation = node.operation
        if not any(_is_sequence(tensor) for tensor in (*node.input_tensors, *node.outputs)):
            return self.copied(operation, args, kwargs)
        if type(operation) in _CHANGES and getattr(operation, "data_format", None) != "channels_first":
            return [self._twin(operation, args[0])]
        step = affine_step(operation, args) if is_a(operation, layers.Normalization) else None
        if step is not None:
            return [self.call(layers.Rescaling, operation.name, args[0], **step.config())]
        if type(operation) in _ALIKE:
            return [self._alike(node, args)]
        if own_operation(operation) in ELEMENTWISE:
            return keras.tree.flatten(operation(*args, **kwargs))
        return self._on_sequences(node, values, kwargs)

    def _twin(self, layer: Any, source: Any) -> Any:
        """Call the layer for images that a layer for sequences is."""
        kind, change = _CHANGES[type(layer)]
        if getattr(layer, "padding", None) == "causal":
            before = (_number(layer.kernel_size) - 1) * _number(layer.dilation_rate)
            name = self.part(f"{layer.name}_padding")
            source = self.call(layers.ZeroPadding2D, name, source, padding=((0, 0), (before, 0)))
        return self._made(kind, layer, config_of(layer) | change(layer), (source,))

    def _alike(self, node: Any, args: tuple[Any, ...]) -> Any:
        layer, config = node.operation, config_of(node.operation)
        if isinstance(config.get("axis"), int) and config["axis"] > 0:
            config["axis"] += 1
        elif isinstance(config.get("axis"), (list, tuple)):
            config["axis"] = [axis + (axis > 0) for axis in config["axis"]]
        if "target_shape" in config:
            shape = node.outputs[0].shape[1:]
            config["target_shape"] = (1, *shape) if _is_sequence(node.outputs[0]) else shape
        if "parts" in config:
            config["parts"] = [(0, 1, 1), *config["parts"]]
        if "shape" in config and _is_sequence(node.outputs[0]):
            config["shape"] = (1, *config["shape"])
        if "shared_axes" in config:
            config["shared_axes"] = [1, *(axis + 1 for axis in config["shared_axes"] or [])]
        return self._made(type(layer), layer, config, args)

    def _made(self, kind: Any, layer: Any, config: dict[str, Any], args: tuple[Any, ...]) -> Any:
        copy = kind.from_config(config | {"name": self.name(layer.name)})
        outputs = copy(*args)
        if weights := weights_of(layer):
            found = zip(weights, copy.weights, strict=True)
            copy.set_weights([weight.reshape(variable.shape) for weight, variable in found])
        return outputs

    def _on_sequences(self, node: Any, values: dict[int, Any], kwargs: dict[str, Any]) -> list[Any]:
        """Call an operation as it is, between reshapes."""

        def sequence(tensor: Any) -> Any:
            value = values[id(tensor)]
            return layers.Reshape(tensor.shape[1:])(value) if _is_sequence(tensor) else value

        args, _ = node.arguments.fill_in({id(tensor): sequence(tensor) for tensor in node.input_tensors})
        kwargs.pop("mask", None)
        made = keras.tree.flatten(node.operation(*args, **kwargs))
        return [layers.Reshape((1, *t.shape[1:]))(t) if _is_sequence(t) else t for t in made]


def _number(value: Any) -> int:
    """A size along the sequence, which Keras keeps as a number or as a tuple of one."""
    return int(np.ravel(value)[0])


def _convolution(layer: Any) -> dict[str, Any]:
    stride = _number(layer.strides)
    # Depthwise kernels have one stride for both axes; along the height there is one place to be anyway.
    one_stride = is_a(layer, layers.DepthwiseConv1D, layers.SeparableConv1D)
    return {
        "kernel_size": (1, _number(layer.kernel_size)),
        "strides": (stride, stride) if one_stride else (1, stride),
        "dilation_rate": (1, _number(layer.dilation_rate)),
        "padding": "valid" if layer.padding == "causal" else layer.padding,
    }


def _pooling(layer: Any) -> dict[str, Any]:
    return {"pool_size": (1, _number(layer.pool_size)), "strides": (1, _number(layer.strides))}


def _nothing(layer: Any) -> dict[str, Any]:
    return {}


_CHANGES: dict[type, tuple[type, Callable[[Any], dict[str, Any]]]] = {
    layers.Conv1D: (layers.Conv2D, _convolution),
    layers.DepthwiseConv1D: (layers.DepthwiseConv2D, _convolution),
    layers.SeparableConv1D: (layers.SeparableConv2D, _convolution),
    layers.Conv1DTranspose: (layers.Conv2DTranspose, _convolution),
    layers.MaxPooling1D: (layers.MaxPooling2D, _pooling),
    layers.AveragePooling1D: (layers.AveragePooling2D, _pooling),
    layers.GlobalMaxPooling1D: (layers.GlobalMaxPooling2D, _nothing),
    layers.GlobalAveragePooling1D: (layers.GlobalAveragePooling2D, _nothing),
    layers.SpatialDropout1D: (layers.SpatialDropout2D, _nothing),
    layers.ZeroPadding1D: (layers.ZeroPadding2D, lambda layer: {"padding": ((0, 0), tuple(layer.padding))}),
    layers.Cropping1D: (layers.Cropping2D, lambda layer: {"cropping": ((0, 0), tuple(layer.cropping))}),
    layers.UpSampling1D: (layers.UpSampling2D, lambda layer: {"size": (1, _number(layer.size))}),
}
"""What a layer of sequences is as a layer of images, and which options change; the rest stays."""
