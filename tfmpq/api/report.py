"""`tfmpq report`: what runs found, how files were proved and measured, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tfmpq.api.sources import run_of
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.files import write_text
from tfmpq.reports.comparison import compare
from tfmpq.reports.folders import Run, read_run
from tfmpq.reports.markup import Element, html, standalone_svg
from tfmpq.reports.networks import measurements, networks, timings
from tfmpq.reports.page import drawing_style, page
from tfmpq.reports.reading import read_given
from tfmpq.reports.run_section import missing
from tfmpq.results import Result

_SOURCES = "A report is about run folders and .json results, or what search, finetune and run returned."
_NAMED = 4
"""Runs that a title names."""


@dataclass(frozen=True, slots=True)
class Report(Result, verb="report"):
    """A page that was written.

    Attributes:
        path: The page.
        bytes: Its size.
        runs: For each run folder `name`, `model`, `folder` and what it lacks (`missing`).
        networks: The rows of the comparison; `number` counts within a data set, `median_ms` is by conditions
            of the measurement.
        measured: Number of measured files shown.
        figures: Drawings that were written as files of their own.
    """

    path: str
    bytes: int
    runs: tuple[dict[str, Any], ...]
    networks: tuple[dict[str, Any], ...]
    measured: int
    figures: tuple[str, ...]


def report(sources: Any, *, out: str | Path = "report.html", figures: str | Path | None = None) -> Report:
    """Write what run folders and result files hold as one HTML file that needs no network.

    Args:
        sources: One or several run folders, results of `search`, `finetune` and `run`, and files of what
            `measure`, `verify`, `export`, `evaluate` and `deploy` print with `--json`; those in the folders
            are found.
        out: The page.
        figures: Folder for the drawings as SVG files; None writes none.

    Raises:
        UsageError: A source is neither a run with a finished stage nor a result, or `out` is not `.html`.
        TfmpqError: A file is damaged, or the page cannot be written.
    """
    out = Path(out)
    if out.is_dir() or out.suffix not in (".html", ".htm"):
        raise UsageError(f"A report is one .html file. Received: {out}. Name a file such as report.html.")
    several = sources if isinstance(sources, list | tuple) else (sources,)
    runs, given = _read([run_of(source, _SOURCES) for source in several])
    results = [(path, result) for run in runs for path, result in run.results] + given
    found = [result for _, result in results]
    measured = measurements(runs, found)
    compared = networks(runs, found)
    comparisons = compare(compared, timings(compared, measured))
    made = f"Made by tfmpq {version('tfmpq')} on {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC."
    tree = page(_title(runs), runs, comparisons, results, made)
    _write(out, html(tree))
    drawings = _write_figures(tree, Path(figures)) if figures else ()
    return Report(
        path=str(out),
        bytes=out.stat().st_size,
        runs=tuple(
            {"name": run.name, "model": run.model, "folder": str(run.folder), "missing": missing(run)}
            for run in runs
        ),
        networks=tuple(row for comparison in comparisons for row in comparison.rows()),
        measured=len(measured),
        figures=drawings,
    )


def _title(runs: Sequence[Run]) -> str:
    """The names of the runs, if they are few."""
    names = [run.name for run in runs[:_NAMED]]
    if len(runs) > _NAMED:
        names.append(f"{len(runs) - _NAMED} more")
    return "tfmpq report: " + (", ".join(names) or "result files")


def _read(sources: Sequence[Path]) -> tuple[list[Run], list[tuple[Path, Any]]]:
    """Run folders and result files, each once."""
    if not sources:
        raise UsageError("A report is about something. Received: nothing. Name a run folder.")
    sources = list({path.resolve(): path for path in sources}.values())
    folders = [path for path in sources if path.is_dir()]
    runs = [read_run(path, name) for path, name in zip(folders, _names(folders), strict=True)]
    inside = {path.resolve() for run in runs for path, _ in run.results}
    files = [path for path in sources if not path.is_dir() and path.resolve() not in inside]
    for path in files:
        if path.suffix != ".json":
            raise UsageError(
                f"A report shows run folders and .json results. Received: {path}. Give its run folder, or "
                "what tfmpq measure, verify or evaluate prints about it with --json."
            )
    return runs, [(path, read_given(path)) for path in files]


def _names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the folders' paths, as many as tell them apart."""
    resolved = [path.resolve().parts for path in folders]
    parts = 1
    while len({path[-parts:] for path in resolved}) < len(resolved):
        parts += 1
    return ["/".join(path[-parts:]).lstrip("/") for path in resolved]


def _write_figures(tree: Element, folder: Path) -> tuple[str, ...]:
    """Every drawing that has a name, as a file."""
    written = []
    for drawing in tree.iter("svg"):
        label = drawing.get("aria-labelledby")
        if label:
            path = folder / f"{label.split()[0].removesuffix('-title')}.svg"
            _write(path, standalone_svg(drawing, drawing_style()))
            written.append(str(path))
    return tuple(written)


def _write(path: Path, text: str) -> None:
    try:
        write_text(path, text)
    except OSError as error:
        raise TfmpqError(
            f"The report has to be written. Received: {path} ({error.strerror}). Choose another path."
        ) from error
