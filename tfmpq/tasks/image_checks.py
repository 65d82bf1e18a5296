"""Images that a network learns nothing true from: blank ones, and ones that lost their range."""

from __future__ import annotations

import numpy as np

from tfmpq.data import Split
from tfmpq.errors import UsageError

_MOST_BLANK = 0.05
"""Share of images of one colour that photographs and scans may have."""


def image_warnings(split: Split, name: str) -> list[str]:
    """What is wrong with the pixels of calibration images.

    Args:
        split: The images.
        name: What the data are called.

    Returns:
        Warnings, a line each.

    Raises:
        UsageError: Every image is of one value only.
    """
    images = split.images(range(len(split)))
    if not images or any(image.dtype.kind not in "iu" for image in images):
        return []
    blank = [float(image.min()) == float(image.max()) for image in images]
    values = {int(value) for image in images for value in np.unique(image)[:3]}
    largest = max(int(image.max()) for image in images)
    if all(blank):
        raise UsageError(
            "Ranges of activations are found on images that differ. Received: "
            f"{name}, whose {len(images)} calibration images are each of one value only "
            f"({', '.join(map(str, sorted(values)[:4]))}). Check how they were made."
        )
    found = []
    if largest <= 1:
        found.append(
            f"The pixels of {name} are {' and '.join(map(str, sorted(values)))} only, as of images that were "
            "divided by 255 and then cast to uint8. Give pixels of 0 to 255."
        )
    if np.mean(blank) > _MOST_BLANK:
        found.append(
            f"{sum(blank)} of {len(images)} calibration images of {name} are of one value only, and say "
            "nothing of what the network will see. Check how they were made."
        )
    return found
