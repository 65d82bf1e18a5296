"""Compare search methods at equal bytes: what docs/results/rivals.sh left in its run folders.

    python benchmarks/rivals.py RUNS docs/results/rivals

Reads the run folders [bits-]METHOD-SEED, copies options, choices and results to `raw/`, writes `table.json`
and figures, prints the tables in Markdown.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
import shutil
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from collect import read, without_folders
from figures import save

LABELS = {
    "asga": "asga (inverse radius up to 0.05, alpha 0.001)",
    "sagm": "sagm (fixed radius 0.05)",
    "fixed0.1": "asga, fixed radius 0.1",
    "fixed0.2": "asga, fixed radius 0.2",
    "alpha0": "asga, alpha 0",
    "latent": "asga, latent weights perturbed",
    "sam": "sam",
    "gsam": "gsam",
    "sgd": "sgd (plain gradients)",
    "fracbits": "fracbits (plain gradients, one real-valued width a layer)",
    "sensitivity": "sensitivity",
    "random": "random",
    "uniform": "uniform, the widest that fits (2 bits, 0.27 of the bytes)",
}
SPACES = {
    "": "0.35 of the int8 bytes; 2, 4 or 8 bits",
    "bits-": "3 bits a weight; 2, 3, 4, 5, 6 or 8 bits",
}
"""Prefix of a run's name, and the budget and widths that it stands for."""

COLOURS = dict(zip(LABELS, plt.colormaps["tab20"].colors, strict=False))


@dataclass(frozen=True, slots=True)
class Run:
    """One search and what its policy is worth."""

    space: str
    method: str
    seed: int
    bits: dict[str, int]
    top1: float
    tuned: float
    seconds: float
    size: float
    course: list[dict[str, float]]
    settled: float | None
    """Share of the search after which the policy did not change any more; None if nothing is trained."""


def load(folder: Path) -> Run | None:
    """A finished run, or None."""
    accuracy = read(folder.parent / f"{folder.name}.evaluate-cifar10.json")
    tuned = read(folder.parent / f"{folder.name}.tuned.json")
    found = read(folder / "search.result.json")
    named = re.fullmatch(r"(bits-)?(.+)-(\d+)", folder.name)
    if not (found and accuracy and tuned and named and named[2] in LABELS):
        return None
    return Run(
        named[1] or "",
        named[2],
        int(named[3]),
        found["bits"],
        100 * accuracy["top1"],
        100 * tuned["top1"],
        found["search_seconds"],
        found["size"]["policy"] / found["size"]["int8"],
        rows(folder / "search.csv"),
        settled(rows(folder / "search.choices.csv")),
    )


def rows(path: Path) -> list[dict[str, float]]:
    """A CSV file of numbers; nothing if there is none."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def settled(choices: list[dict[str, float]]) -> float | None:
    """Share of the epochs after which all choices stay as they are."""
    policies = [{k: v for k, v in row.items() if k != "step"} for row in choices]
    if not policies:
        return None
    changes = [i for i, (a, b) in enumerate(itertools.pairwise(policies), 2) if a != b]
    return (changes[-1] if changes else 1) / len(policies)


def agreement(runs: list[Run]) -> float:
    """Mean share of layers with equal bits, over pairs of runs."""
    pairs = list(itertools.combinations(runs, 2))
    equal = [statistics.mean(a.bits[n] == b.bits[n] for n in a.bits) for a, b in pairs]
    return statistics.mean(equal) if equal else math.nan


def at_the_end(run: Run, key: str) -> float:
    """Mean of a metric over the last tenth of the steps."""
    last = run.course[-max(1, len(run.course) // 10) :]
    return statistics.mean(row.get(key, math.nan) for row in last) if last else math.nan


def line(runs: list[Run]) -> dict[str, Any]:
    """The table's line of one method."""
    shares = [run.settled for run in runs if run.settled is not None]
    return {
        "space": SPACES[runs[0].space],
        "method": runs[0].method,
        "seeds": [run.seed for run in runs],
        "top1": [round(run.top1, 2) for run in runs],
        "mean": round(statistics.mean(run.top1 for run in runs), 2),
        "tuned": [round(run.tuned, 2) for run in runs],
        "tuned_mean": round(statistics.mean(run.tuned for run in runs), 2),
        "bits": ["".join(map(str, run.bits.values())) for run in runs],
        "size": round(max(run.size for run in runs), 4),
        "seconds": round(statistics.median(run.seconds for run in runs)),
        "agreement": round(agreement(runs), 2),
        "settled": round(statistics.mean(shares), 2) if shares else None,
        "loss": round(statistics.mean(at_the_end(run, "loss") for run in runs), 4),
        "gap": round(statistics.mean(at_the_end(run, "gap") for run in runs), 4),
        "rho": round(statistics.mean(at_the_end(run, "rho") for run in runs), 4),
    }


