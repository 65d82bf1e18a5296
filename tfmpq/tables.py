"""How a result looks: one JSON object, or tables for people, as text or as HTML.

The text is drawn from the same JSON object, so that both say the same. Numbers get their unit from the name
of their field, here and nowhere else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape as escape_html
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape, render
from rich.table import Table

from tfmpq.units import bops_text, bytes_text

PLAIN_WIDTH = 160
"""Columns for text that goes to a file or a pipe, where nothing tells the width."""


def write_json(result: Mapping[str, Any], stream: TextIO) -> None:
    """Write exactly one JSON object; numbers that JSON lacks (NaN, infinity) become null.

    Args:
        result: JSON types.
        stream: Where to.
    """
    json.dump(_finite(result), stream, indent=2, allow_nan=False)
    stream.write("\n")
    stream.flush()


def write_text(verb: str, result: Mapping[str, Any], stream: TextIO) -> None:
    """Write a result for people: single values first, then its tables.

    Args:
        verb: Which command the result is of.
        result: JSON types.
        stream: Where to; colours only on a terminal.
    """
    console = Console(file=stream, highlight=False, width=None if stream.isatty() else PLAIN_WIDTH)
    for table in _shown(verb, result):
        console.print(table)
    stream.flush()


def html(verb: str, result: Mapping[str, Any]) -> str:
    """A result for a notebook: single values first, then its tables.

    Args:
        verb: Which command the result is of.
        result: JSON types.
    """
    return "\n".join(_html_table(table) for table in _shown(verb, result))


def _html_table(table: Table) -> str:
    """One table, without colours; numbers to the right as in the text."""
    sides = [column.justify for column in table.columns]
    columns = [[_plain(cell) for cell in column.cells] for column in table.columns]

    def row(cells: Sequence[str], tag: str) -> str:
        told = zip(cells, sides, strict=True)
        return "<tr>" + "".join(f'<{tag} style="text-align:{s}">{c}</{tag}>' for c, s in told) + "</tr>"

    title = f"<caption>{_plain(table.title)}</caption>" if table.title else ""
    head = row([_plain(column.header) for column in table.columns], "th") if table.show_header else ""
    body = "".join(row(cells, "td") for cells in zip(*columns, strict=True))
    return f"<table>{title}{head}{body}</table>"


def _plain(cell: Any) -> str:
    return escape_html(render(str(cell)).plain)


def _shown(verb: str, result: Mapping[str, Any]) -> list[Table]:
    """The tables of a result: one of single values, then those of its nested ones."""
    shown = _VIEWS.get(verb, dict)(result)
    facts = _facts(shown)
    nested = [table for key, value in shown.items() for table in _tables(key, value)]
    return [facts, *nested] if facts else nested


def _run_view(result: Mapping[str, Any]) -> dict[str, Any]:
    """The closing table; the rest is in the run folder."""
    rows = [dict(row) for row in result["table"]]
    files = {f"{row['model']} file": row.pop("path") for row in rows if "path" in row}
    return files | {"size": "packed weights, scales and biases of the storage form", "table": rows}


def _compress_view(result: Mapping[str, Any]) -> dict[str, Any]:
    """The table to decide by and what follows from it, without the front and the proof."""
    if "score" not in result:
        return dict(result)
    int8 = next(row["bytes"] for row in result["table"] if row["file"] == "int8")
    sure = f"drop at most ({result['confidence']:.4g})"
    rows = []
    for row in result["table"]:
        told: dict[str, Any] = {"file": row["file"], "bytes": row["bytes"]}
        told["of int8"] = f"{row['bytes'] / int8:.3f}"
        told["mean_weight_bits"] = row["mean_weight_bits"]
        if row["score"] is not None:
            bound = row["drop_at_most"]
            told[result["score"]] = f"{100 * row['score']:.2f} ± {100 * row['error']:.2f} %"
            told["drop"] = f"{100 * row['drop']:.2f} ± {100 * row['drop_error']:.2f}" if bound else "-"
            told[sure] = f"{100 * bound:.2f}" if bound else "-"
        rows.append(told | {"median_ms": row["median_ms"]})
    scored = f"{result['score']} of {result['images']} held-out images" if result["score"] else None
    names = ("path", "asked", "page", "seconds")
    shown = {name: result[name] for name in names if result[name] is not None}
    proof = result["export"]["verification"]["passed"]
    shown |= {"score": scored, "proved": proof, "warnings": result["warnings"] or None, "table": rows}
    return shown | {"advice": [{"what to do next": text} for text in result["advice"]]}


def _evaluate_view(result: Mapping[str, Any]) -> dict[str, Any]:
    """Without `float`, which only negates `quantized`."""
    return _scores_view({key: value for key, value in result.items() if key != "float"})


def _quantize_view(result: Mapping[str, Any]) -> dict[str, Any]:
    return dict(result) | {"quantized": _scores_view(result["quantized"])}


def _scores_view(result: Mapping[str, Any]) -> dict[str, Any]:
    """The shares of one output beside the rest; those of several in their table alone."""
    hidden = ("top1", "top5") if len(result.get("outputs", ())) > 1 else ("outputs",)
    return {key: value for key, value in result.items() if key not in hidden}


def _inspect_view(result: Mapping[str, Any]) -> dict[str, Any]:
    """A run folder: the state of its stages and the content of its policy, without the stages' results."""
    if "stages" not in result:
        return dict(result)
    stages = {f"{name} stage": stage["state"] for name, stage in result["stages"].items()}
    rest = {key: value for key, value in result.items() if key not in ("stages", "policy")}
    return rest | stages | dict(result.get("policy", {}))


