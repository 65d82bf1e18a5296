"""The parameter-free shortcut of the CIFAR ResNets (option A of He et al., arXiv 1512.03385, section 3.3)."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfmpq.errors import UsageError


@keras.saving.register_keras_serializable(package="tfmpq")
class PadShortcut(keras.layers.Layer):
    """Keeps every `strides`-th row and column and appends zero channels, half of them on either side.

    Args:
        filters: Number of output channels; the channels to add are an even number.
        strides: Step of the subsampling, in rows and columns.

    Input shape: (batch, height, width, channels). Output shape: (batch, ceil(height / strides),
    ceil(width / strides), filters).
    """

    def __init__(self, filters: int, strides: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.strides = strides

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Check that the zero channels can be split into two equal halves."""
        added = self.filters - (input_shape[-1] or 0)
        if added < 0 or added % 2:
            raise UsageError(
                "A padded shortcut adds an even number of channels. Received: "
                f"{input_shape[-1]} channels for {self.filters} filters. Use a projection shortcut instead."
            )
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """Subsample, then pad the channels."""
        side = (self.filters - inputs.shape[-1]) // 2
        kept = inputs[:, :: self.strides, :: self.strides, :]
        return ops.pad(kept, ((0, 0), (0, 0), (0, 0), (side, side)))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Shape after subsampling and padding."""
        sides = (None if side is None else -(-side // self.strides) for side in input_shape[1:3])
        return (input_shape[0], *sides, self.filters)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "filters": self.filters, "strides": self.strides}
