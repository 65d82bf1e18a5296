"""Single images: decoding, and bringing them to the size of a network."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from tfmpq.errors import UsageError

SMALL = 96
"""Targets whose shorter side is below this many pixels are reached by plain resizing, without a crop."""

_CROP = 224 / 256
"""Share of the shorter side that the central crop keeps; the evaluation protocol of ImageNet."""


def decode_image(content: bytes) -> np.ndarray:
    """Decode a compressed image to uint8 (H, W, 3), or (H, W, 1) if it is grey.

    Raises:
        Exception: Whatever Pillow raises for bytes that are no image.
    """
    with Image.open(io.BytesIO(content)) as image:
        if image.mode.startswith("I;16") or image.mode == "I":
            # 16 bits of grey; Pillow would cut the lower values out instead of scaling.
            deep = np.asarray(image).astype(np.float64)
            return np.clip(np.round(deep / 257.0), 0, 255).astype(np.uint8)[:, :, None]
        if image.mode in ("1", "L", "LA"):
            return np.asarray(image.convert("L"))[:, :, None]
        return np.asarray(image.convert("RGB"))


def resize_for(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring an image to the input size of a network, as evaluations on ImageNet do.

    The image is scaled (bilinear, antialiased) so that `size` is its central 224/256, and cropped to that.
    An image that has the size already stays; targets below 96 pixels are reached by plain resizing.

    Args:
        image: uint8 (H, W, C).
        size: (height, width).

    Returns:
        uint8 (height, width, C).
    """
    if image.shape[:2] == tuple(size):
        return image
    scaled_size, corner = fitted((float(image.shape[0]), float(image.shape[1])), size)
    top, left = (int(place) for place in corner)
    scaled = resample(image, (int(scaled_size[0]), int(scaled_size[1])))
    return scaled[top : top + size[0], left : left + size[1]]


def fitted(shape: tuple[Any, Any], size: tuple[int, int], functions: Any = np) -> tuple[Any, Any]:
    """To what size an image is scaled for a network, and where the network's part of it begins.

    Args:
        shape: (height, width) of the image, as floats or float64 tensors.
        size: (height, width) that the network takes.
        functions: Has `maximum` and `round` for what `shape` is: NumPy or `tf.math`.

    Returns:
        (height, width) of the scaled image, and (first row, first column); whole numbers.
    """
    if min(size) < SMALL:
        return size, (0, 0)
    needed = [round(target / _CROP) / side for target, side in zip(size, shape, strict=True)]
    scale = functions.maximum(*needed)
    height, width = (functions.round(side * scale) for side in shape)
    return (height, width), ((height - size[0]) // 2, (width - size[1]) // 2)


def resample(
    image: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """Resize by bilinear interpolation with antialiasing.

    Args:
        image: uint8 (H, W, 1) or (H, W, 3).
        size: (height, width).
        box: Part of the image to take, (left, top, right, bottom) in pixels.

    Returns:
        uint8 (height, width, C).

    Raises:
        UsageError: It is no picture but a sequence of other channels.
    """
    if image.shape[2] not in (1, 3):
        raise UsageError(
            f"Sequences have the length that the model takes. Received: {image.shape[1]} steps for "
            f"{size[1]}. Cut or pad the data."
        )
    source = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    target = source.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box)
    return np.asarray(target).reshape(*size, image.shape[2])


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Repeat grey images, uint8 (..., 1), on so many channels; those that have them already stay.

    Raises:
        UsageError: The images are not grey and have another number of channels.
    """
    if image.shape[-1] == channels:
        return image
    if image.shape[-1] != 1:
        raise UsageError(
            "Only grey images can be given another number of channels. Received: images with "
            f"{image.shape[-1]} channels for a model with {channels}. Choose other data or another model."
        )
    return np.repeat(image, channels, axis=-1)
