"""Whole models from files: `.keras` and `.h5` of Keras 3 and of Keras 2, and SavedModels of Keras 2."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfmpq.errors import TfmpqError, UsageError
from tfmpq.models.keras2 import FUNCTIONAL, rebuild
from tfmpq.models.own_code import code_is_allowed
from tfmpq.models.saved_model import is_saved_model, read_saved_model
from tfmpq.models.user import one_line, snake_case
from tfmpq.models.weight_files import array_of


def read_model(path: Path) -> keras.Model:
    """Read a whole model, without running code that the file brings, unless it is allowed (`own_code`).

    Args:
        path: A `.keras` or `.h5` file, or the folder of a SavedModel.

    Raises:
        UsageError: There is no such file, or it holds weights only.
        TfmpqError: It is not a whole and safe Keras model, or one that is quantized already.
    """
    if is_saved_model(path):
        return rebuild(*read_saved_model(path))
    if not path.is_file():
        raise UsageError(f"A model file must exist. Received: {path}. Check the path.")
    try:
        version, config = _described(path)
    except Exception as error:
        raise _damaged(path, error) from error
    if config is None:
        raise UsageError(
            f"A model file holds layers and weights. Received: {path} with weights only. Build the network "
            "in a Python function and give MODULE:FUNCTION with --weights of this file, or save the whole "
            "model with model.save."
        )
    _refuse_qkeras(path, config)
    _refuse_tfmot(path, config)
    if version.startswith(("1.", "2.")):
        name, options = config["class_name"], config["config"]
        try:
            weights = dict(_keras2_weights(path, options))
        except Exception as error:
            raise _damaged(path, error) from error
        return rebuild(name, options, weights)
    try:
        return keras.models.load_model(path, compile=False, safe_mode=not code_is_allowed())
    except Exception as error:
        raise _unloadable(path, error, config) from error


def _described(path: Path) -> tuple[str, dict[str, Any] | None]:
    """Version of Keras that wrote a file, and configuration of its model; None if it holds weights only."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            metadata = json.loads(archive.read("metadata.json"))
            return str(metadata.get("keras_version", "3")), json.loads(archive.read("config.json"))
    import h5py

    with h5py.File(path, "r") as file:
        attributes = file.attrs
        version, config = (_text(attributes.get(name, "")) for name in ("keras_version", "model_config"))
        weights = file.get("model_weights", file)
        return version or _text(weights.attrs.get("keras_version", "2.")), json.loads(
            config
        ) if config else None


def _keras2_weights(path: Path, config: Any) -> Iterator[tuple[str, Any]]:
    """Weights by layer: those of a nested model in one row (.h5), or by its layers (.keras)."""
    import h5py

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            content = archive.read("model.weights.h5")
        with h5py.File(io.BytesIO(content), "r") as file:
            yield from _by_class(file, config).items()
        return
    with h5py.File(path, "r") as file:
        root = file["model_weights"]
        for name in map(_text, root.attrs["layer_names"]):
            group = root[name]
            names = [_text(weight) for weight in group.attrs["weight_names"]]
            yield name, [(weight, array_of(group, weight)) for weight in names]


def _by_class(group: Any, config: Any) -> dict[str, Any]:
    """Weights in a `.keras` file of Keras 2, whose groups are numbered by class."""
    found: dict[str, Any] = {}
    counts: dict[str, int] = {}
    homes = [key for key in ("_layer_checkpoint_dependencies", "layers") if key in group]
    parts: Any = group[homes[0]] if homes else {}
    for entry in config["layers"] if isinstance(config, Mapping) else config:
        kind, options = entry["class_name"], entry["config"]
        if kind == "InputLayer" and isinstance(config, Mapping) and "input_layers" not in config:
            continue  # a Sequential model does not count it
        key = snake_case(kind)
        number = counts.get(key, 0)
        counts[key] = number + 1
        part = parts.get(f"{key}_{number}" if number else key)
        name = entry.get("name", options["name"] if isinstance(options, Mapping) else kind)
        if part is None:
            continue
        if kind in FUNCTIONAL or kind == "Sequential":
            found[name] = _by_class(part, options)
        else:
            found[name] = [("", array) for array in _arrays(part)]
    return found


def _arrays(part: Any) -> list[np.ndarray]:
    """Own weights of a layer, then those of layers inside it (wrappers, cells)."""
    own = part.get("vars", {})
    arrays = [array_of(own, index) for index in sorted(own, key=int)]
    for key in part:
        if key != "vars":
            arrays += _arrays(part[key])
    return arrays


def _refuse_qkeras(path: Path, config: Any) -> None:
    """Refuse models of QKeras, whose weights are float numbers that its quantizers round when called."""
    quantizers = dict.fromkeys(_qkeras_quantizers(config))
    if quantizers:
        raise TfmpqError(
            f"A network comes in float. Received: {path}, a QKeras model quantized by "
            f"{', '.join(quantizers)}. Build the same network from Keras layers, give them its "
            "weights, and save that."
        )


