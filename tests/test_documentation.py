"""The code of docs/python.md runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def test_the_code_of_the_python_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    assert len(blocks) == 4
    assert names["report"].verification.passed
    history = names["history"].history
    assert history["expected_size"][-1] < 1
    assert all(value > 0 for value in history["rho"])
    assert set(names["bit_scores"](names["quantized"], "weight")) == {"conv", "logits"}


def _run_page(name: str) -> dict[str, Any]:
    """Run the Python of a page in the folder that one is in; returns the names that it leaves."""
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.with_name(name).read_text(), re.DOTALL):
        exec(compile(block, name, "exec"), names)
    return names


def test_the_code_of_the_page_on_apps_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = _run_page("apps.md")
    assert names["facts"]["contract"]["labels"] == ("rose", "tulip", "daisy")
    assert names["facts"]["contract"]["holds"] == "pixels"
    assert names["facts"]["mediapipe"]
    assert names["result"].export.verification.passed


def test_the_code_of_the_page_on_microcontrollers_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = _run_page("microcontrollers.md")
    assert names["measured"].unpacking_bytes == 0
    assert (tmp_path / "source_ram" / "net_ram_model.h").is_file()
