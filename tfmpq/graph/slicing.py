"""A part of a tensor as a layer, which Keras has for images only (Cropping2D)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras


@keras.saving.register_keras_serializable("tfmpq")
class Slice(keras.layers.Layer):
    """Every so many elements of each axis, from one to before another.

    Args:
        parts: (begin, end, step) for each axis but the batch; begin and end not negative, step positive.
        **kwargs: Of any layer.
    """

    def __init__(self, parts: Sequence[Sequence[int]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parts = [[int(number) for number in part] for part in parts]

    def call(self, inputs: Any) -> Any:
        """Take the part."""
        return inputs[(slice(None), *(slice(*part) for part in self.parts))]

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Shape of the part."""
        return (input_shape[0], *(len(range(*part)) for part in self.parts))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "parts": self.parts}
