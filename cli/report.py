"""`tfmpq report`: a page about runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options
from .perform import perform


@click.command(
    short_help="Show runs on one page.",
    epilog=options.example("tfmpq report runs/mobilenet_v2 --out report.html"),
)
@click.argument("sources", metavar="[RUN|RESULT.json]...", nargs=-1, type=options.existing_file_or_folder())
@click.option(
    "--out",
    metavar="FILE.html",
    type=options.output_path(),
    default="report.html",
    show_default=True,
    help="The page; it opens from disk and needs no network.",
)
@click.option(
    "--figures", metavar="DIR", type=options.output_path(), help="Write the drawings there as SVG files too."
)
@options.json_option
def report(as_json: bool, sources: tuple[Path, ...], **choices: Any) -> None:
    """Write one HTML page about runs: policies, accuracy against bytes and latency, courses, proofs.

    Beside run folders, files with what measure, verify, export, evaluate and deploy print with --json are
    taken; those that lie in a run folder are found. Without an argument, the newest run in runs/ is shown.
    """

    def call(function: Any, reporter: Any) -> Any:
        if sources:
            return function(sources, **choices)
        from tfmpq.api.newest import newest_run

        return function(newest_run(("search", "finetune"), "a finished run", reporter), **choices)

    perform("report", "tfmpq.api.report", as_json, call)
