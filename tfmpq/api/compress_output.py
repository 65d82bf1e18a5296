"""What a compression shows beside its file: the table of files, timed, and the page about the front."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np

from tfmpq.api.candidates import Workbench
from tfmpq.api.compress_report import CompressedRow, CompressReport, compressed_row
from tfmpq.api.compress_search import Analysis, Searched
from tfmpq.deploy.export import ExportReport, export_float
from tfmpq.deploy.latency.measure import measure_together
from tfmpq.files import write_text
from tfmpq.policy.network_cost import cost_model
from tfmpq.reports.front_page import FrontFacts, front_page
from tfmpq.reports.markup import html
from tfmpq.tasks.paired import Pairing


def timed_table(
    bench: Workbench, found: Searched, written: ExportReport, confidence: float
) -> tuple[CompressedRow, ...]:
    """The files to decide between, timed in alternation.

    Args:
        bench: Float network, its files and scores.
        found: What was searched.
        written: The file that was taken.
        confidence: Of the bounds.
    """
    costs, held_out = cost_model(bench.task.network), bench.held_out
    paths: dict[str, Path] = {}
    if keras.backend.backend() == "tensorflow":  # which the converter of float models needs
        paths["float32"] = bench.folder / "float32.tflite"
        export_float(bench.task.model, paths["float32"])
    pairing = score = None
    if held_out is not None:
        pairing, score = Pairing(0, 0, len(held_out.right)), float(np.mean(held_out.right))
    size = paths["float32"].stat().st_size if paths else costs.float_size
    rows = [compressed_row("float32", size, 32.0, pairing, score, None)]
    shown = {"int8": 0, "this file": found.chosen, "next smaller": found.failed}
    for name, index in shown.items():
        if index is None:
            continue
        tried = found.tried[index]
        this = name == "this file"
        paths[name] = Path(written.path) if this else tried.path
        bits = costs.mean_weight_bits(tried.policy.weight_bits)
        size = written.bytes if this else tried.bytes
        rows.append(compressed_row(name, size, bits, tried.pairing, tried.score, confidence))
    timed = dict(zip(paths, measure_together(list(paths.values()), reporter=bench.reporter), strict=True))
    return tuple(
        replace(row, median_ms=timed[row.file].median_ms if row.file in timed else None) for row in rows
    )


def write_page(path: Path, report: CompressReport, analysis: Analysis) -> None:
    """Draw the front."""
    told = report.to_json()
    weights = {layer.name: float(layer.weights) for layer in analysis.costs.layers}
    facts = FrontFacts(
        title=f"tfmpq compress: {Path(report.export.path).name}",
        made=f"Made by tfmpq {version('tfmpq')} on {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC.",
        asked=report.asked,
        score=report.score,
        table=told["table"],
        front=told["front"],
        confidence=report.confidence,
        parts=[(name, bits, weights[name]) for name, bits in report.policy.weight_bits.items()],
        notes=(*report.advice, *report.warnings),
    )
    write_text(path, html(front_page(facts)))