def _refuse_tfmot(path: Path, config: Any) -> None:
    """Refuse models that TensorFlow Model Optimization has put its quantizers into."""
    names = list(dict.fromkeys(_tfmot_layers(config)))
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise TfmpqError(
            f"A network comes in float. Received: {path}, quantized already by TensorFlow Model Optimization "
            f"({', '.join(names[:3])}{more}). Give the model as it was before that."
        )


def _tfmot_layers(part: Any) -> Iterator[str]:
    """Layers in a configuration that TFMOT has wrapped; this toolchain's own wrapper is registered."""
    if isinstance(part, list):
        for item in part:
            yield from _tfmot_layers(item)
    if not isinstance(part, Mapping):
        return
    registered = str(part.get("registered_name") or "")
    options = part.get("config")
    if str(part.get("class_name")).split(">")[-1] in _TFMOT and not registered.startswith("tfmpq>"):
        yield str(options.get("name", "quantize")) if isinstance(options, Mapping) else "quantize"
        return
    for item in part.values():
        yield from _tfmot_layers(item)


_TFMOT = frozenset(("QuantizeLayer", "QuantizeWrapper", "QuantizeWrapperV2"))


def _qkeras_quantizers(part: Any) -> Iterator[str]:
    """Quantizers in a configuration of QKeras, as it writes them."""
    if isinstance(part, list):
        for item in part:
            yield from _qkeras_quantizers(item)
    if not isinstance(part, Mapping):
        return
    options = part.get("config")
    if str(part.get("class_name", "")) in _QKERAS and isinstance(options, Mapping):
        found = [v for k, v in options.items() if k.endswith("quantizer") and v]
        if part["class_name"] == "QActivation":
            found.append(options.get("activation"))
        for quantizer in found or [part["class_name"]]:
            yield _shown(quantizer)
    for item in part.values():
        yield from _qkeras_quantizers(item)


_QKERAS = frozenset(
    (
        *("QActivation", "QAdaptiveActivation", "QDense", "QConv1D", "QConv2D", "QConv2DTranspose"),
        *("QDepthwiseConv2D", "QMobileNetSeparableConv2D", "QSeparableConv1D", "QSeparableConv2D"),
        *("QBatchNormalization", "QConv2DBatchnorm", "QDepthwiseConv2DBatchnorm", "QAveragePooling2D"),
        *("QGlobalAveragePooling2D", "QSimpleRNN", "QLSTM", "QGRU", "QBidirectional", "QAdd", "QMultiply"),
    )
)


def _shown(quantizer: Any) -> str:
    if not isinstance(quantizer, Mapping):
        return str(quantizer)
    options = quantizer.get("config") or {}
    known = [
        f"{name}={options[name]}" for name in ("bits", "integer", "alpha") if options.get(name) is not None
    ]
    return f"{quantizer.get('class_name')}({', '.join(known)})"


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _damaged(path: Path, error: Exception) -> TfmpqError:
    return TfmpqError(
        f"A model file must be a whole file written by Keras. Received: {path} ({one_line(error)}). Check "
        "that it was copied completely, or save it again with model.save."
    )


def _unloadable(path: Path, error: Exception, config: Any) -> TfmpqError:
    """Why Keras 3 does not load one of its own files."""
    names = list(dict.fromkeys(_classes_of_others(config)))
    if "Lambda" in names and not code_is_allowed():
        return TfmpqError(
            f"A model file is read without running code that it brings. Received: {path} with a Lambda "
            "layer. If you trust it, give --allow-code; else replace the layer by keras.ops, or build the "
            "model in Python and give MODULE:FUNCTION."
        )
    if names:
        return TfmpqError(
            f"A model file is made of Keras' own layers. Received: {path} with {', '.join(names[:6])}. Build "
            "the model in Python, where these are defined, and give MODULE:FUNCTION with --weights of this "
            "file."
        )
    return TfmpqError(
        f"A model file must hold a whole Keras model. Received: {path} ({one_line(error)}). Save it again "
        "with model.save, or check that it was copied completely."
    )


def _classes_of_others(part: Any) -> Iterator[str]:
    """Classes in a configuration that are not Keras' own, and Lambda."""
    if isinstance(part, list):
        for item in part:
            yield from _classes_of_others(item)
    if isinstance(part, Mapping):
        name, module = str(part.get("class_name", "")), part.get("module")
        own = module is None or str(module).split(".")[0] in ("keras", "builtins")
        registered = keras.saving.get_registered_object(str(part.get("registered_name")))
        if name == "Lambda" or (name and "config" in part and not own and registered is None):
            yield name
        for item in part.values():
            yield from _classes_of_others(item)
