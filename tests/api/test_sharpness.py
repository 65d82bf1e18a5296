"""The sharpness of a finished run, from its folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
from keras import layers

from tfmpq.api.sharpness import sharpness
from tfmpq.data import load_dataset
from tfmpq.errors import UsageError
from tfmpq.files import write_json
from tfmpq.training.run_folder import Stage


def digit_network() -> keras.Model:
    image = keras.Input(load_dataset("digits").train.array.shape[1:], name="image")
    x = layers.Conv2D(4, 3, strides=2, activation="relu", name="conv")(image)
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return keras.Model(image, layers.Dense(10, name="logits")(x))


@pytest.fixture(scope="module")
def run(searchable: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as fine-tuning on digits leaves it."""
    folder = tmp_path_factory.mktemp("run")
    stage = Stage(folder, "finetune")
    stage.save_model(searchable((4,), (8,), build=digit_network).quantized)
    data = load_dataset("digits").fingerprint
    write_json(stage.path(".json"), {"target": "digits", "data": data, "preprocessing": "unit"})
    write_json(stage.path(".result.json"), {})
    return folder


def test_a_run_is_measured(run: Path) -> None:
    found = sharpness(run, radii=(0.01, 0.1), limit=40)
    assert (found.stage, found.data, found.count) == ("finetune", "digits", 40)
    assert found.parameters == 108 + 4 + 40 + 10
    assert [row["radius"] for row in found.gaps] == [0.01, 0.1]
    for row in found.gaps:
        assert row["curvature"] == pytest.approx(2 * row["gap"] / row["radius"] ** 2)
        assert row["gap"] > 0
    assert found.top_eigenvalue > 0
    assert sharpness(run, radii=(0.01, 0.1), limit=40) == found
    assert set(found.to_json()) == set(found.__slots__)


def test_other_data_and_unfinished_runs_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="finished search or fine-tuning"):
        sharpness(tmp_path)
    with pytest.raises(UsageError, match="Radii are positive"):
        sharpness(run, radii=(0.01, 0.0))
    options = {"target": "digits", "data": "other", "preprocessing": "unit"}
    write_json(run / "finetune.json", options)
    with pytest.raises(UsageError, match="which is not what"):
        sharpness(run)
