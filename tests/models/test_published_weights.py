"""Published weights and images, where they lie beside the repository or in the data folder."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
import pytest

from tfmpq.data import ImageBatches, Split, load_dataset
from tfmpq.models import load_model

FOLDER = Path(os.environ.get("TFMPQ_DATA_DIR") or Path(__file__).parents[3] / "shared" / "data")


@functools.cache
def images(data: str) -> Split:
    return load_dataset(data, data_dir=FOLDER).test


def top1(name: str, weights: str, data: str, shape: tuple[int, int, int], classes: int, count: int) -> float:
    if not (FOLDER / weights).is_file():
        pytest.skip(f"{weights} is not in {FOLDER}")
    loaded = load_model(name, input_shape=shape, classes=classes, weights=FOLDER / weights)
    test = images(data).take(np.arange(count))
    batches = ImageBatches(
        test, 50, image_shape=shape, preprocessing=loaded.preprocessing, shuffle=False, drop_remainder=False
    )
    hits = [np.argmax(loaded.model.predict_on_batch(x), 1) == y for x, y in batches]
    return float(np.mean(np.concatenate(hits)))


@pytest.mark.parametrize(
    ("name", "weights", "floor"),
    [
        ("resnet20", "cifar10_resnet20_weights.npz", 0.90),
        ("resnet8", "cifar10_resnet8_mlperftiny.h5", 0.84),
    ],
)
def test_cifar10_weights_reach_their_accuracy(name: str, weights: str, floor: float) -> None:
    assert top1(name, weights, "cifar10", (32, 32, 3), 10, 500) > floor


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "weights", "floor"),
    [
        ("mobilenet_v2", "imagenet_mobilenetv2_weights.npz", 0.69),
        ("resnet18", "imagenet_resnet18_weights.npz", 0.66),
        ("resnet50", "imagenet_resnet50_weights.npz", 0.69),
    ],
)
def test_imagenet_weights_reach_their_accuracy(name: str, weights: str, floor: float) -> None:
    assert top1(name, weights, "imagenette", (224, 224, 3), 1000, 500) > floor
