"""Images brought to another size by whole factors: up by bilinear or nearest interpolation, or down."""

from __future__ import annotations

from typing import Any

from keras import layers

from tfmpq.graph.replay import Replay


def resized(replay: Replay, operation: Any, args: tuple[Any, ...]) -> Any:
    """The layers of a Resizing, or of `keras.ops.image.resize`; None where the factors are not whole.

    With half-pixel centres, the centre of a pixel that is k times larger lies on one of the old pixels (k
    odd) or between two (k even), whose mean it is.
    """
    value, kind = args[0], operation.interpolation
    if len(value.shape) != 4 or kind not in ("bilinear", "nearest") or getattr(operation, "antialias", False):
        return None
    wanted = operation.size if hasattr(operation, "size") else (operation.height, operation.width)
    if operation.crop_to_aspect_ratio or operation.pad_to_aspect_ratio:
        return None
    if operation.data_format == "channels_first":
        return None
    height, width, _ = value.shape[1:]
    if (height, width) == tuple(wanted):
        return value
    if wanted[0] % height == 0 and wanted[1] % width == 0:
        factors = (wanted[0] // height, wanted[1] // width)
        return replay.call(layers.UpSampling2D, operation.name, value, size=factors, interpolation=kind)
    if height % wanted[0] or width % wanted[1]:
        return None
    return _smaller(replay, operation.name, value, (height // wanted[0], width // wanted[1]), kind)


def _smaller(replay: Replay, name: str, value: Any, factors: tuple[int, int], kind: str) -> Any:
    """Every so many pixels, or the means of the two in the middle."""
    first = tuple((factor - 1) // 2 if kind == "bilinear" else factor // 2 for factor in factors)
    window = tuple(2 if kind == "bilinear" and factor % 2 == 0 else 1 for factor in factors)
    value = replay.call(layers.Cropping2D, f"{name}_first", value, cropping=((first[0], 0), (first[1], 0)))
    kinds = layers.AveragePooling2D if 2 in window else layers.MaxPooling2D
    sizes = [
        (size - extent) // factor + 1
        for size, extent, factor in zip(value.shape[1:3], window, factors, strict=True)
    ]
    pooled = replay.call(kinds, name, value, pool_size=window, strides=factors)
    return pooled if tuple(pooled.shape[1:3]) == tuple(sizes) else None
