"""TFMOT's `quantize_apply` for configs with a bit choice, and the steps that such a model begins with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tfmpq.errors import TfmpqError, UsageError
from tfmpq.keras_internals import calls_of
from tfmpq.quantization.insertion import SAMPLE_SIZE
from tfmpq.quantizers.config import MixedPrecisionQuantizeConfig
from tfmpq.tfmot.packages import is_annotation, is_wrapper, packages, tf_keras, tfmot

_Scheme: Any = packages.scheme
_Layout: Any = packages.layout
_Registry: Any = packages.registry

PREFIX = "quant_"
"""What TFMOT puts before the name of a layer that it quantizes."""


class AsAnnotated(_Scheme):
    """Quantizes what is annotated as it is annotated, and changes nothing else.

    TFMOT's default scheme quantizes the input, rewrites layers, and replaces the config of a convolution in
    front of a ReLU by one that quantizes nothing.
    """

    def get_layout_transformer(self) -> Any:
        """One that leaves the model as it is."""
        return _SameLayout()

    def get_quantize_registry(self) -> Any:
        """One without a config of its own for any layer."""
        return _Nothing()


class _SameLayout(_Layout):
    def apply(self, model: Any, layer_quantize_map: Any) -> tuple[Any, Any]:
        return model, layer_quantize_map


class _Nothing(_Registry):
    def supports(self, layer: Any) -> bool:
        return False

    def get_quantize_config(self, layer: Any) -> None:
        return None


def quantize_apply(annotated: Any, images: np.ndarray | None = None) -> Any:
    """Quantize an annotated tf_keras model exactly as it is annotated.

    Args:
        annotated: tf_keras model with layers from `quantize_annotate_layer`.
        images: Preprocessed images, float32, that the first steps of activations are fitted to; None leaves
            them at 1.

    Returns:
        Quantized tf_keras model.

    Raises:
        UsageError: An annotation has no config.
        TfmpqError: A config did not reach the quantized model.
    """
    planned = {layer.layer.name: layer.quantize_config for layer in annotated.layers if is_annotation(layer)}
    bare = [name for name, config in planned.items() if config is None]
    if bare:
        raise UsageError(
            "An annotated layer has a config. Received: "
            f"{', '.join(bare)} without one. Give quantize_annotate_layer a MixedPrecisionQuantizeConfig."
        )
    model = tfmot.quantize_apply(annotated, scheme=AsAnnotated(), quantized_layer_name_prefix=PREFIX)
    check_configs(model, planned)
    fit_steps(model, images)
    return model


def check_configs(model: Any, planned: dict[str, Any]) -> None:
    """Make sure that every layer is quantized as planned.

    Raises:
        TfmpqError: One is not.
    """
    found = {layer.layer.name: layer.quantize_config for layer in model.layers if is_wrapper(layer)}
    lost = [
        name
        for name, config in planned.items()
        if name not in found
        or type(found[name]) is not type(config)
        or found[name].get_config() != config.get_config()
    ]
    if lost:
        raise TfmpqError(
            f"Every annotated layer is quantized by its own config. Received: {', '.join(lost)} with none "
            "or another one. Use tfmpq.tfmot.quantize_apply, which rewrites nothing."
        )


def fit_steps(model: Any, images: np.ndarray | None = None) -> None:
    """Fit the steps of every width to kernels and, given images, to activations (least squared error).

    A model straight from TFMOT's own `quantize_apply` has steps of 1 and needs this before it computes
    anything sensible.

    Args:
        model: tf_keras model with quantizers of this package.
        images: Preprocessed images, float32 (N, height, width, channels).
    """
    wrappers = mixed_wrappers(model)
    for wrapper in wrappers:
        for kernel, quantizer, variables in wrapper._weight_vars:
            variables["log_step"].assign(quantizer.initial_log_step(kernel.numpy()))
    if images is None:
        return
    measured = [wrapper for wrapper in wrappers if wrapper._output_quantizers]
    with _float_computation(wrappers):
        tensors = [[w.get_output_at(i) for i in range(len(calls_of(w)))] for w in measured]
        if tensors:
            values = tf_keras.Model(model.inputs, tensors)(images, training=False)
    generator = np.random.default_rng(0)
    for position, wrapper in enumerate(measured):
        sample = np.concatenate([np.ravel(tensor) for tensor in values[position]])
        if sample.size > SAMPLE_SIZE:
            sample = generator.choice(sample, SAMPLE_SIZE, replace=False)
        quantizer = wrapper._output_quantizers[0]
        wrapper._output_quantizer_vars["log_step"].assign(quantizer.initial_log_step(sample))


def mixed_wrappers(model: Any) -> list[Any]:
    """The layers that are quantized by configs of this package."""
    return [
        layer
        for layer in model.layers
        if is_wrapper(layer) and isinstance(layer.quantize_config, MixedPrecisionQuantizeConfig)
    ]


@contextmanager
def _float_computation(wrappers: Sequence[Any]) -> Any:
    """Quantizers let everything through while the context is open."""
    quantizers = [q for w in wrappers for q in (*(q for _, q, _ in w._weight_vars), *w._output_quantizers)]
    kept = [quantizer.kept for quantizer in quantizers]
    for quantizer in quantizers:
        quantizer.kept = ()
    try:
        yield
    finally:
        for quantizer, before in zip(quantizers, kept, strict=True):
            quantizer.kept = before
