"""Imports TensorFlow Model Optimization beside Keras 3, and tells it of this package's quantizers.

TFMOT works on tf_keras (Keras 2). Its import sets `TF_USE_LEGACY_KERAS` for the process and decides what
`tf.keras` is from then on; both are put back here, so that this import changes nothing for anybody else.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import keras

from tfmpq.errors import TfmpqError
from tfmpq.quantizers.config import MixedPrecisionQuantizeConfig
from tfmpq.quantizers.learned_step import LearnedStepQuantizer

_SWITCH = "TF_USE_LEGACY_KERAS"


@contextmanager
def _tf_keras_is_tf_keras(legacy: ModuleType) -> Iterator[None]:
    """`tf.keras` is tf_keras while the context is open; it is not resolved before or behind it."""
    import tensorflow as tf

    names, switch = vars(tf), os.environ.get(_SWITCH)
    before = names.get("keras")
    names["keras"] = legacy
    try:
        yield
    finally:
        if before is None:
            del names["keras"]
        else:
            names["keras"] = before
        if switch is None:
            os.environ.pop(_SWITCH, None)
        else:
            os.environ[_SWITCH] = switch


@dataclass(frozen=True, slots=True)
class _Packages:
    """What the bridge uses of tf_keras and TFMOT.

    Attributes:
        tf_keras: Keras 2.
        tfmot: TFMOT's public API for Keras.
        scheme: Its base class of what is done to a model.
        layout: Its base class of rewritings.
        registry: Its base class of default configs.
        wrapper: Its layer around a quantized layer.
        annotation: Its layer around a layer to be quantized.
    """

    tf_keras: Any
    tfmot: Any
    scheme: Any
    layout: Any
    registry: Any
    wrapper: Any
    annotation: Any


def _import() -> _Packages:
    """Import them all.

    Raises:
        TfmpqError: Keras 3 runs on another backend than TensorFlow, or a package is missing.
    """
    if keras.backend.backend() != "tensorflow":
        raise TfmpqError(
            "TFMOT's layers compute with TensorFlow. Received: Keras on the backend "
            f"'{keras.backend.backend()}'. Set KERAS_BACKEND=tensorflow before keras is imported."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TFMOT imports distutils
            import tf_keras as legacy

            with _tf_keras_is_tf_keras(legacy):
                import tensorflow_model_optimization as optimization
                from tensorflow_model_optimization.python.core.quantization.keras import (
                    quantize_annotate,
                    quantize_layout_transform,
                    quantize_registry,
                    quantize_scheme,
                    quantize_wrapper,
                )
    except ModuleNotFoundError as error:
        raise TfmpqError(
            "The TFMOT bridge needs tensorflow-model-optimization and tf_keras. Received: an environment "
            f"without {error.name}. Install them with: pip install 'tfmpq[tfmot]'."
        ) from error
    return _Packages(
        legacy,
        optimization.quantization.keras,
        quantize_scheme.QuantizeScheme,
        quantize_layout_transform.QuantizeLayoutTransform,
        quantize_registry.QuantizeRegistry,
        quantize_wrapper.QuantizeWrapper,
        quantize_annotate.QuantizeAnnotate,
    )


packages = _import()
tf_keras: Any = packages.tf_keras
tfmot: Any = packages.tfmot


def _register() -> None:
    """Make TFMOT take the quantizers, and tf_keras read them from files without a scope."""
    tfmot.QuantizeConfig.register(MixedPrecisionQuantizeConfig)
    tfmot.quantizers.Quantizer.register(LearnedStepQuantizer)
    tf_keras.utils.register_keras_serializable("tfmpq")(MixedPrecisionQuantizeConfig)


_register()


def is_wrapper(layer: Any) -> bool:
    """Whether a tf_keras layer is one that TFMOT has quantized."""
    return isinstance(layer, packages.wrapper)


def is_annotation(layer: Any) -> bool:
    """Whether a tf_keras layer is one that is annotated for TFMOT."""
    return isinstance(layer, packages.annotation)
