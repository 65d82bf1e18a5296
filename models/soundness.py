"""Models that no file can be made of are refused when they are loaded, in one line that says why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tfmpq.errors import TfmpqError

_MOST_NAMES = 4


def refuse_quantized(model: Any, name: str) -> None:
    """Refuse a model that Keras has quantized already.

    Raises:
        TfmpqError: It is.
    """
    found = {layer.name: str(mode) for layer in _layers(model) if (mode := _mode(layer))}
    if found:
        modes, are = ", ".join(sorted(set(found.values()))), "is" if len(found) == 1 else "are"
        raise TfmpqError(
            f"A float model is quantized. Received: {name}, in which {_listed(list(found))} {are} quantized "
            f"already ({modes}, by Keras). Give the model as it was before model.quantize."
        )


def refuse_unfinite(model: Any, name: str) -> None:
    """Refuse a model with weights that are no numbers.

    Raises:
        TfmpqError: It has.
    """
    from keras import ops

    for layer in _layers(model):
        for weight in layer.weights:
            values = ops.convert_to_numpy(weight)
            if values.dtype.kind not in "iub" and not np.isfinite(values.astype(np.float32)).all():
                what = "NaN" if np.isnan(values.astype(np.float32)).any() else "infinite values"
                raise TfmpqError(
                    f"Weights are finite numbers. Received: {name}, whose layer '{layer.name}' has {what} in "
                    f"its {weight.name}. Train it again, or load weights from before it diverged."
                )


def _mode(layer: Any) -> str | None:
    return getattr(layer, "quantization_mode", None) or getattr(
        getattr(layer, "dtype_policy", None), "quantization_mode", None
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(f"'{name}'" for name in names[:_MOST_NAMES]) + more


def _layers(model: Any) -> Iterator[Any]:
    """Layers of a model, those of nested models and of wrappers included; models themselves left out."""
    for layer in getattr(model, "layers", ()):
        if getattr(layer, "layers", None):
            yield from _layers(layer)
        else:
            yield layer
