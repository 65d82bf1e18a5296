"""Fine-tuning under sharpness-aware minimization, from Python: results, logs, resumption, refusals."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import tfmpq
from tfmpq.errors import UsageError
from tfmpq.progress import SilentReporter
from tfmpq.reports.folders import read_run
from tfmpq.reports.run_section import run_section

GENERATOR = np.random.default_rng(0)
IMAGES, LABELS = GENERATOR.uniform(0, 1, (40, 8, 8, 3)).astype("float32"), np.arange(40) % 4
SHORT = {"epochs": 2, "steps_per_epoch": 2, "batch_size": 8, "frozen_statistics_epochs": 0}


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, strides=2, use_bias=False, name="stem")(image)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
    x = layers.Conv2D(4, 1, activation="relu", name="pointwise")(x)
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return keras.Model(image, layers.Dense(4, name="logits")(x), name="net")


def steps(run: Path) -> list[dict[str, str]]:
    with (run / "finetune.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_saq_of_one_width_says_what_it_did(network: keras.Model, tmp_path: Path) -> None:
    tuned = tfmpq.finetune(
        network, "uniform:4/4", (IMAGES, LABELS), method="saq", rho=0.1, out=tmp_path, **SHORT
    )
    assert (tuned.method, tuned.saq_case, tuned.rho, tuned.second_gradient_every) == ("saq", 3, 0.1, 1)
    assert tuned.policy.weight_bits == {"stem": 8, "pointwise": 4, "logits": 8}
    assert tuned.policy.activations == {"relu": 4, "pointwise": 4}
    rows = steps(tmp_path)
    assert len(rows) == 4
    for row in rows:
        values = {name: float(row[name]) for name in ("loss", "perturbed_loss", "gap", "rho")}
        assert values["perturbed_loss"] - values["loss"] == pytest.approx(values["gap"], abs=1e-5)
        assert values["rho"] == pytest.approx(0.1)
        assert -1 <= float(row["gradient_cosine"]) <= 1
        assert float(row["gradient_norm"]) > 0
    page = "".join(run_section(read_run(tmp_path, "run"), 0, alone=True).itertext())
    assert "by saq (case 3, rho 0.1)" in page
    for panel in ("perturbed loss", "Surrogate gap h", "Gradient norm", "Cosine of both gradients"):
        assert panel in page, panel
    assert "--method saq" in page
    assert "--rho 0.1" in page


def test_plain_fine_tuning_names_itself_and_records_what_it_did_before(
    network: keras.Model, tmp_path: Path
) -> None:
    tuned = tfmpq.finetune(network, "uniform:4", (IMAGES, LABELS), out=tmp_path, **SHORT | {"epochs": 0})
    assert (tuned.method, tuned.saq_case, tuned.rho, tuned.second_gradient_every) == ("qat", None, None, None)
    recorded = json.loads((tmp_path / "finetune.json").read_text())
    assert not {"method", "rho", "saq_case", "optimizer", "weight_decay", "ends"} & set(recorded)


class Killed(SilentReporter):
    """Stops the training in a step."""

    def __init__(self, at: int) -> None:
        self._at = at

    def advance(self, steps: int = 1, metrics: Any = None) -> None:
        if metrics and "loss" in metrics:
            self._at -= 1
            if not self._at:
                raise KeyboardInterrupt


@pytest.mark.parametrize(
    "told",
    [{"method": "saq", "second_gradient_every": 3, "optimizer": "adamw", "saq_case": 1}, {"method": "sam"}],
    ids=["saq", "sam"],
)
def test_a_stopped_training_ends_bitwise_as_one_that_was_not(
    network: keras.Model, tmp_path: Path, told: dict[str, Any]
) -> None:
    def tune(folder: str, progress: Any = None) -> dict[str, np.ndarray]:
        tfmpq.finetune(
            network, "uniform:4/4", (IMAGES, LABELS), out=tmp_path / folder, progress=progress,
            reconstruct=False, **SHORT, **told,
        )  # fmt: skip
        return dict(np.load(tmp_path / folder / "finetune.npz"))

    whole = tune("whole")
    with pytest.raises(KeyboardInterrupt):
        tune("parts", Killed(at=3))
    assert not (tmp_path / "parts" / "finetune.result.json").exists()
    parts = tune("parts")
    assert list(parts) == list(whole)
    for name, value in whole.items():
        np.testing.assert_array_equal(parts[name], value, name)
    assert steps(tmp_path / "parts") == steps(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda: {"rho": 0.1}, "--rho with --method qat"),
        (lambda: {"adaptive": True, "norm": "layer"}, "--norm, --adaptive with --method qat"),
        (lambda: {"second_gradient_every": 5}, "--second-gradient-every with --method qat"),
        (lambda: {"method": "sam", "saq_case": 1}, "--saq-case 1 with --method sam"),
        (lambda: {"method": "saq", "saq_case": 2}, "Take --method sam, or case 1 or 3"),
        (lambda: {"method": "saq", "rho": 0.0}, "rho is a number above 0. Received: 0.0"),
        (lambda: {"method": "saq", "second_gradient_every": 0}, "from 1. Received: 0"),
        (lambda: {"weight_decay": -1.0}, "weight_decay is a number from 0"),
        (lambda: {"ends": 9}, "ends is a whole number from 2 to 8. Received: 9"),
        (lambda: {"ends": "4,8"}, "Received: '4,8'"),
    ],
)
def test_options_that_do_not_go_together_are_refused_first(
    network: keras.Model, tmp_path: Path, change: Callable[[], dict[str, Any]], told: str
) -> None:
    with pytest.raises(UsageError) as caught:
        tfmpq.finetune(network, "uniform:4", (IMAGES, LABELS), out=tmp_path / "new", **change())
    assert told in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_uniform_widths_need_a_network_and_a_policy_has_its_ends() -> None:
    with pytest.raises(UsageError, match=r"uniform:4 and no model\. Give --model"):
        tfmpq.finetune("uniform:4", (IMAGES, LABELS))
    with pytest.raises(UsageError, match="--ends 8 beside one"):
        tfmpq.finetune("policy.yaml", (IMAGES, LABELS), ends=8)
