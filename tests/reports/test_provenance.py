"""The commands in a report are those that make the same run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from tfmpq.api.report import report
from tfmpq.cli.finetune import finetune
from tfmpq.cli.run import run as run_command
from tfmpq.cli.search import search
from tfmpq.reports.folders import read_run
from tfmpq.reports.provenance import UNRECORDED, commands, digests


def options_of(verb: click.Command, line: str) -> dict[str, Any]:
    words = shlex.split(line.replace("\\\n", " "))
    assert words[:2] == ["tfmpq", verb.name]
    return verb.make_context(verb.name, words[2:]).params


def test_a_search(make_run: Callable[..., Path], samples) -> None:
    folder = make_run(search=samples.search_result())
    run = read_run(folder, "a")
    (line,) = commands(run)
    parsed = options_of(search, line)
    recorded = samples.search_options()
    for name in ("model", "proxy", "method", "epochs", "batch_size", "seed", "float_epochs", "learning_rate",
                 "preprocessing", "target_input", "target_classes", "perturb", "rho_max"):  # fmt: skip
        assert parsed[name] == recorded[name]
    assert parsed["budgets"] == ("size=0.5x", "bops=0.7x")
    assert parsed["weight_bits"] == (2, 4, 8)
    assert parsed["activation_bits"] == (4, 8)
    assert parsed["weights"] == "FILE"
    assert parsed["out"] == folder
    assert parsed["select"] == "knapsack"
    assert digests(run) == [("FILE", "ab12" * 16)]


def test_a_front_with_a_latency_table(make_run: Callable[..., Path], samples) -> None:
    folder = make_run(search=samples.search_result(latency={"int8": 2.0, "policy": 1.5}))
    recorded = samples.search_options(
        pareto=["0.3x", "0.5x"],
        budgets=["size=0.3x", "latency=0.9x"],
        latency_table="cd" * 32,
        weights="none",
    )
    (folder / "search.json").write_text(json.dumps(recorded))
    run = read_run(folder, "a")
    (line,) = commands(run)
    assert "--latency-table TABLE" in line
    (folder / "table.json").touch()
    parsed = options_of(search, line.replace("TABLE", str(folder / "table.json")))
    assert parsed["pareto"] == ("0.3x", "0.5x")
    assert parsed["budgets"] == ("latency=0.9x",)
    assert parsed["weights"] == "none"
    assert digests(run) == [("TABLE", "cd" * 32)]


def test_a_fine_tuning(make_run: Callable[..., Path], samples) -> None:
    folder = make_run(finetune=samples.finetune_result(started_from="resnet8.keras"))
    (line,) = commands(read_run(folder, "a"))
    parsed = options_of(finetune, line)
    assert parsed["source"] == folder / "policy.yaml"
    assert parsed["target"] == "digits"
    assert (parsed["distill"], parsed["reconstruct"], parsed["weights"]) == (False, True, None)
    assert (parsed["learning_rate"], parsed["epochs"], parsed["distill_weight"]) == (0.002, 4, 0.5)


@pytest.mark.parametrize(
    ("searched", "recorded", "began", "typed"),
    [
        (True, {}, "float", "a"),
        (True, {"run": "old/a", "source": "old/a/"}, "search", "a"),
        (True, {"run": "old/a", "source": "old/b"}, "float", "old/b"),
        (False, {"run": "old/a", "source": "old/b"}, "float", "old/b"),
        (True, {"run": "old/a", "source": "p.yaml"}, "resnet8", "a/policy.yaml"),
        (False, {}, "float", UNRECORDED),
    ],
)
def test_the_source_of_a_fine_tuning(
    searched: bool, recorded: dict[str, str], began: str, typed: str, make_run, samples
) -> None:
    tuned = samples.finetune_result(started_from=began) | recorded
    folder = make_run(finetune=tuned, search=samples.search_result() if searched else None)
    expected = str(folder.parent / typed) if typed.startswith("a") else typed
    assert shlex.split(commands(read_run(folder, "a"))[-1])[2] == expected
    page = folder.parent / "r.html"
    report([folder], out=page)
    assert ("RUN is the run folder of the search" in page.read_text()) is (typed == UNRECORDED)


def test_weights_of_a_file_need_no_search(make_run: Callable[..., Path], samples) -> None:
    folder = make_run(finetune=samples.finetune_result(started_from="float"))
    (folder / "finetune.json").write_text(json.dumps(samples.finetune_options(weights="ab12" * 16)))
    (line,) = commands(read_run(folder, "a"))
    assert shlex.split(line)[2] == str(folder / "policy.yaml")


def test_a_fine_tuning_that_is_not_finished_goes_on(make_run: Callable[..., Path], samples) -> None:
    folder = make_run(search=samples.search_result())
    (folder / "finetune.json").write_text(json.dumps(samples.finetune_options()))
    assert shlex.split(commands(read_run(folder, "a"))[-1])[2] == str(folder)


def test_a_whole_run(whole_run: Path) -> None:
    (line,) = commands(read_run(whole_run, "a"))
    options = json.loads((whole_run / "search.json").read_text())
    # `run` does not take the method's knobs; this run was made with none.
    for name in ("perturb", "rho_max"):
        del options[name]
    (whole_run / "search.json").write_text(json.dumps(options))
    (line,) = commands(read_run(whole_run, "a"))
    parsed = options_of(run_command, line)
    assert (parsed["proxy"], parsed["target"], parsed["learning_rate"]) == ("digits", "digits", 0.002)
    assert parsed["distill"] is False
    assert parsed["out"] == whole_run


@pytest.mark.parametrize(
    ("data", "folder", "typed"),
    [
        ("cifar10", "/home/me/data", True),
        ("cifar10", None, False),
        ("digits", "/home/me/data", False),
        ("npz:x.npz", "/home/me/data", False),
    ],
)
def test_a_data_folder_is_asked_for_and_its_path_not_shown(
    data: str, folder: str | None, typed: bool, make_run, samples, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.delenv("TFMPQ_DATA_DIR", raising=False)
    made = make_run(
        search=samples.search_result(data_dir=folder), finetune=samples.finetune_result(data_dir=folder)
    )
    (made / "search.json").write_text(json.dumps(samples.search_options(proxy=data)))
    (made / "finetune.json").write_text(json.dumps(samples.finetune_options(target=data)))
    monkeypatch.chdir(tmp_path)
    Path("DIR").mkdir()
    for verb, line in zip((search, finetune), commands(read_run(made, "a")), strict=True):
        assert options_of(verb, line)["data_dir"] == (Path("DIR") if typed else None)
    report([made], out=tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "/home/me" not in page
    assert ("DIR is the folder of the data sets" in page) is typed


def test_a_whole_run_asks_for_the_data_folder_of_its_target(whole_run: Path, samples) -> None:
    tuned = json.loads((whole_run / "finetune.result.json").read_text()) | {"data_dir": "/home/me/data"}
    (whole_run / "finetune.result.json").write_text(json.dumps(tuned))
    (whole_run / "finetune.json").write_text(json.dumps(samples.finetune_options(target="cifar10")))
    (line,) = commands(read_run(whole_run, "a"))
    assert shlex.split(line.replace("\\\n", " ")).count("--data-dir") == 1


@pytest.mark.parametrize("name", ["a b", "$(touch x)", "-x", "ä"])
def test_hostile_names_are_quoted(name: str, make_run: Callable[..., Path], samples) -> None:
    folder = make_run(name, search=samples.search_result())
    (line,) = commands(read_run(folder, name))
    assert str(folder) in shlex.split(line.replace("\\\n", " "))