def _measure_view(result: Mapping[str, Any]) -> dict[str, Any]:
    """Without samples; several files as a table, and a table of the operators of each."""
    if "files" not in result:
        left_out = ("processes", "schema_version", "protocol", "energy", "ops", "ops_note")
        shown = {key: value for key, value in result.items() if key not in left_out}
        device = {key: value for key, value in result.get("device", {}).items() if key != "features"}
        return shown | {"device": device} | _operators_view(result, "operators by layer")
    columns = ("path", "bytes", "median_ms", "p90_ms", "p99_ms", "spread", "runs", "warnings")
    rows = [{key: row[key] for key in columns} for row in result["files"]]
    names = ("path", "ratio", "lowest", "highest", "spread", "verdict")
    compared = [{key: row[key] for key in names} for row in result["comparisons"]]
    operators: dict[str, Any] = {}
    for file in result["files"]:
        operators |= _operators_view(file, f"operators of {file['path']}")
    return {"files": rows, "compared with the first": compared} | operators


def _operators_view(file: Mapping[str, Any], title: str) -> dict[str, Any]:
    """A row for each layer whose operators were timed, or why they were not."""
    if "ops" not in file:
        return {}
    told = file["ops"]
    if told is None:
        return {title: file["ops_note"]}
    least = told["resolution_ms"]
    rows = [
        {"time_ms" if key == "ms" else key: value for key, value in _told(row, least).items()}
        for row in told["layers"]
    ]
    loose = {f"{title}, not told apart": told["unattributed"]} if told["unattributed"] else {}
    note = {f"{title}, note": file["ops_note"]} if file["ops_note"] else {}
    return {f"{title} ({told['source']})": rows} | loose | note


def _profile_view(result: Mapping[str, Any]) -> dict[str, Any]:
    """Times that the profiler cannot tell from none as what they are below, without their spread."""
    least = result.get("resolution_ms") or 0.0
    rows = []
    for row in result["layers"]:
        timed = any(value >= least for key, value in row.items() if key.endswith("_ms"))
        rows.append(_told(row, least) | ({} if timed else {"spread": None}))
    shown = {key: value for key, value in result.items() if key != "resolution_ms"}
    return shown | {"layers": rows}


def _told(row: Mapping[str, Any], least: float) -> dict[str, Any]:
    """A row of times in milliseconds, of which those below the resolution say no more than that."""
    return {
        key: f"< {least:g} ms" if (key == "ms" or key.endswith("_ms")) and value < least else value
        for key, value in row.items()
    }


def _probe_view(result: Mapping[str, Any]) -> dict[str, Any]:
    """Without what the runtime said, which is long."""
    cases = [{key: value for key, value in case.items() if key != "reason"} for case in result["cases"]]
    return dict(result) | {"cases": cases}


def _verify_view(result: Mapping[str, Any]) -> dict[str, Any]:
    """The layers' table without the columns that the one by kind has, so that names are not cut off."""
    hidden = ("delegated", "elements", "builtin_elements", "builtin_off_by_more")  # the kernel says the first
    layers = [{key: value for key, value in row.items() if key not in hidden} for row in result["layers"]]
    # All of the answers that is no whole number is a share of them.
    answers = {
        key: f"{100 * value:.2f} %" if isinstance(value, float) else value
        for key, value in (result.get("logits") or {}).items()
    }
    return dict(result) | {"layers": layers, "logits": answers or None}


