"""The page about a front: scores of the files that were tried, and what every policy is expected to lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfmpq.reports.charts import Point, scatter, strip
from tfmpq.reports.markup import Child, Element, element, table
from tfmpq.reports.networks import front
from tfmpq.reports.page import document
from tfmpq.units import bytes_text


@dataclass(frozen=True, slots=True, eq=False)
class FrontFacts:
    """What the page is about.

    Attributes:
        title: Its title.
        made: When and by what it was made.
        asked: What was asked for.
        score: What the scores are; None where nothing was scored.
        table: Rows with `file`, `bytes`, `score` and `error`, as of a compression's result.
        front: Rows of the front, as of a compression's result.
        confidence: Of the bounds.
        parts: Layer, bits and number of weights of the file that was written, in the order of the network.
        notes: Lines below the charts.
    """

    title: str
    made: str
    asked: str
    score: str | None
    table: Sequence[Mapping[str, Any]]
    front: Sequence[Mapping[str, Any]]
    confidence: float
    parts: Sequence[tuple[str, int, float]]
    notes: Sequence[str]


_FAMILIES = {"float32": "float", "int8": "uniform", "this file": "searched"}


def front_page(facts: FrontFacts) -> Element:
    """The whole page."""
    charts = [_score_chart(facts), _expected_chart(facts)]
    main: list[Child] = [
        element("h1", facts.title),
        element("p", f"{facts.made} Asked for: {facts.asked}.", class_="muted"),
        element("div", *charts, class_="charts"),
        element("h2", "Bits of the file"),
        strip("Bits by layer, first layer left, as wide as it has weights", facts.parts, name="policy"),
        element("h2", "The front"),
        *(element("p", note, class_="note") for note in facts.notes),
        _table(facts),
    ]
    return document(facts.title, main)


def _score_chart(facts: FrontFacts) -> Element | None:
    """Scores of files against their bytes: float32, and all of the front that were tried."""
    whole = [row for row in facts.table if row["file"] == "float32" and row["score"] is not None]
    tried = [(number, entry) for number, entry in _numbered(facts) if entry["score"] is not None]
    points = [_point(0, row["bytes"], row, "float", "float32") for row in whole]
    points += [_point(n, entry["bytes"], entry, _family(n, entry), _name(n, entry)) for n, entry in tried]
    if not points:
        return None
    best = front([(point.x, point.y) for point in points])
    title = f"{facts.score} against bytes of the file"
    drawing = scatter(title, "bytes", points, best, bytes_text, name="scores", y_label=f"{facts.score}, %")
    caption = f"{title}; bars are standard errors, number 0 is the float network"
    return element("figure", element("figcaption", caption), drawing)


def _point(number: int, size: float, row: Mapping[str, Any], family: str, name: str) -> Point:
    score, error = 100 * row["score"], 100 * (row["error"] or 0.0)
    return Point(number, size, score, family, f"{name}: {score:.2f} %", y_error=error)


def _expected_chart(facts: FrontFacts) -> Element | None:
    """Divergences that the sensitivity analysis predicts, against bytes of weights."""
    points = [
        Point(number, entry["size"], 1000 * entry["expected"], _family(number, entry), _name(number, entry))
        for number, entry in _numbered(facts)
        if entry["expected"]
    ]
    if not points:
        return None
    title = "Expected divergence of every policy of the front"
    drawing = scatter(
        title, "bytes of weights, scales and biases", points, (), bytes_text, name="expected",
        y_label="expected divergence, nats / 1000", y_log=None,
    )  # fmt: skip
    return element("figure", element("figcaption", title), drawing)


def _numbered(facts: FrontFacts) -> list[tuple[int, Mapping[str, Any]]]:
    return list(enumerate(facts.front, 1))


def _family(number: int, entry: Mapping[str, Any]) -> str:
    return "searched" if entry["chosen"] else "uniform" if number == 1 else "other"


def _name(number: int, entry: Mapping[str, Any]) -> str:
    kind = "int8" if number == 1 else "this file" if entry["chosen"] else "candidate"
    return f"{number}: {kind}, {entry['mean_weight_bits']:.2f} bits a weight"


def _table(facts: FrontFacts) -> Element:
    header = [
        "", "kind", "weights", "bits a weight", "expected, nats", "file", str(facts.score or "score"), "drop",
        f"drop at most ({facts.confidence:.4g})",
    ]  # fmt: skip
    rows: list[list[Child]] = []
    for number, entry in _numbered(facts):
        expected, score = entry["expected"], entry["score"]
        tried = score is not None
        rows.append(
            [
                str(number),
                "int8" if number == 1 else "this file" if entry["chosen"] else "tried" if tried else "",
                bytes_text(entry["size"]),
                f"{entry['mean_weight_bits']:.2f}",
                "-" if expected is None else f"{expected:.3g}",
                "-" if entry["bytes"] is None else bytes_text(entry["bytes"]),
                f"{100 * score:.2f} ± {100 * entry['error']:.2f} %" if tried else "-",
                f"{100 * entry['drop']:.2f}" if tried else "-",
                f"{100 * entry['drop_at_most']:.2f}" if tried else "-",
            ]
        )
    return table("Policies from the largest to the smallest", header, rows, numeric=(0, 2, 3, 4, 5, 6, 7, 8))
