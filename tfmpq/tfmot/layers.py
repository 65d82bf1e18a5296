"""How layers of Keras 2 and of Keras 3 correspond: classes, arguments, activations, weights."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmpq.errors import TfmpqError
from tfmpq.graph.shortcut import PadShortcut
from tfmpq.models.keras2_layers import name_for_keras3
from tfmpq.tfmot.packages import tf_keras

SAME = frozenset(
    (
        *("Conv1D", "Conv2D", "Conv2DTranspose", "DepthwiseConv2D", "SeparableConv2D", "Dense"),
        *("BatchNormalization", "LayerNormalization", "Normalization", "Rescaling"),
        *("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax"),
        *("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"),
        *("MaxPooling1D", "MaxPooling2D", "AveragePooling1D", "AveragePooling2D"),
        *("GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalAveragePooling1D", "GlobalAveragePooling2D"),
        *("ZeroPadding2D", "Cropping2D", "UpSampling2D", "Flatten", "Reshape", "Permute"),
        *("Dropout", "SpatialDropout2D", "GaussianDropout", "GaussianNoise", "Identity"),
    )
)
"""Layers that compute the same in Keras 2 and 3, from weights in the same order."""

_SAME_FUNCTIONS = frozenset(
    (
        *("linear", "relu", "leaky_relu", "elu", "selu", "gelu", "swish", "silu"),
        *("sigmoid", "tanh", "softmax", "softplus", "softsign", "exponential"),
    )
)
_RENAMED = {"LeakyReLU": ("alpha", "negative_slope")}
"""Arguments by layer: their name in Keras 2, their name in Keras 3."""

_NOT_COPIED = ("_initializer", "_regularizer", "_constraint")
"""Endings of arguments that say how to begin or how to train, not what is computed."""


_Layer: Any = tf_keras.layers.Layer


@tf_keras.utils.register_keras_serializable("tfmpq")
def relu6(x: Any) -> Any:
    """min(max(x, 0), 6)."""
    return tf.nn.relu6(x)


@tf_keras.utils.register_keras_serializable("tfmpq")
def hard_sigmoid(x: Any) -> Any:
    """relu6(x + 3) / 6, as in Keras 3; Keras 2 has another slope."""
    return tf.nn.relu6(x + 3.0) / 6.0


@tf_keras.utils.register_keras_serializable("tfmpq")
def hard_silu(x: Any) -> Any:
    """X * relu6(x + 3) / 6."""
    return x * hard_sigmoid(x)


_OWN_FUNCTIONS = {
    "relu6": relu6,
    "hard_sigmoid": hard_sigmoid,
    "hard_silu": hard_silu,
    "hard_swish": hard_silu,
}
"""Activations of Keras 3 that Keras 2 does not have."""


@tf_keras.utils.register_keras_serializable("tfmpq", name="PadShortcut")
class LegacyPadShortcut(_Layer):
    """`tfmpq.graph.shortcut.PadShortcut` for tf_keras."""

    def __init__(self, filters: int, strides: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.strides = strides

    def call(self, inputs: Any) -> Any:
        """Subsample, then pad the channels."""
        side = (self.filters - inputs.shape[-1]) // 2
        return tf.pad(inputs[:, :: self.strides, :: self.strides, :], ((0, 0), (0, 0), (0, 0), (side, side)))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "filters": self.filters, "strides": self.strides}


def to_keras3(layer: Any) -> keras.layers.Layer:
    """The Keras 3 layer of a tf_keras layer, without its weights.

    Raises:
        TfmpqError: There is none.
    """
    if isinstance(layer, LegacyPadShortcut):
        return PadShortcut(layer.filters, layer.strides, name=layer.name)
    config = _config(layer, keras, keras.layers)
    if "activation" in config:
        config["activation"] = _function_for_keras3(layer)
    if type(layer).__name__ == "Normalization":
        config |= {"mean": np.asarray(layer.mean).ravel(), "variance": np.asarray(layer.variance).ravel()}
    return getattr(keras.layers, type(layer).__name__)(**config)


def to_legacy(layer: keras.layers.Layer) -> Any:
    """The tf_keras layer of a Keras 3 layer, without its weights.

    Raises:
        TfmpqError: There is none.
    """
    if isinstance(layer, PadShortcut):
        return LegacyPadShortcut(layer.filters, layer.strides, name=layer.name)
    config = _config(layer, tf_keras, tf_keras.layers)
    if "activation" in config:
        config["activation"] = _function_for_legacy(layer, config["activation"])
    if type(layer).__name__ == "Normalization":
        config |= {"mean": np.asarray(layer.mean).ravel(), "variance": np.asarray(layer.variance).ravel()}
    return getattr(tf_keras.layers, type(layer).__name__)(**config)


def copy_weights(source: Any, target: Any) -> None:
    """Give a layer the weights of its counterpart.

    Raises:
        TfmpqError: They have other shapes.
    """
    if type(source).__name__ == "Normalization":
        return  # constants of the configuration
    weights = source.get_weights()
    found, wanted = [w.shape for w in weights], [tuple(w.shape) for w in target.weights]
    if found != wanted:
        raise TfmpqError(
            f"A layer has the same weights in Keras 2 and 3. Received: {source.name} with {found}, not "
            f"{wanted}. Replace this layer."
        )
    if weights:
        target.set_weights(weights)


def _config(layer: Any, framework: ModuleType, layers: ModuleType) -> dict[str, Any]:
    """Arguments that the layer's class takes in the other Keras and that decide what it computes."""
    kind = type(layer).__name__
    if kind not in SAME or not type(layer).__module__.startswith(("keras.", "tf_keras.")):
        raise TfmpqError(
            f"A layer needs a counterpart in {framework.__name__}. Received: {layer.name} ({kind}). "
            "Replace it by a layer of Keras, or an operation by the layer that computes the same."
        )
    taken = _arguments(getattr(layers, kind))
    config = layer.get_config()
    if layer.compute_dtype != "float32" or config.get("renorm"):
        what = (
            "BatchNormalization with renorm" if config.get("renorm") else f"{kind} in {layer.compute_dtype}"
        )
        raise TfmpqError(
            f"Layers are exchanged in float32 and without renorm. Received: {layer.name}, {what}. "
            "Rebuild the model without it."
        )
    if kind in _RENAMED:
        old, new = _RENAMED[kind]
        source, target = (old, new) if layers is keras.layers else (new, old)
        config[target] = config.pop(source)
    if layers is keras.layers:
        config["name"] = name_for_keras3(config["name"])
    axis = config.get("axis")
    if kind == "BatchNormalization" and isinstance(axis, (list, tuple)):
        config["axis"] = axis[0]
    return {k: v for k, v in config.items() if k in taken and not k.endswith(_NOT_COPIED)}


