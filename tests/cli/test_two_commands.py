"""A search and an export, typed with little else, end with a proved file and its score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tfmpq.cli.main import main


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TFMPQ_DATA_DIR", raising=False)

    def run(line: str) -> Result:
        return CliRunner().invoke(main, line.split(), prog_name="tfmpq")

    return run


def test_two_commands_in_an_empty_folder_end_with_a_proved_file(typed) -> None:
    """Few steps of float training, which is the default, of the search, and no fine-tuning."""
    searched = typed(
        "search --model resnet8 --proxy digits --epochs 1 --steps-per-epoch 5 --batch-size 32 --json"
    )
    assert searched.exit_code == 0, searched.stderr
    assert "first it is trained in float on the proxy, for 1 epochs, 5 steps" in searched.stderr
    assert (
        json.loads(Path("runs/resnet8_digits/search.json").read_text(encoding="utf-8"))["float_epochs"] == 1
    )
    exported = typed("export --tflite --json")
    assert exported.exit_code == 0, exported.stderr
    assert "Taking runs/resnet8_digits, a finished run, the newest in runs/" in exported.stderr
    assert "runs/resnet8_digits is not fine-tuned: its network is exported as the policy" in exported.stderr
    assert "% on 360 test images" in exported.stderr
    report = json.loads(exported.stdout)
    assert report["verification"]["passed"]
    assert Path("runs/resnet8_digits/resnet8.litert.tflite").is_file()
    verified = typed("verify --limit 20 --json")
    assert verified.exit_code == 0, verified.stderr
    assert json.loads(verified.stdout)["against"] == "runs/resnet8_digits"


@pytest.mark.parametrize(
    "line", ["export --tflite", "finetune --target digits", "measure", "report", "verify"]
)
def test_without_a_run_in_the_folder_there_is_one_line(typed, line: str) -> None:
    result = typed(line)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "Received: nothing. Name one." in result.stderr


def test_a_model_to_calibrate_has_to_be_named(typed) -> None:
    result = typed("export --tflite --calibrate random --weight-bits 8")
    assert result.exit_code == 2
    assert "--calibrate and no model" in result.stderr
