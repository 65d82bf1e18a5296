"""Pixels that tell nothing are said before anything is calibrated with them."""

from __future__ import annotations

import numpy as np
import pytest

from tfmpq.data import Split
from tfmpq.errors import UsageError
from tfmpq.tasks.image_checks import image_warnings

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3)).astype(np.uint8)


def warnings(pixels: np.ndarray) -> list[str]:
    return image_warnings(Split(np.zeros(len(pixels), np.int64), pixels), "mine")


def test_usual_images_are_said_nothing_of() -> None:
    assert warnings(PIXELS) == []
    one_blank = PIXELS.copy()
    one_blank[3] = 255
    assert warnings(one_blank) == []


def test_images_that_were_scaled_and_cast_are_said() -> None:
    (found,) = warnings(np.round(PIXELS / 255).astype(np.uint8))
    assert "0 and 1 only" in found


def test_many_blank_images_are_said_and_nothing_but_blank_ones_refused() -> None:
    blank = PIXELS.copy()
    blank[:10] = 7
    (found,) = warnings(blank)
    assert found.startswith("10 of 40 calibration images of mine are of one value only")
    with pytest.raises(UsageError, match=r"whose 40 calibration images are each of one value only \(7\)"):
        warnings(np.full_like(PIXELS, 7))