def printed(table: list[dict[str, Any]]) -> None:
    """The table in Markdown."""
    heads = (
        "",
        "top-1 by seed, %",
        "mean",
        "tuned, %",
        "mean",
        "search, s",
        "settled after",
        "agreement of seeds",
    )
    heads += ("loss", "gap h", "rho")
    print(f"| {' | '.join(heads)} |")
    print("|---" * len(heads) + "|")

    def number(value: float | None, form: str) -> str:
        return "" if value is None or math.isnan(value) else format(value, form)

    for entry in table:
        cells = [
            LABELS[entry["method"]],
            ", ".join(f"{top1:.2f}" for top1 in entry["top1"]),
            f"{entry['mean']:.2f}",
            ", ".join(f"{top1:.2f}" for top1 in entry["tuned"]),
            f"{entry['tuned_mean']:.2f}",
            f"{entry['seconds']}",
            number(entry["settled"], ".0%"),
            number(entry["agreement"], ".2f"),
            number(entry["loss"], ".3f"),
            number(entry["gap"], ".3f"),
            number(entry["rho"], ".3f"),
        ]
        print(f"| {' | '.join(cells)} |")


def top1_figure(spaces: dict[str, dict[str, list[Run]]], folder: Path) -> None:
    """Top-1 of every seed, and the mean, by method; a panel for each space."""
    figure, panels = plt.subplots(1, len(spaces), figsize=(5 * len(spaces), 3.4), squeeze=False)
    for axes, (space, by_method) in zip(panels[0], spaces.items(), strict=True):
        for x, (method, runs) in enumerate(by_method.items()):
            values = [run.top1 for run in runs]
            axes.plot([x] * len(values), values, "o", color=COLOURS[method], alpha=0.7)
            axes.hlines(statistics.mean(values), x - 0.25, x + 0.25, color=COLOURS[method], linewidth=2)
        axes.set_xticks(range(len(by_method)), list(by_method), rotation=40, ha="right", fontsize=8)
        axes.set_title(SPACES[space], fontsize=10)
        axes.grid(axis="y", alpha=0.3)
    panels[0][0].set_ylabel("top-1 of the .tflite, %")
    save(figure, folder, "top1")


def course_figure(by_method: dict[str, list[Run]], folder: Path) -> None:
    """The course of loss and surrogate gap, running medians over all seeds."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.4))
    for axes, key, title in zip(panels, ("loss", "gap"), ("loss", "surrogate gap h"), strict=True):
        for method, runs in by_method.items():
            courses = [[row[key] for row in run.course if key in row] for run in runs]
            if any(courses):
                axes.plot(smooth(courses), label=method, color=COLOURS[method], linewidth=1)
        axes.set_title(title, fontsize=10)
        axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=7, ncols=2)
    save(figure, folder, "course")


def smooth(courses: list[list[float]], half: int = 10) -> list[float]:
    """Median over all courses and a window of steps."""
    length = min(map(len, courses))
    return [
        statistics.median(v for course in courses for v in course[max(0, i - half) : i + half + 1])
        for i in range(length)
    ]


def copy(folder: Path, raw: Path) -> None:
    """What a run folder tells, without weights, images and folders of the machine."""
    target = raw / folder.name
    target.mkdir(parents=True, exist_ok=True)
    stages = [
        f"{stage}.{kind}" for stage in ("search", "finetune") for kind in ("json", "csv", "result.json")
    ]
    for name in (*stages, "search.choices.csv", "policy.yaml"):
        if (folder / name).exists():
            (target / name).write_text(without_folders((folder / name).read_text()))
    beside = folder.parent
    for path in (*beside.glob(f"{folder.name}.evaluate-*.json"), *beside.glob(f"{folder.name}.tuned.json")):
        kept = {k: v for k, v in read(path).items() if k != "data_dir"}
        (target / path.name.removeprefix(f"{folder.name}.")).write_text(
            without_folders(json.dumps(kept, indent=2))
        )


def main() -> None:
    """Collect, draw and print."""
    source, results = Path(sys.argv[1]), Path(sys.argv[2])
    shutil.rmtree(results / "raw", ignore_errors=True)
    runs = []
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        if run := load(folder):
            runs.append(run)
        copy(folder, results / "raw")
    spaces = {
        space: {
            method: chosen
            for method in LABELS
            if (chosen := [run for run in runs if (run.space, run.method) == (space, method)])
        }
        for space in SPACES
    }
    tables = {space: [line(found) for found in by_method.values()] for space, by_method in spaces.items()}
    (results / "table.json").write_text(json.dumps(list(tables.values()), indent=2) + "\n")
    top1_figure(spaces, results / "figures")
    course_figure(spaces["bits-"], results / "figures")
    for space, table in tables.items():
        print(f"\n{SPACES[space]}:\n")
        printed(table)


if __name__ == "__main__":
    main()