def _deploy_view(result: Mapping[str, Any]) -> dict[str, Any]:
    """The measurement without samples."""
    if "measurement" not in result:
        return dict(result)
    return {**result, "measurement": _measure_view(result["measurement"])}


def _report_view(result: Mapping[str, Any]) -> dict[str, Any]:
    """The networks without what only their page explains."""
    if "networks" not in result:
        return dict(result)
    several = len({row["data"] for row in result["networks"]}) > 1
    columns = (
        *(("data",) if several else ()),
        "number",
        "name",
        "family",
        "top1",
        "size",
        "mean_weight_bits",
        "on_front",
    )
    rows = [{key: row[key] for key in columns} for row in result["networks"]]
    lacking = {f"not in {run['name']}": run["missing"] for run in result["runs"] if run["missing"]}
    figures = {"figures": len(result["figures"])} if result["figures"] else {}
    return {key: result[key] for key in ("path", "bytes")} | figures | lacking | {"networks": rows}


_VIEWS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "run": _run_view,
    "compress": _compress_view,
    "evaluate": _evaluate_view,
    "quantize": _quantize_view,
    "inspect": _inspect_view,
    "probe": _probe_view,
    "verify": _verify_view,
    "measure": _measure_view,
    "profile": _profile_view,
    "deploy": _deploy_view,
    "report": _report_view,
}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _facts(result: Mapping[str, Any]) -> Table | None:
    """Single values and lists of single values, a line each."""
    table = Table.grid(padding=(0, 2))
    for key, value in result.items():
        if not _nested(value):
            table.add_row(_label(key), escape(_text(key, value)))
    return table if table.rows else None


def _tables(key: str, value: Any) -> list[Table]:
    """The tables of a nested value: one for a list of rows, one for each level of a mapping."""
    if not _nested(value):
        return []
    if not isinstance(value, Mapping):
        return [_rows_table(key, [row if isinstance(row, Mapping) else {"value": row} for row in value])]
    items = list(value.values())
    if all(isinstance(item, Mapping) and item.keys() == items[0].keys() for item in items):
        return [_rows_table(key, [{"name": name, **item} for name, item in value.items()])]
    flat = [
        {"name": name, "value": _text(name, item, key)} for name, item in value.items() if not _nested(item)
    ]
    inner = [table for name, item in value.items() for table in _tables(f"{key} {name}", item)]
    return [_rows_table(key, flat), *inner] if flat else inner


def _rows_table(key: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    title = "" if key == "table" else _label(key)
    # A title is wrapped at the width of its table.
    table = Table(title=title or None, title_justify="left", title_style="bold", min_width=len(title))
    for name in columns:
        numeric = all(isinstance(row.get(name), int | float | None) for row in rows)
        table.add_column(_label(name), justify="right" if numeric else "left")
    for row in rows:
        # A row about a budget says in its `key` what its numbers count.
        about = str(row.get("key", key))
        table.add_row(*(escape(_text(name, row[name], about)) if name in row else "" for name in columns))
    return table


def _nested(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value)
    return isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value)


def _label(key: str) -> str:
    return str(key).removesuffix("_ms").removesuffix("_seconds").replace("_", " ")


def _text(name: str, value: Any, about: str = "") -> str:
    """A value with the unit that its name implies, or else the name of what it is part of."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{_label(key)} {_text(key, item, name)}" for key, item in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(_text(name, item, about) for item in value) or "-"
    if isinstance(value, int | float):
        return _number_text((name, about), value)
    return str(value)


def _is_share(name: str) -> bool:
    return (
        name in ("top1", "top5", "accuracy", "share", "agreement")
        or name.startswith("top1_")
        or name.endswith("_top1")
    )


_BY_NAME: tuple[tuple[Callable[[str], bool], Callable[[float], str]], ...] = (
    (_is_share, lambda value: f"{100 * value:.2f} %"),
    (lambda name: name.endswith("_db"), lambda value: f"{value:.1f} dB"),
    (lambda name: name in ("bytes", "size", "kernel_size") or name.endswith("_bytes"), bytes_text),
    (lambda name: "bops" in name, bops_text),
    (lambda name: name == "latency" or name.endswith("_ms"), lambda value: f"{value:.3g} ms"),
    (lambda name: name.endswith("_seconds"), lambda value: f"{value:.1f} s"),
)


def _number_text(names: Sequence[str], value: float) -> str:
    for name in names:
        for matches, convert in _BY_NAME:
            if matches(name):
                return convert(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
