"""Activations that Keras has no name for; importing this registers them for files that hold them."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable("tfmpq")
def gelu_tanh(x: Any) -> Any:
    """GELU by its approximation with tanh (arXiv 1606.08415, section 2)."""
    return keras.ops.gelu(x, approximate=True)
