"""Quantize configs: which tensors of a layer are quantized, and how.

The protocol is TensorFlow Model Optimization's (`QuantizeConfig`), so that one config serves the Keras 3
wrapper of this package and TFMOT's `quantize_apply` alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tfmpq.quantizers.dynamic import InputGrid
from tfmpq.quantizers.learned_step import LearnedStepQuantizer
from tfmpq.quantizers.relaxation import Relaxation


@keras.saving.register_keras_serializable("tfmpq")
class MixedPrecisionQuantizeConfig:
    """Learnable bit-widths for a layer's kernel and for its output tensor.

    Args:
        weight_bits: Candidate widths of the kernel; empty leaves it alone. One candidate is a fixed width.
        output_bits: Candidate widths of the output tensor; empty leaves it alone.
        output_signed: Whether the output may be negative (False behind a ReLU).
        trainable_output_step: False for a grid that is given, such as the input image's.
        relaxation: How the learned logits weight the candidates.
        output_halfway: Whether the output lies in the middle between levels (see `LearnedStepQuantizer`).
        input_grid: What of the input has one grid, where it is quantized when it is read
            (`tfmpq.quantizers.dynamic`); None leaves it alone.
        patch: Height and width of a patch, where each has one grid.
    """

    def __init__(
        self,
        weight_bits: Sequence[int] = (),
        output_bits: Sequence[int] = (),
        output_signed: bool = True,
        trainable_output_step: bool = True,
        relaxation: Relaxation = "softmax",
        output_halfway: bool = False,
        input_grid: InputGrid | None = None,
        patch: Sequence[int] = (1, 1),
    ) -> None:
        self.weight_bits = tuple(weight_bits)
        self.output_bits = tuple(output_bits)
        self.output_signed = output_signed
        self.trainable_output_step = trainable_output_step
        self.relaxation = relaxation
        self.output_halfway = output_halfway
        self.input_grid = input_grid
        self.patch = (int(patch[0]), int(patch[1]))

    def get_weights_and_quantizers(self, layer: keras.layers.Layer) -> list[tuple[Any, LearnedStepQuantizer]]:
        """The kernel and its quantizer: per output channel, symmetric, narrow."""
        if not self.weight_bits:
            return []
        kernel = getattr(layer, _kernel_name(layer))
        rank = len(kernel.shape)
        # A depthwise kernel is (height, width, channel, multiplier): the last two are the output channel.
        axes = (rank - 2, rank - 1) if "Depthwise" in type(layer).__name__ else (rank - 1,)
        if "Transpose" in type(layer).__name__:  # (height, width, output channel, input channel)
            axes = (rank - 2,)
        quantizer = LearnedStepQuantizer(
            self.weight_bits, channel_axes=axes, narrow=True, relaxation=self.relaxation
        )
        return [(kernel, quantizer)]

    def get_activations_and_quantizers(
        self, layer: keras.layers.Layer
    ) -> list[tuple[Any, LearnedStepQuantizer]]:
        """None: activations are quantized once per tensor, where a deployed network can be."""
        return []

    def set_quantize_weights(self, layer: keras.layers.Layer, quantize_weights: Sequence[Any]) -> None:
        """Put the quantized kernel in the place of the layer's own (used by TFMOT's wrapper)."""
        if quantize_weights:
            setattr(layer, _kernel_name(layer), quantize_weights[0])

    def set_quantize_activations(
        self, layer: keras.layers.Layer, quantize_activations: Sequence[Any]
    ) -> None:
        """Nothing to set."""
        return None  # AutoGraph, which TFMOT's layers run through, cannot read a body without a statement

    def get_output_quantizers(self, layer: keras.layers.Layer) -> list[LearnedStepQuantizer]:
        """The quantizer of the output tensor."""
        if not self.output_bits:
            return []
        return [
            LearnedStepQuantizer(
                self.output_bits,
                signed=self.output_signed,
                trainable_step=self.trainable_output_step,
                relaxation=self.relaxation,
                halfway=self.output_halfway,
            )
        ]

    def get_config(self) -> dict[str, Any]:
        """JSON-able arguments."""
        return {
            "weight_bits": list(self.weight_bits),
            "output_bits": list(self.output_bits),
            "output_signed": self.output_signed,
            "trainable_output_step": self.trainable_output_step,
            "relaxation": self.relaxation,
            "output_halfway": self.output_halfway,
            "input_grid": self.input_grid,
            "patch": list(self.patch),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MixedPrecisionQuantizeConfig:
        """Rebuild from `get_config`."""
        return cls(**config)


def _kernel_name(layer: Any) -> str:
    """Keras 2 has a name of its own for the kernel of a depthwise convolution."""
    renamed = "Depthwise" in type(layer).__name__ and hasattr(layer, "depthwise_kernel")
    return "depthwise_kernel" if renamed else "kernel"
