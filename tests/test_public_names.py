"""What `import tfmpq` offers: names, signatures, a package that is a verb, results that show themselves."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

import tfmpq
from tfmpq.bars import reporting
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.progress import SilentReporter
from tfmpq.reports.drawings import policy_drawing, size_drawing
from tfmpq.results import Result

VERBS = sorted(name for name in tfmpq.__all__ if name.islower() and not name.endswith("_policy"))
MOST_ARGUMENTS = 8


def test_the_names_are_the_public_ones_and_nothing_else() -> None:
    assert set(dir(tfmpq)) == {*tfmpq.__all__, "__doc__", "__version__"}
    assert set(tfmpq._HOME) == set(tfmpq.__all__)
    assert all(getattr(tfmpq, name) is not None for name in tfmpq.__all__)
    assert tfmpq.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        tfmpq.serch  # noqa: B018


def test_all_verbs_of_the_command_line_are_functions() -> None:
    from tfmpq.cli.main import VERBS as COMMANDS

    assert set(VERBS) == {*COMMANDS, "quantize"}


def test_the_reference_lists_every_public_name() -> None:
    text = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
    listed = [line.removeprefix("::: tfmpq.") for line in text.splitlines() if line.startswith("::: ")]
    assert sorted(listed) == sorted(tfmpq.__all__)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_few_arguments_and_says_what_each_is(verb: str) -> None:
    function = inspect.unwrap(getattr(tfmpq, verb))
    parameters = inspect.signature(function).parameters
    own = [p for p in parameters.values() if p.kind is not p.VAR_KEYWORD]
    assert len(own) <= MOST_ARGUMENTS
    told = inspect.getdoc(function) or ""
    assert all(f"{name}: " in told for name in parameters)
    assert "reporter" not in parameters


@pytest.mark.parametrize("first", ["tfmpq.deploy.export", "tfmpq.api.export", "tfmpq"])
def test_the_deploy_package_is_the_verb_whatever_is_imported_first(first: str) -> None:
    script = (
        f"import inspect, tfmpq, {first}\n"
        "verb = tfmpq.deploy\n"
        "assert callable(verb), verb\n"
        "assert list(inspect.signature(verb).parameters)[:2] == ['source', 'data']\n"
        "import tfmpq.deploy.latency.measure as module\n"
        "assert tfmpq.deploy.latency.measure is module and tfmpq.deploy is verb\n"
        "try: tfmpq.deploy('absent.tflite', 'digits')\n"
        "except tfmpq.TfmpqError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "absent.tflite" in done.stdout


def test_the_deploy_package_is_a_module_all_the_same() -> None:
    assert isinstance(tfmpq.deploy, ModuleType)


def test_import_brings_nothing_heavy() -> None:
    script = (
        "import sys, tfmpq; dir(tfmpq); tfmpq.__version__\n"
        "print('numpy' in sys.modules, 'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_usage_error_is_a_value_error() -> None:
    assert issubclass(UsageError, ValueError)
    assert issubclass(UsageError, TfmpqError)
    assert not issubclass(TfmpqError, ValueError)


@dataclass(frozen=True, slots=True)
class Scores(Result, verb="evaluate"):
    top1: float
    rows: tuple[dict[str, object], ...]


SCORES = Scores(0.5, ({"name": "a <b>", "bytes": 1200}, {"name": "[c]", "bytes": 34}))


def test_a_result_shows_the_table_of_the_command() -> None:
    told = repr(SCORES)
    assert told.startswith("Scores\n")
    assert "50.00 %" in told
    assert "1.2 kB" in told
    assert "[c]" in told


def test_a_notebook_shows_the_same_as_html_without_running_what_names_say() -> None:
    page = SCORES._repr_html_()
    assert page.count("<table>") == page.count("</table>") == 2
    for part in ("50.00 %", "1.2 kB", "a &lt;b&gt;", "[c]"):
        assert part in page


def test_what_a_result_holds_is_no_part_of_it() -> None:
    held = Scores(0.5, SCORES.rows).keeping("folder").keeping("data")
    assert held.kept == ("folder", "data")
    assert held == SCORES
    assert held.to_json() == SCORES.to_json()
    assert SCORES.kept == ()


def test_drawings_show_themselves_and_are_written(tmp_path: Path) -> None:
    drawing = policy_drawing({"conv": 8, "logits": 4})
    assert drawing._repr_svg_().startswith("<svg")
    drawing.save(tmp_path / "bits.svg")
    assert (tmp_path / "bits.svg").read_text() == drawing.svg
    with pytest.raises(UsageError, match=r"\.svg file"):
        drawing.save(tmp_path / "bits.png")
    assert "mixed" in size_drawing([("float32", 4000, 0.9), ("mixed", 700, 0.88)]).svg


def test_progress_shows_where_somebody_looks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = SilentReporter()
    with reporting(own) as reporter:
        assert reporter is own
    for progress, shown in ((None, False), (False, False), (True, True)):
        with reporting(progress) as reporter:
            reporter.log("said")
        assert ("said" in capsys.readouterr().err) == shown
    notebook = ModuleType("IPython")
    notebook.get_ipython = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    with reporting(None) as reporter:
        reporter.log("said")
    assert "said" in capsys.readouterr().err
