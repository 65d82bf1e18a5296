"""Layers of Keras 2, by class name and configuration, as the layers of Keras 3 that compute the same."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from tfmpq.errors import TfmpqError

_RENAMED_CLASSES = {
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "SyncBatchNormalization": "BatchNormalization",
    "LayerNormalizationV2": "LayerNormalization",
}
_RENAMED_ARGUMENTS = {"LeakyReLU": ("alpha", "negative_slope")}
"""By layer: name of an argument in Keras 2, and in Keras 3."""

_TRAINING_ONLY = ("_initializer", "_regularizer", "_constraint")
"""Endings of arguments that say how to begin or how to train, not what is computed."""

_RECURRENT = frozenset({"SimpleRNN", "LSTM", "GRU", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"})


@dataclass(frozen=True, slots=True, eq=False)
class Counterpart:
    """What computes in Keras 3 what one layer computes in Keras 2.

    Attributes:
        layer: Layer with the weights, in the order of Keras 2.
        behind: Layers without weights that follow it.
    """

    layer: Any
    behind: tuple[Any, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer, then those behind it."""
        value = self.layer(*args, **kwargs)
        for following in self.behind:
            value = following(value)
        return value


def counterpart(class_name: str, config: Mapping[str, Any], name: str) -> Counterpart:
    """The layers of Keras 3 for one of Keras 2.

    Args:
        class_name: Class in Keras 2.
        config: Its configuration.
        name: Name of the new layer.

    Raises:
        TfmpqError: There is no such layer in Keras 3, or it does not compute the same.
    """
    class_name = _RENAMED_CLASSES.get(class_name, class_name)
    kind = getattr(layers, class_name, None)
    if not (inspect.isclass(kind) and issubclass(kind, layers.Layer)):
        raise TfmpqError(
            f"A layer of Keras 2 needs its counterpart in Keras 3. Received: {name} of class {class_name}, "
            "which is no layer of Keras. Rebuild the model from Keras layers in Python, load its weights, "
            "and give MODULE:FUNCTION."
        )
    options = {**plain(config), "name": name}
    if class_name == "BatchNormalization" and options.get("renorm"):
        raise TfmpqError(
            f"BatchNormalization comes in without renorm. Received: {name} with it. Train without renorm."
        )
    if "layer" in options:  # TimeDistributed and its like
        inner = options["layer"]
        options["layer"] = counterpart(inner["class_name"], inner["config"], inner["config"]["name"]).layer
    if class_name in _RENAMED_ARGUMENTS:
        old, new = _RENAMED_ARGUMENTS[class_name]
        options[new] = options.pop(old, options.get(new))
    axis = options.get("axis")
    if class_name == "BatchNormalization" and isinstance(axis, (list, tuple)):
        options["axis"] = axis[0]
    taken = _arguments(kind)
    options = {k: v for k, v in options.items() if k in taken and not k.endswith(_TRAINING_ONLY)}
    if _has_slope_of_keras2(options, class_name):
        # clip(0.2 x + 0.5, 0, 1) is the function of Keras 3, clip(x / 6 + 0.5, 0, 1), of 1.2 x.
        then = layers.Activation("hard_sigmoid", name=f"{name}_hard_sigmoid")
        if class_name == "Activation":
            return Counterpart(layers.Rescaling(1.2, name=name), (then,))
        scaled = layers.Rescaling(1.2, name=f"{name}_scaled")
        return Counterpart(_made(kind, options | {"activation": "linear"}), (scaled, then))
    return Counterpart(_made(kind, options))


def _has_slope_of_keras2(options: Mapping[str, Any], class_name: str) -> bool:
    """Whether a layer applies a hard sigmoid, whose slope is 1/5 in Keras 2 and 1/6 in Keras 3."""
    if class_name in _RECURRENT and "hard_sigmoid" in (
        options.get("activation"),
        options.get("recurrent_activation"),
    ):
        raise TfmpqError(
            f"A recurrent layer computes the same in Keras 2 and 3. Received: {options['name']} "
            f"({class_name}) with the hard sigmoid of Keras 2, which Keras 3 has not. Use 'sigmoid'."
        )
    return options.get("activation") == "hard_sigmoid"


def _made(kind: Any, options: dict[str, Any]) -> Any:
    try:
        return kind(**options)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0][:160]
        raise TfmpqError(
            "A layer of Keras 2 needs its counterpart in Keras 3. Received: "
            f"{options['name']} ({kind.__name__}), which Keras 3 refuses: {first}. Rebuild the model from "
            "Keras layers in Python, load its weights, and give MODULE:FUNCTION."
        ) from error


def name_for_keras3(name: str) -> str:
    """Name of a layer without '/', which Keras 3 refuses in names."""
    return name.replace("/", "_")


def plain(value: Any) -> Any:
    """A configuration with the tuples and numbers that Keras 2 writes as dictionaries.

    Args:
        value: Part of a configuration.
    """
    if isinstance(value, Mapping):
        if value.get("class_name") == "__tuple__":
            return tuple(plain(item) for item in value["items"])
        if value.get("class_name") == "TensorShape":
            return tuple(plain(item) for item in value["items"])
        if value.get("type") == "ndarray" and "value" in value:
            return np.asarray(value["value"])
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def _arguments(kind: Any) -> set[str]:
    """Names that the constructors of a class and of its bases take, but for the dtype."""
    inits = (vars(base)["__init__"] for base in inspect.getmro(kind) if "__init__" in vars(base))
    names = {name for init in inits for name in inspect.signature(init).parameters}
    return (names | {"name", "trainable"}) - {"self", "args", "kwargs", "dtype", "input_shape"}


def give_weights(layer: Any, arrays: Sequence[np.ndarray]) -> None:
    """Give a layer its weights.

    Args:
        layer: Layer of Keras 3 that has been called.
        arrays: Weights in the order of Keras 2, which is that of Keras 3 too.

    Raises:
        TfmpqError: They do not fit.
    """
    wanted = [tuple(variable.shape) for variable in layer.weights]
    found = [tuple(np.shape(array)) for array in arrays]
    if found != wanted:
        raise TfmpqError(
            f"A layer has the weights that its configuration says. Received: {layer.name} with {found}, not "
            f"{wanted}. Check that the file was copied completely."
        )
    if not wanted:
        return
    layer.set_weights(list(arrays))
    if isinstance(layer, keras.layers.Normalization):
        layer.finalize_state()  # its constants follow the weights
