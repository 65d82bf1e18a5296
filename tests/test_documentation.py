"""The code of docs/python.md runs as it stands there, and so does the notebook."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "python.md"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


def _run(blocks: list[str], name: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{name}, block {number}", "exec"), names)
    return names


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the blocks of the page leave behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        return _run(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL), PAGE.name)


def test_the_verbs_of_the_python_page_do_what_it_says(names: dict[str, Any]) -> None:
    assert names["small"].export.verification.passed
    assert names["report"].verification.passed
    assert names["smallest"].table[2].drop_at_most <= 0.03
    assert names["half"].front[0].size > names["half"].export.size
    assert names["tuned"].top1 > 0.8
    assert names["narrow"].bits == names["same"].bits
    assert names["found"].policy.weight_bits == names["found"].bits


def test_the_parts_of_the_python_page_do_what_it_says(names: dict[str, Any]) -> None:
    history = names["history"].history
    assert history["expected_size"][-1] < 1
    assert all(value > 0 for value in history["rho"])
    assert set(names["bit_scores"](names["quantized"], "weight")) == {"conv", "logits"}
    assert type(names["sharpened"].weight_quantizer) is names["Sharpened"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_runs_and_is_kept_without_outputs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = [
        cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"
    ]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)
    left = _run(["".join(cell["source"]) for cell in cells], path.name)
    assert left["report"].verification.passed
    for result in (left["small"], left["found"], left["tuned"], left["report"]):
        assert result._repr_html_().startswith("<table>")


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS


def _run_page(name: str) -> dict[str, Any]:
    """Run the Python of a page in the folder that one is in; returns the names that it leaves."""
    return _run(re.findall(r"```python\n(.*?)```", PAGE.with_name(name).read_text(), re.DOTALL), name)


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