def _arguments(kind: Any) -> set[str]:
    """Names that the constructors of a class and of its bases take, but for the dtype."""
    inits = (vars(base)["__init__"] for base in inspect.getmro(kind) if "__init__" in vars(base))
    names = {name for init in inits for name in inspect.signature(init).parameters}
    return (names | {"name", "trainable"}) - {"self", "args", "kwargs", "dtype"}


def _function_for_keras3(layer: Any) -> str:
    own = next((name for name, function in _OWN_FUNCTIONS.items() if layer.activation is function), None)
    name = own or str(getattr(layer.activation, "__name__", "linear"))
    if own is None and name not in _SAME_FUNCTIONS:
        raise TfmpqError(
            "An activation computes the same in Keras 2 and 3. Received: "
            f"'{name}' in {layer.name}. Use one of {', '.join(sorted(_SAME_FUNCTIONS))}."
        )
    return name


def _function_for_legacy(layer: Any, name: Any) -> Any:
    if name in _OWN_FUNCTIONS:
        return _OWN_FUNCTIONS[name]
    if name not in _SAME_FUNCTIONS:
        raise TfmpqError(
            f"An activation computes the same in Keras 2 and 3. Received: '{name}' in {layer.name}. "
            f"Use one of {', '.join(sorted((*_SAME_FUNCTIONS, *_OWN_FUNCTIONS)))}."
        )
    return "swish" if name == "silu" else name
