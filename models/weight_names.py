"""Names and layouts of weight arrays in `.npz` files, brought to those of Keras."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfmpq.models.transformer_names import of_transformers

_BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_LAYER_NORM = {"weight": "gamma", "bias": "beta"}
_KERNELS = ("weight", "kernel_oihw", "kernel_oi")
_COUNTER = "num_batches_tracked"


def from_arrays(arrays: Mapping[str, np.ndarray], model: keras.Model) -> dict[str, np.ndarray]:
    """Rename and transpose arrays to `<layer>/<variable>` in Keras layout.

    These namings are known: `<layer>/<weight>`, with `kernel_oihw` (out, in, kh, kw), depthwise
    (channel, 1, kh, kw), `kernel_oi` (out, in) or Keras' own `kernel`; torchvision's `<layer>.<weight>`; and
    of vision transformers those of timm and Hugging Face (`tfmpq.models.transformer_names`). The step counter
    of PyTorch's BatchNorm has no use here and is dropped. Names of no layer pass unchanged, to be reported.
    """
    layers = {layer.name: layer for layer in model.layers}
    named = {}
    for name, array in of_transformers(arrays).items():
        layer, _, weight = name.rpartition("/" if "/" in name else ".")
        layer = layer.removeprefix("module.")
        if weight == _COUNTER:
            continue
        if layer in layers:
            variable, array = _to_keras(weight, array, layers[layer])
            name = f"{layer}/{variable}"
        named[name] = array
    return named


def _to_keras(weight: str, array: np.ndarray, layer: Any) -> tuple[str, np.ndarray]:
    if isinstance(layer, keras.layers.BatchNormalization):
        return _BATCH_NORM.get(weight, weight), array
    if isinstance(layer, keras.layers.LayerNormalization):
        return _LAYER_NORM.get(weight, weight), array
    if weight in _KERNELS:
        if array.ndim == 4:
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            return "kernel", array.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
        # A dense layer of every pixel or token is a convolution of one pixel.
        return "kernel", array.T[None, None] if isinstance(layer, keras.layers.Conv2D) else array.T
    return "kernel" if weight == "depthwise_kernel" else weight, array
