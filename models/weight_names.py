"""Names and layouts of weight arrays in `.npz` files, brought to those of Keras."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

_BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_KERNELS = ("weight", "kernel_oihw", "kernel_oi")
_COUNTER = "num_batches_tracked"


def from_arrays(arrays: Mapping[str, np.ndarray], model: keras.Model) -> dict[str, np.ndarray]:
    """Rename and transpose arrays to `<layer>/<variable>` in Keras layout.

    Two namings are known: `<layer>/<weight>`, with `kernel_oihw` (out, in, kh, kw), depthwise
    (channel, 1, kh, kw), `kernel_oi` (out, in) or Keras' own `kernel`; and torchvision's `<layer>.<weight>`.
    The step counter of PyTorch's BatchNorm has no use here and is dropped. Names of no layer pass unchanged,
    to be reported.
    """
    layers = {layer.name: layer for layer in model.layers}
    named = {}
    for name, array in arrays.items():
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
    if weight in _KERNELS:
        if array.ndim == 4:
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            return "kernel", array.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
        return "kernel", array.T
    return "kernel" if weight == "depthwise_kernel" else weight, array
