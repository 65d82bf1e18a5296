"""Preprocessings by name: each is one affine map per channel from uint8 to float32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tfmpq.errors import UsageError


@dataclass(frozen=True, slots=True)
class Affine:
    """float32(pixel * scale + offset) per channel, of channels in reverse order if asked.

    Attributes:
        scale: One number for all channels, or one for each, in the order of the output.
        offset: As `scale`.
        reverse: Whether red, green, blue become blue, green, red.
    """

    scale: tuple[float, ...]
    offset: tuple[float, ...]
    reverse: bool = False


_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

PREPROCESSINGS = {
    "none": Affine((1.0,), (0.0,)),
    "unit": Affine((1 / 255,), (0.0,)),
    "tf": Affine((1 / 127.5,), (-1.0,)),
    "torch": Affine(
        tuple(1 / (255 * std) for std in _STD),
        tuple(-mean / std for mean, std in zip(_MEAN, _STD, strict=True)),
    ),
    "caffe": Affine((1.0,), (-103.939, -116.779, -123.68), reverse=True),
}
"""none: 0..255; unit: 0..1; tf: -1..1; torch: ImageNet mean and deviation; caffe: BGR less the mean."""


def affine(name: str) -> Affine:
    """The preprocessing of that name.

    Raises:
        UsageError: There is none.
    """
    if name not in PREPROCESSINGS:
        raise UsageError(
            f"A preprocessing is one of {', '.join(PREPROCESSINGS)}. Received: {name}. Choose one of them."
        )
    return PREPROCESSINGS[name]


def preprocess(images: np.ndarray, name: str) -> np.ndarray:
    """Preprocess a batch of images.

    Args:
        images: uint8 (..., H, W, C).
        name: One of `PREPROCESSINGS`.

    Returns:
        float32 of the same shape.

    Raises:
        UsageError: There is no such preprocessing, or it is for another number of channels.
    """
    width, channels = images.shape[-2:]
    scale, offset = rows(name, width, channels)
    if affine(name).reverse:
        images = images[..., ::-1]
    # A row of pixels at a time: NumPy is slow on inner axes as short as the channels.
    values = images.reshape(-1, width * channels).astype(np.float32)
    values *= scale
    values += offset
    return values.reshape(images.shape)


def rows(name: str, width: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors and offsets of a row of pixels by a preprocessing: float32 (width * channels,) each.

    Raises:
        UsageError: There is no such preprocessing, or it is for another number of channels.
    """
    rule = affine(name)
    needed = max(len(rule.scale), len(rule.offset))
    if needed not in (1, channels):
        raise UsageError(
            f"The preprocessing {name} is for {needed} channels. Received: images with {channels}. "
            "Choose none, unit or tf."
        )
    scale, offset = (
        np.tile(np.broadcast_to(np.array(values, np.float32), channels), width)
        for values in (rule.scale, rule.offset)
    )
    return scale, offset


def value_range(name: str) -> tuple[float, float]:
    """Smallest and largest value that a preprocessing can give, over all channels.

    Raises:
        UsageError: There is no such preprocessing.
    """
    rule = affine(name)
    ends = [np.multiply(pixel, rule.scale) + np.array(rule.offset) for pixel in (0, 255)]
    return float(np.min(ends[0])), float(np.max(ends[1]))
