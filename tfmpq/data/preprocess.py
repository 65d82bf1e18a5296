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


_GIVEN = "given:"
_USUAL = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))


def given(seen: tuple[float, float], *, pixels: bool = False) -> str:
    """Name of the preprocessing that leaves values as they are, for values of a range.

    Args:
        seen: Smallest and largest value of the data. If they fill at least half of a usual range (0..1,
            -1..1, 0..255), that one is taken, so that other images of the same kind fit as well.
        pixels: Whether the network itself begins by scaling pixels of 0 to 255.

    Returns:
        `given:LOW:HIGH`, for example `given:-1.0:1.0`; `none` for 0 to 255. The range holds zero, which
        stands for padding.
    """
    low, high = min(seen[0], 0.0), max(seen[1], 0.0)
    for least, most in _USUAL:
        if least <= low and high <= most and 2 * (high - low) >= most - least:
            low, high = least, most
            break
    if pixels and low == 0.0 and 1.0 < high <= 255.0:
        high = 255.0
    if low == high:
        high = low + 1.0
    return "none" if (low, high) == (0.0, 255.0) else f"{_GIVEN}{low!r}:{high!r}"


def is_given(name: str) -> bool:
    """Whether a preprocessing leaves values as they are, which are no pixels of 0 to 255."""
    return name.startswith(_GIVEN)


def affine(name: str) -> Affine:
    """The preprocessing of that name.

    Raises:
        UsageError: There is none.
    """
    if is_given(name):
        return PREPROCESSINGS["none"]
    if name not in PREPROCESSINGS:
        raise UsageError(
            f"A preprocessing is one of {', '.join(PREPROCESSINGS)}. Received: {name}. Choose one of them."
        )
    return PREPROCESSINGS[name]


def preprocess(images: np.ndarray, name: str) -> np.ndarray:
    """Preprocess a batch of images.

    Args:
        images: uint8 (..., H, W, C), or float32 for values that stay as they are.
        name: One of `PREPROCESSINGS`, or what `given` says.

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


def pixels_of(values: np.ndarray, name: str) -> np.ndarray:
    """The pixels that a preprocessing made values of, the inverse of `preprocess`.

    Args:
        values: float32 (..., H, W, C), preprocessed.
        name: One of `PREPROCESSINGS`.

    Returns:
        uint8 of the same shape; values that no pixel becomes are rounded to the nearest one.

    Raises:
        UsageError: There is no such preprocessing.
    """
    rule = affine(name)
    pixels = (values - np.array(rule.offset, np.float32)) / np.array(rule.scale, np.float32)
    if rule.reverse:
        pixels = pixels[..., ::-1]
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def pixel_step(name: str) -> float | None:
    """Distance between neighbouring pixels as inputs, of a preprocessing under which 0 is no pixel.

    That is so where all channels are scaled alike and 0 lies in the middle between two pixels, as under `tf`.
    An 8-bit grid of that step holds every pixel as it is once it is moved by half a step; any other grid
    rounds pixels. None for all other preprocessings.
    """
    rule = PREPROCESSINGS.get(name)
    if rule is None or len(rule.scale) > 1 or len(rule.offset) > 1:
        return None
    (scale,), (offset,) = rule.scale, rule.offset
    return scale if (offset / scale) % 1 == 0.5 else None


def value_range(name: str) -> tuple[float, float]:
    """Smallest and largest value that a preprocessing can give, over all channels.

    Raises:
        UsageError: There is no such preprocessing.
    """
    if is_given(name):
        low, high = map(float, name.removeprefix(_GIVEN).split(":"))
        return low, high
    rule = affine(name)
    ends = [np.multiply(pixel, rule.scale) + np.array(rule.offset) for pixel in (0, 255)]
    return float(np.min(ends[0])), float(np.max(ends[1]))
