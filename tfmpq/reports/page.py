"""The page: all parts of a report in one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfmpq.reports.comparison import Comparison, comparison_section
from tfmpq.reports.folders import Run
from tfmpq.reports.latency_section import latency_section
from tfmpq.reports.markup import Child, Element, element
from tfmpq.reports.proof_section import proof_section
from tfmpq.reports.run_section import run_section
from tfmpq.reports.style import page_style

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Nothing is fetched or run, whatever texts the results hold."""


def page(
    title: str,
    runs: Sequence[Run],
    comparisons: Sequence[Comparison],
    results: Sequence[tuple[Path, Any]],
    facts: str,
) -> Element:
    """The whole page.

    Args:
        title: Its title.
        runs: Run folders.
        comparisons: Networks by data set.
        results: Results of the other verbs, with their files.
        facts: When and by what it was made.
    """
    latency, proof = latency_section(runs, results), proof_section(results)
    absent = []
    if not comparisons:
        absent.append(
            "No accuracy is known: tfmpq evaluate FILE.tflite --data DATA --json > RUN/evaluate.json."
        )
    if latency is None:
        absent.append("Nothing was measured: tfmpq measure FILE.tflite --out RUN/latency.json.")
    if proof is None:
        absent.append("No proof is at hand: tfmpq verify FILE.tflite --against RUN --json > RUN/verify.json.")
    main: list[Child] = [
        element("h1", title),
        element("p", facts, class_="muted"),
        *(comparison_section(comparison, index) for index, comparison in enumerate(comparisons)),
        *(run_section(run, index, alone=len(runs) == 1) for index, run in enumerate(runs)),
        latency,
        proof,
        *(element("p", text, class_="note") for text in absent),
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", page_style()),
    )
    return element("html", head, element("body", element("main", *main)), lang="en")
