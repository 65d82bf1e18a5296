"""One wrapper that quantizes any Keras layer according to its quantize config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple

import keras
from keras import ops

from tfmpq.keras_internals import takes_training
from tfmpq.quantizers.config import MixedPrecisionQuantizeConfig
from tfmpq.quantizers.dynamic import quantize_input
from tfmpq.quantizers.learned_step import LearnedStepQuantizer

# The empty default is never mutated.
_perturbations: ContextVar[Mapping[str, Any]] = ContextVar("tfmpq_perturbations", default={})  # noqa: B039


@contextmanager
def perturbed_kernels(perturbations: Mapping[str, Any]) -> Iterator[None]:
    """Add a tensor to quantized kernels while the context is open.

    This is SAQ's case 3 (arXiv 2111.12273, section 3): the perturbation acts after quantization, where it
    moves the network in the intended direction instead of flipping a few codes. The gradient with respect to
    such a tensor at zero is the gradient with respect to the quantized kernel.

    Args:
        perturbations: Wrapper name to a tensor of the kernel's shape.
    """
    token = _perturbations.set(perturbations)
    try:
        yield
    finally:
        _perturbations.reset(token)


class Quantized(NamedTuple):
    """A tensor of a wrapped layer that is quantized.

    Attributes:
        kind: Whether it is the kernel or the output.
        quantizer: Its quantizer.
        variables: What the quantizer learns, by name: `log_step` and, where there is a choice, `bit_logits`.
    """

    kind: Literal["weight", "activation"]
    quantizer: LearnedStepQuantizer
    variables: dict[str, Any]


@keras.saving.register_keras_serializable("tfmpq")
class QuantizeWrapper(keras.layers.Wrapper):
    """Calls the inner layer with quantized weights and quantizes what it returns.

    The inner layer runs inside a `keras.StatelessScope` that maps its kernel to the quantized tensor: no
    layer class is rewritten, gradients reach kernel and bit choice, and saving stays exact because the
    variables of the choice live here and not in a subclass of Conv2D.

    Args:
        layer: Layer to wrap; the wrapper takes its name.
        quantize_config: Which tensors to quantize.
    """

    def __init__(
        self, layer: keras.layers.Layer, quantize_config: MixedPrecisionQuantizeConfig, **kwargs: Any
    ) -> None:
        kwargs.setdefault("name", layer.name)
        super().__init__(layer, **kwargs)
        self.quantize_config = quantize_config
        self.weight_quantizer: LearnedStepQuantizer | None = None
        self.output_quantizer: LearnedStepQuantizer | None = None
        self.weight_variables: dict[str, Any] = {}
        self.output_variables: dict[str, Any] = {}

    def build(self, input_shape: Any = None) -> None:
        """Build the inner layer and the quantizers' variables."""
        if not self.layer.built:
            self.layer.build(input_shape)
            self.layer.built = True
        for kernel, quantizer in self.quantize_config.get_weights_and_quantizers(self.layer):
            self.weight_quantizer = quantizer
            self.weight_variables = quantizer.build(kernel.shape, "weight", self)
        for quantizer in self.quantize_config.get_output_quantizers(self.layer):
            self.output_quantizer = quantizer
            self.output_variables = quantizer.build(
                self.layer.compute_output_shape(input_shape), "output", self
            )
        self.built = True

    @property
    def quantizers(self) -> list[Quantized]:
        """Its quantizers, with the variables that they learn: the weights' before the output's."""
        found = []
        if self.weight_quantizer is not None:
            found.append(Quantized("weight", self.weight_quantizer, self.weight_variables))
        if self.output_quantizer is not None:
            found.append(Quantized("activation", self.output_quantizer, self.output_variables))
        return found

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The inner layer's."""
        return self.layer.compute_output_shape(input_shape)

    def quantized_kernel(self) -> Any:
        """The (mixture of) quantized kernel(s), before any perturbation."""
        if self.weight_quantizer is None:
            raise ValueError(
                f"Only layers with a weight quantizer have a quantized kernel. Received: {self.name}."
            )
        return self.weight_quantizer(
            ops.convert_to_tensor(self.layer.kernel), training=False, weights=self.weight_variables
        )

    def quantized_input(self, inputs: Any) -> Any:
        """What the kernel reads: the input on its own grids, where a kernel puts it there itself."""
        grid, quantizer = self.quantize_config.input_grid, self.weight_quantizer
        if (
            grid is None or quantizer is None or not quantizer.kept
        ):  # with none kept this is the float network
            return inputs
        return quantize_input(inputs, grid, self.quantize_config.patch)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Run the inner layer quantized."""
        inputs = self.quantized_input(inputs)
        arguments = {"training": training} if takes_training(self.layer) else {}
        if self.weight_quantizer is None:
            outputs = self.layer(inputs, **arguments)
        else:
            kernel = self.quantized_kernel()
            perturbation = _perturbations.get().get(self.name)
            if perturbation is not None:
                kernel = kernel + perturbation
            mapping = [
                (variable, kernel if variable is self.layer.kernel else ops.convert_to_tensor(variable))
                for variable in self.layer.variables
            ]
            with keras.StatelessScope(state_mapping=mapping):
                outputs = self.layer(inputs, **arguments)
        if self.output_quantizer is not None:
            outputs = self.output_quantizer(outputs, training=training, weights=self.output_variables)
        return outputs

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, serialized."""
        return {
            **super().get_config(),
            "quantize_config": keras.saving.serialize_keras_object(self.quantize_config),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> QuantizeWrapper:
        """Rebuild from `get_config`."""
        config = dict(config)
        config["layer"] = keras.saving.deserialize_keras_object(
            config["layer"], custom_objects=custom_objects
        )
        config["quantize_config"] = keras.saving.deserialize_keras_object(config["quantize_config"])
        return cls(**config)


def inner(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer itself, or the one inside a `QuantizeWrapper`."""
    return layer.layer if isinstance(layer, QuantizeWrapper) else layer
