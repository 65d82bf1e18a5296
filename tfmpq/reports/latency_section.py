"""The part of a report about measured files: times with their spread, comparisons, memory, warnings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfmpq.reports.charts import Scale, spread
from tfmpq.reports.folders import Run, places, replaced
from tfmpq.reports.markup import SHORT, Child, Element, bar, element, table
from tfmpq.reports.networks import conditions_of
from tfmpq.reports.results import Compared, Delivered, Measured, Measurements, OperatorTimes
from tfmpq.units import bytes_text


def latency_section(runs: Sequence[Run], results: Sequence[tuple[Path, Any]]) -> Element | None:
    """All measurements, those of one command together; None without any."""
    parts: list[Child] = []
    for run in runs:
        if run.job:
            files = [*run.job.measured.values()]
            parts += _together(f"Files of {run.name}", files, (), run.folder / "job.json")
    for path, result in results:
        if isinstance(result, Measurements):
            parts += _together("Measured together", result.files, result.comparisons, path)
        elif isinstance(result, Measured):
            parts += _together("Measured", [result], (), path)
        elif isinstance(result, Delivered):
            parts += _together(
                f"Deployed from {result.source} as {result.form}", [result.measurement], (), path
            )
            parts.append(element("p", _agreement(result)))
    return element("section", element("h2", "Latency"), *parts) if parts else None


def _together(
    title: str, files: Sequence[Measured], compared: Sequence[Compared], source: Path
) -> list[Child]:
    """What one command measured."""
    parts: list[Child] = [element("h3", title), element("p", _circumstances(files, source), class_="note")]
    timed = [file for file in files if not file.emulated and file.median_ms is not None]
    parts += _times(timed, title) if timed else []
    parts += [_by_layer(file, file.ops) for file in timed if file.ops]
    notes = dict.fromkeys(file.ops_note for file in timed if file.ops_note)
    notes |= dict.fromkeys(
        _outdated(file) for file in timed if replaced(file.sha256, places(file.path, source))
    )
    parts += [element("p", note, class_="note") for note in notes]
    parts += [_emulated(file) for file in files if file.emulated]
    told = [item for item in compared if item.ratio is not None]
    if told:
        parts.append(element("ul", *(element("li", _comparison(item)) for item in told)))
    parts += _warnings(files)
    return parts


def _circumstances(files: Sequence[Measured], source: Path) -> str:
    """Where, with what and when."""
    first = files[0]
    started = next((p.started_at for file in files for p in file.processes if p.started_at), None)
    system = " ".join(str(first.device[key]) for key in ("os", "kernel") if first.device.get(key))
    protocol = f"protocol {first.protocol.get('name', 'unknown')}"
    affinity = first.protocol.get("affinity")
    shared = dict.fromkeys(conditions_of(file) for file in files)
    told = [*shared, system, protocol, f"CPUs {affinity}" if affinity else ""]
    told += [f"begun {started}" if started else "", f"file {source}"]
    return "; ".join(text for text in told if text) + "."


def _times(files: Sequence[Measured], title: str) -> list[Child]:
    """One row a file, all on one scale; the bar leaves out the slowest and the fastest tenth."""
    ends = [end for file in files for end in _ends(file)]
    low, high = min(ends), max(ends)
    margin = (high - low or high or 1.0) * 0.05
    scale = Scale(low - margin, high + margin, 4, 196)
    rows: list[list[Child]] = []
    for file in files:
        first, last = _ends(file)
        rows.append(
            [
                _short(file.path),
                _ms(file.median_ms),
                spread(scale, first, last, file.median_ms or 0.0, file.process_medians_ms or []),
                "-" if file.spread is None else f"{file.spread:.1%}",
                *(_ms(value) for value in (file.p90_ms, file.p99_ms, file.load_ms, file.first_inference_ms)),
                "-" if file.memory_kb is None else bytes_text(1024 * file.memory_kb),
                bytes_text(file.bytes),
                f"{file.runs:,}",
            ]
        )
    header = ["file", "median", f"{_ms(low)} to {_ms(high)}", "spread", "p90", "p99", "load", "first"]
    made = table(title, [*header, "memory", "bytes", "runs"], rows, numeric=(1, *range(3, 11)))
    explained = (
        "Times of one image at a time; spread is that of the processes' medians. Drawn are the 10th to the "
        "90th percentile, the median, and a line for the median of each process."
    )
    return [made, element("p", explained, class_="note")]


def _ends(file: Measured) -> tuple[float, float]:
    """What the bar spans; at least the medians of all processes."""
    middle = [file.median_ms or 0.0, *(file.process_medians_ms or [])]
    low = middle if file.p10_ms is None else [*middle, file.p10_ms]
    high = middle if file.p90_ms is None else [*middle, file.p90_ms]
    return min(low), max(high)


def _by_layer(file: Measured, times: OperatorTimes) -> Element:
    """Where the time of a file goes, in the order of the network."""
    rows: list[list[Child]] = []
    most = max((layer.share or 0.0 for layer in times.layers), default=0.0) or 1.0
    for layer in times.layers:
        bits = layer.weight_bits
        chip = "-" if bits is None else element("span", str(bits), class_=f"chip bits{bits}")
        container = "-" if layer.container is None else str(layer.container)
        least = times.resolution_ms
        told = f"< {least:g} ms" if layer.ms < least else _ms(layer.ms)
        share: list[Child] = ["-", ""]
        if layer.share is not None:
            share = [f"{layer.share:.1%}", bar(layer.share / most, bits)]
        rows.append([layer.name, told, *share, chip, container, layer.operator, layer.kernel])
    rest = [f"{name} {_ms(ms)}" for name, ms in times.unattributed.items()]
    # Not what profiled runs have outside of operators, which is the profiler's own time for the most part.
    told_ms = sum(layer.ms for layer in times.layers) + sum(times.unattributed.values())
    outside = max(0.0, (file.median_ms or 0.0) - told_ms)
    rest += [f"outside of operators {_ms(outside)}"] if outside else []
    header = ["layer", "time", "share", "", "bits", "container", "operator", "kernel"]
    return element(
        "details",
        element("summary", f"Time by layer of {_short(file.path)} ({len(rows)})"),
        table(f"Time by layer of {_short(file.path)}", header, rows, numeric=(1, 2, 5)),
        element(
            "p", f"Told by: {times.source}. Beside the layers: {', '.join(rest) or 'nothing'}.", class_="note"
        ),
        open="" if len(rows) <= SHORT else None,
    )


def _outdated(file: Measured) -> str:
    name = _short(file.path)
    return (
        f"{name} was replaced since it was measured: the times are those of the file before, {file.sha256}."
    )


def _emulated(file: Measured) -> Element:
    text = f"{_short(file.path)} ran on an emulated device: its times are no latency and are not shown."
    return element("p", text, class_="note")


def _warnings(files: Sequence[Measured]) -> list[Child]:
    """Every warning once, with the files that it is about."""
    about: dict[str, list[str]] = {}
    for file in files:
        for warning in file.warnings:
            about.setdefault(warning, []).append(_short(file.path))
    if not about:
        return []
    items = (f"{warning} ({', '.join(dict.fromkeys(names))})" for warning, names in about.items())
    told = element("p", element("strong", "Warnings"), class_="note")
    return [told, element("ul", *(element("li", item, class_="note") for item in items))]


def _comparison(item: Compared) -> str:
    verdict = "no difference beyond the spread" if item.verdict == "none" else item.verdict or "not compared"
    return (
        f"{_short(item.path)} takes {item.ratio:.3f} of {_short(item.reference)} "
        f"({item.lowest:.3f} to {item.highest:.3f}): {verdict}."
    )


def _agreement(result: Delivered) -> str:
    found = result.agreement
    distance = "" if found.max_lsb is None else f", by at most {found.max_lsb} steps"
    share = found.top1_agreement
    classes = "" if share is None else f"; {share:.2%} of {found.images:,} images get the same class"
    return f"Outputs of the device: {found.differing:,} of {found.total:,} differ{distance}{classes}."


def _short(path: str) -> str:
    return "/".join(Path(path).parts[-2:])


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return "<0.0001 ms" if 0 < value < 1e-4 else f"{value:.3g} ms"
