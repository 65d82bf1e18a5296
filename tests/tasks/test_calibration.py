"""Images that layers are fitted to: pixels that become inputs where they are taken, and views of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tfmpq.data import Split
from tfmpq.errors import UsageError
from tfmpq.tasks.calibration import Calibration
from tfmpq.tasks.task import Task

PIXELS = np.random.default_rng(0).integers(1, 256, (40, 16, 16, 3), np.uint8)


def task(name: str = "photographs", seen: Any = None, pixels: np.ndarray = PIXELS) -> Task:
    split = Split(np.arange(len(pixels)), pixels)
    dataset: Any = SimpleNamespace(train=split, name=name, seen=seen, numeric=False)
    network: Any = SimpleNamespace(input_shape=pixels.shape[1:])
    return Task(dataset, SimpleNamespace(), network, "unit", True)  # type: ignore[arg-type]


def test_they_begin_with_the_calibration_images() -> None:
    images = task().reconstruction_images(Calibration(30))
    np.testing.assert_array_equal(images[:10], task().calibration_images(10))
    assert images.pixels.dtype == np.uint8  # a quarter of the memory of what the network takes
    assert images[4:9].dtype == np.float32
    assert len(images) == 30
    assert len(task().reconstruction_images(Calibration(1000))) == len(PIXELS)


def test_views_follow_the_images_and_are_shifted_and_mirrored_copies() -> None:
    images = task().reconstruction_images(Calibration(20, 3))
    assert len(images) == 60
    np.testing.assert_array_equal(images.pixels[:20], task().reconstruction_images(Calibration(20)).pixels)
    assert not np.array_equal(images.pixels[20:40], images.pixels[40:])
    for view in (images.pixels[20:40], images.pixels[40:]):
        for image, original in zip(view, images.pixels[:20], strict=True):
            colours = {tuple(pixel) for pixel in original.reshape(-1, 3)} | {(0, 0, 0)}
            assert {tuple(pixel) for pixel in image.reshape(-1, 3)} <= colours
    again = task().reconstruction_images(Calibration(20, 3))
    np.testing.assert_array_equal(again.pixels, images.pixels)


def test_arrays_of_a_user_have_no_views() -> None:
    given = task(seen=(0.0, 1.0))
    assert len(given.reconstruction_images(Calibration(20))) == 20
    with pytest.raises(UsageError, match="--views 2"):
        given.reconstruction_images(Calibration(20, 2))
