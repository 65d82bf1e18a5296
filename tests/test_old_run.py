"""A run folder of an earlier version: today's code shows, resumes, exports and verifies it.

`old_run/README.md` says how it was made.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from tfmpq.cli.main import main
from tfmpq.quantizers.choices import quantize_wrappers
from tfmpq.training.run_folder import load_keras

OLD = Path(__file__).with_name("old_run")
SEARCH = (
    "search --model user_networks:tiny --proxy digits --float-epochs 2 --epochs 2 --steps-per-epoch 6 "
    "--batch-size 32 --budget weight-bits=5 --out run --json"
)
FINETUNE = "finetune run --target digits --epochs 3 --steps-per-epoch 6 --batch-size 32 --out run --json"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the old run folder in the working folder, beside the module of its network."""
    shutil.copytree(OLD / "run", tmp_path / "run")
    shutil.copy(Path(__file__).with_name("user_networks.py"), tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.delenv("TFMPQ_DATA_DIR", raising=False)
    return tmp_path / "run"


def command(line: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, line.split(), prog_name="tfmpq")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("line", "stage"), [(SEARCH, "search"), (FINETUNE, "finetune")], ids=["search", "finetune"]
)
def test_the_same_command_shows_a_finished_stage_and_changes_nothing(
    run: Path, line: str, stage: str
) -> None:
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    shown = command(line)
    stored = json.loads((run / f"{stage}.result.json").read_text())
    assert {key: shown[key] for key in stored} == stored
    after = {file.name: file.read_bytes() for file in run.iterdir() if file.name != ".lock"}
    assert after == before


@pytest.mark.parametrize("option", ["--epochs 4", "--batch-size 16", "--seed 1"])
def test_other_options_are_refused_as_they_were(run: Path, option: str) -> None:
    name = option.split()[0]
    kept = FINETUNE.split(name)[0].split() + option.split()
    rest = FINETUNE.split(name)[1].split()[1:] if name in FINETUNE else []
    result = CliRunner().invoke(main, [*kept, *rest], prog_name="tfmpq")
    assert result.exit_code == 2
    assert name.removeprefix("--").replace("-", "_") in result.stderr


def test_an_interrupted_fine_tuning_goes_on_to_the_numbers_of_the_version_that_began_it(run: Path) -> None:
    wanted = dict(np.load(run / "finetune.npz"))
    lines = (run / "finetune.csv").read_text().splitlines(keepends=True)
    for name in ("finetune.result.json", "finetune.keras"):
        (run / name).unlink()
    shutil.copy(OLD / "finetune.step12.npz", run / "finetune.npz")
    (run / "finetune.csv").write_text("".join(lines[:13]))
    assert command(FINETUNE)["steps"] == 18
    found = dict(np.load(run / "finetune.npz"))
    assert list(found) == list(wanted)
    assert (found.pop("position step"), wanted.pop("position step")) == (18, 18)
    network = [bytes(arrays.pop("network")) for arrays in (found, wanted)]
    names = [[layer["config"]["name"] for layer in json.loads(content)] for content in network]
    assert names[0] == names[1]
    for name, array in wanted.items():
        # Bit for bit on the kind of processor that made it; others sum in another order.
        np.testing.assert_allclose(found[name], array, rtol=2e-3, atol=1e-4, err_msg=name)
    losses = [[float(line.split(",")[2]) for line in part[1:]] for part in (_log(run), lines)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


def _log(run: Path) -> list[str]:
    return (run / "finetune.csv").read_text().splitlines()


@pytest.mark.parametrize("target", ["litert", "storage"])
def test_it_is_exported_and_verified(run: Path, target: str) -> None:
    exported = command(f"export run --tflite --target {target} --out old.tflite --json")
    assert exported["verification"]["passed"]
    bits = {layer["name"]: layer["weight_bits"] for layer in exported["layers"]}
    assert bits == {"stem": 8, "down": 4, "pointwise": 4, "logits": 4}
    assert command("verify old.tflite --against run --json")["passed"]


@pytest.mark.parametrize("name", ["search.float.keras", "search.keras", "finetune.keras"])
def test_its_models_load_and_answer(run: Path, name: str) -> None:
    model = load_keras(run / name)
    assert bool(quantize_wrappers(model)) is (name != "search.float.keras")
    images = np.random.default_rng(0).uniform(0, 1, (2, *model.input_shape[1:])).astype("float32")
    answer = np.asarray(model(images))
    assert answer.shape == (2, 10)
    assert np.isfinite(answer).all()
