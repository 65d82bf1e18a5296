"""Single images: decoding from a file, and bringing them to the size of a network."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tfmpq.errors import TfmpqError, UsageError

SMALL = 96
"""Targets whose shorter side is below this many pixels are reached by plain resizing, without a crop."""

_CROP = 224 / 256
"""Share of the shorter side that the central crop keeps; the evaluation protocol of ImageNet."""


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """Where the bytes of a compressed image are.

    Attributes:
        path: File that holds them.
        offset: First byte.
        length: Number of bytes; None for all up to the end.
    """

    path: Path
    offset: int = 0
    length: int | None = None

    def read(self) -> bytes:
        """The compressed bytes."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(-1 if self.length is None else self.length)

    def decode(self) -> np.ndarray:
        """The image, uint8 (H, W, 3), or (H, W, 1) if it is grey.

        Raises:
            TfmpqError: The bytes are no whole image.
        """
        try:
            return decode_image(self.read())
        except Exception as error:
            raise TfmpqError(
                f"Images must be whole PNG, JPEG or WebP files. Received: {self.path}, byte {self.offset} "
                f"({type(error).__name__}). Remove or replace that image."
            ) from error


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
    height, width = image.shape[:2]
    if (height, width) == tuple(size):
        return image
    if min(size) < SMALL:
        return resample(image, size)
    scale = max(round(target / _CROP) / side for target, side in zip(size, (height, width), strict=True))
    scaled = resample(image, (round(height * scale), round(width * scale)))
    top, left = (scaled.shape[0] - size[0]) // 2, (scaled.shape[1] - size[1]) // 2
    return scaled[top : top + size[0], left : left + size[1]]


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
