"""Preprocessing, resizing and augmentation against plain formulas and TensorFlow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfmpq.data.augment import crop, drawn_boxes, drawn_crops, random_resized_crop
from tfmpq.data.images import resize_for
from tfmpq.data.preprocess import PREPROCESSINGS, preprocess, value_range
from tfmpq.errors import UsageError

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
FORMULAS = {
    "none": lambda x: x,
    "unit": lambda x: x / 255,
    "tf": lambda x: x / 127.5 - 1,
    "torch": lambda x: (x / 255 - MEAN) / STD,
    "caffe": lambda x: x[..., ::-1] - np.array([103.939, 116.779, 123.68]),
}
EVERY_PIXEL = np.repeat(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), 3, axis=3)


@given(hnp.arrays(np.uint8, st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(1, 5), st.just(3))))
def test_preprocessings_are_their_formulas(images: np.ndarray) -> None:
    for name, formula in FORMULAS.items():
        result = preprocess(images, name)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, formula(images.astype(np.float64)), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_value_ranges_are_tight(name: str) -> None:
    values = preprocess(EVERY_PIXEL, name)
    np.testing.assert_allclose(value_range(name), (values.min(), values.max()), rtol=1e-6, atol=1e-6)


def test_preprocessing_equals_that_of_keras() -> None:
    import keras

    images = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    for name, mode in (
        ("tf", keras.applications.mobilenet_v2),
        ("caffe", keras.applications.vgg16),
        ("torch", keras.applications.densenet),
    ):
        np.testing.assert_allclose(
            preprocess(images, name), mode.preprocess_input(images.astype(np.float32)), rtol=1e-5, atol=1e-5
        )


def test_preprocessing_refuses_unknown_names_and_other_channels() -> None:
    with pytest.raises(UsageError, match="one of none, unit, tf, torch, caffe"):
        preprocess(EVERY_PIXEL, "imagenet")
    with pytest.raises(UsageError, match="for 3 channels"):
        preprocess(EVERY_PIXEL[..., :1], "torch")
    assert preprocess(EVERY_PIXEL[..., :1], "unit").shape == (1, 16, 16, 1)


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (256, 256), (100, 150)])
def test_large_targets_are_scaled_and_cropped_as_on_imagenet(shape: tuple[int, int]) -> None:
    import tensorflow as tf

    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    scale = 256 / min(shape)
    scaled = tf.image.resize(
        image, (round(shape[0] * scale), round(shape[1] * scale)), antialias=True
    ).numpy()
    top, left = (scaled.shape[0] - 224) // 2, (scaled.shape[1] - 224) // 2
    result = resize_for(image, (224, 224))
    assert result.dtype == np.uint8
    assert np.abs(result - scaled[top : top + 224, left : left + 224]).max() < 1.5


def test_images_of_the_right_size_stay_and_small_ones_are_not_cropped() -> None:
    image = np.random.default_rng(2).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    assert resize_for(image, (224, 224)) is image
    ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], 64, axis=0)
    small = resize_for(ramp, (32, 16))
    assert small.shape == (32, 16, 1)
    assert small[0, 0, 0] < 16
    assert small[0, -1, 0] > 236


def shifted(images: np.ndarray, generator: np.random.Generator, flip: bool) -> np.ndarray:
    return crop(images, drawn_crops(generator, len(images), images.shape[1:3], flip=flip))


@given(st.integers(0, 2**32), st.booleans())
def test_crops_are_shifted_and_mirrored_copies(seed: int, flip: bool) -> None:
    images = np.random.default_rng(3).integers(1, 256, (4, 16, 8, 2), dtype=np.uint8)
    results = shifted(images, np.random.default_rng(seed), flip)
    for image, result in zip(images, results, strict=True):
        padded = np.pad(image, ((2, 2), (1, 1), (0, 0)))
        views = [padded[y : y + 16, x : x + 8] for y in range(5) for x in range(3)]
        assert any(
            np.array_equal(result, view) or (flip and np.array_equal(result, view[:, ::-1])) for view in views
        )


def test_every_shift_and_both_sides_occur() -> None:
    image = np.random.default_rng(4).integers(1, 256, (1, 16, 8, 1), dtype=np.uint8)
    results = shifted(np.repeat(image, 2000, 0), np.random.default_rng(0), True)
    _, counts = np.unique(results.reshape(2000, -1), axis=0, return_counts=True)
    assert len(counts) == 5 * 3 * 2
    assert counts.min() > 30


def test_random_resized_crops_stay_inside_the_image() -> None:
    y, x = np.meshgrid(np.arange(60), np.arange(90), indexing="ij")
    image = np.stack([y, x, np.full_like(x, 200)], axis=2).astype(np.uint8)
    mirrored, areas = 0, []
    for box in drawn_boxes(np.random.default_rng(5), 50):
        crop = random_resized_crop(image, (24, 32), box).astype(float)
        assert crop.shape == (24, 32, 3)
        assert (crop[..., 2] == 200).all()
        mirrored += crop[0, 0, 1] > crop[0, -1, 1]
        areas.append(np.ptp(crop[..., 0]) * np.ptp(crop[..., 1]) / (60 * 90))
    assert 10 < mirrored < 40
    assert min(areas) > 0.15
    assert max(areas) > 0.5
