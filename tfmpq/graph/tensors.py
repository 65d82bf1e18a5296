"""Layers that Keras lacks and transformers are made of: a tensor of weights, and a product of two tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("tfmpq")
class Constant(keras.layers.Layer):
    """Gives the same trained tensor for every image: a class token, a position embedding, a relative bias.

    Args:
        shape: Shape of the tensor, without the batch.
        **kwargs: Of any layer.

    Input shape: any; only the number of images is read. Output shape: (batch, *shape).
    """

    def __init__(self, shape: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shape = tuple(int(size) for size in shape)

    def build(self, input_shape: Any) -> None:
        """Make the tensor."""
        initial = keras.initializers.TruncatedNormal(stddev=0.02)
        self.value = self.add_weight(shape=self.shape, initializer=initial, name="value")

    def call(self, inputs: Any) -> Any:
        """One copy of the tensor for each image."""
        value = ops.expand_dims(ops.convert_to_tensor(self.value), 0)
        return ops.broadcast_to(value, (ops.shape(inputs)[0], *self.shape))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """(batch, *shape)."""
        return (input_shape[0], *self.shape)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "shape": self.shape}


@keras.saving.register_keras_serializable("tfmpq")
class MatMul(keras.layers.Layer):
    """Product of the matrices in the last two axes of two tensors; the axes before them are broadcast.

    Args:
        transpose_b: Whether the second one holds its matrices transposed.
        **kwargs: Of any layer.
    """

    def __init__(self, transpose_b: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.transpose_b = transpose_b

    def call(self, inputs: Sequence[Any]) -> Any:
        """Multiply."""
        one, other = inputs
        return ops.matmul(one, ops.swapaxes(other, -1, -2) if self.transpose_b else other)

    def compute_output_shape(self, input_shape: Sequence[Any]) -> tuple[int | None, ...]:
        """Rows of the first one, columns of the second."""
        one, other = input_shape
        axes = [first if second == 1 else second for first, second in zip(one[:-2], other[:-2], strict=True)]
        return (*axes, one[-2], other[-2] if self.transpose_b else other[-1])

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "transpose_b": self.transpose_b}
