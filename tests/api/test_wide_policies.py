"""A policy with 16-bit activations through fine-tuning, export from the run, proof and report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import pytest
from keras import layers

from tfmpq.policy.policy import load_policy, save_policy, uniform_policy

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

TUNE = "finetune {} --target digits --batch-size 64 --epochs 1 --out {} "


@pytest.fixture(scope="module")
def policy(workshop) -> Path:
    """The searched policy with 16-bit activations."""
    path = workshop.folder / "wide.yaml"
    searched = load_policy(workshop.folder / "run" / "policy.yaml")
    save_policy(searched.model_copy(update={"activations": 16}), path)
    return path


@pytest.fixture(scope="module")
def tuned(workshop, policy: Path) -> dict[str, Any]:
    """A run of it."""
    line = TUNE.format(policy.name, "wide_run") + "--weights run/search.float.keras --json"
    return workshop.json(f"{line} --model user_networks:small")


def test_a_fine_tuned_run_is_exported_and_proved(workshop, tuned: dict[str, Any]) -> None:
    narrow = workshop.results["finetune"]
    assert tuned["reconstructed"]
    assert tuned["size"] == narrow["size"]
    assert tuned["bops"] > narrow["bops"]
    result = workshop.invoke("export wide_run --tflite --out wide.tflite --json")
    assert result.exit_code == 0, result.stderr
    assert "16-bit activations run in LiteRT's own kernels" in result.stderr
    found = workshop.json("verify wide.tflite --against wide_run --json")
    assert found["passed"]
    assert found["target"] == "litert"
    measured = workshop.json("evaluate wide.tflite --data digits --json")
    assert measured["top1"] == pytest.approx(tuned["top1"], abs=0.01)
    assert measured["top1"] > 0.8


def test_it_is_deployed_in_the_one_form_that_it_has(
    workshop, tuned: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A processor for which 8-bit networks are written otherwise.
    monkeypatch.setattr("tfmpq.api.deploy.target_for", lambda *_: "litert-int8")
    found = workshop.json("deploy wide_run --data digits --out delivered.tflite --json")
    assert (found["form"], found["agreement"]["max_lsb"]) == ("litert", 0)


def test_a_policy_that_was_changed_after_fine_tuning_is_refused(workshop, tuned: dict[str, Any]) -> None:
    """The file would say of itself what it is not."""
    path = workshop.folder / "wide_run" / "policy.yaml"
    before = path.read_text()
    save_policy(load_policy(path).model_copy(update={"activations": {}}), path)
    for line in ("export wide_run --tflite --out x.tflite", "deploy wide_run --data digits --out x.tflite"):
        result = workshop.invoke(line)
        assert result.exit_code == 2
        assert "whose bit-widths were changed afterwards" in result.stderr
    path.write_text(f"# a note of the user's\n{before}")
    assert workshop.invoke("export wide_run --tflite --out x.tflite").exit_code == 0


def test_other_targets_are_refused(workshop, tuned: dict[str, Any]) -> None:
    before = workshop.contents()
    result = workshop.invoke("export wide_run --tflite --target storage")
    assert result.exit_code == 2
    assert "16-bit activations are written for --target litert. Received: storage" in result.stderr
    assert workshop.contents() == before


def test_a_report_says_the_widths(workshop, tuned: dict[str, Any]) -> None:
    workshop.json("report wide_run --out wide.html --json")
    assert "all but the image of 16 bits" in (workshop.folder / "wide.html").read_text()


@pytest.mark.slow
def test_the_whole_job_takes_a_searched_policy_that_was_edited(workshop) -> None:
    """It has no storage form, which the others of the table have."""
    asked = "--model user_networks:small --proxy digits --epochs 1 --float-epochs 1 --batch-size 64 "
    line = f"{asked} --method uniform --out wide_job --json"
    workshop.json(f"search {line}")
    path = workshop.folder / "wide_job" / "policy.yaml"
    save_policy(load_policy(path).model_copy(update={"activations": 16}), path)
    rows = {row["model"]: row for row in workshop.json(f"run --target digits {line}")["table"]}
    assert rows["mixed"]["storage_bytes"] is None
    assert rows["int8"]["storage_bytes"] > 0
    assert not (workshop.folder / "wide_job" / "mixed.storage.tflite").exists()


def test_searched_weights_have_no_steps_for_them(workshop, policy: Path) -> None:
    searched = workshop.folder / "run" / "policy.yaml"
    kept = searched.read_bytes()
    try:
        searched.write_bytes(policy.read_bytes())
        before = workshop.contents()
        result = workshop.invoke(TUNE.format("run", "refused") + "--no-reconstruct")
        assert workshop.contents() == before
    finally:
        searched.write_bytes(kept)
    assert result.exit_code == 2
    assert "no steps for 16-bit activations" in result.stderr


def test_sigmoids_are_refused_before_any_work(workshop) -> None:
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, activation="sigmoid", name="gate")(image)
    x = layers.Dense(10, name="logits")(layers.Flatten()(x))
    keras.Model(image, x, name="gated").save(workshop.folder / "gated.keras")
    gated = uniform_policy("gated.keras", ["gate", "logits"], 8, 16)
    save_policy(gated, workshop.folder / "gated.yaml")
    before = workshop.contents()
    result = workshop.invoke(TUNE.format("gated.yaml", "refused"))
    assert workshop.contents() == before
    assert result.exit_code == 2
    assert "up to six steps off. Received: gate" in result.stderr
