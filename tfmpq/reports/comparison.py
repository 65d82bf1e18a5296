"""The part of a report that compares networks: one table and two charts for each data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tfmpq.reports.charts import MARKERS, Point, scatter
from tfmpq.reports.markup import Child, Element, element, table
from tfmpq.reports.networks import FAMILIES, Network, Timing, front
from tfmpq.units import bytes_text

_NUMERIC = ("top-1", "images", "size", "bits a weight")
_TIMES = {"median_ms": "latency", "predicted_ms": "predicted"}


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The networks of one data set.

    Attributes:
        data: The data set.
        networks: In the order of the table.
        timings: Measured ones, by conditions.
        best: Indices of those that no other one beats in bytes and accuracy; preliminary ones have a front
            of their own.
    """

    data: str
    networks: tuple[Network, ...]
    timings: dict[str, list[Timing]]
    best: tuple[int, ...]

    def rows(self) -> list[dict[str, Any]]:
        """The table as JSON types."""
        return [
            {
                "number": index + 1,
                "name": network.name,
                "model": network.model,
                "data": self.data,
                "family": network.family,
                "top1": network.top1,
                "images": network.images,
                "size": network.size,
                "mean_weight_bits": network.mean_weight_bits,
                "preliminary": network.preliminary,
                "on_front": index in self.best,
                "median_ms": {
                    conditions: timing.measured.median_ms
                    for conditions, timings in self.timings.items()
                    for timing in timings
                    if timing.network is network
                },
                "predicted_ms": dict(network.predicted_ms),
            }
            for index, network in enumerate(self.networks)
        ]


def compare(found: Sequence[Network], timed: dict[str, list[Timing]]) -> list[Comparison]:
    """Networks by data set: accuracies on different images say nothing about each other."""
    made = []
    for data in dict.fromkeys(network.data for network in found):
        chosen = tuple(network for network in found if network.data == data)
        here = {name: [t for t in timings if t.network in chosen] for name, timings in timed.items()}
        kept = {name: timings for name, timings in here.items() if timings}
        best = (*_front(chosen, preliminary=False), *_front(chosen, preliminary=True))
        made.append(Comparison(data, chosen, kept, best))
    return made


def _front(networks: Sequence[Network], *, preliminary: bool) -> list[int]:
    """Indices of the networks of one kind that no other one of it beats, by size."""
    sized = [
        (index, float(network.size), network.top1)
        for index, network in enumerate(networks)
        if network.size is not None and network.preliminary is preliminary
    ]
    return [sized[position][0] for position in front([(size, top1) for _, size, top1 in sized])]


def comparison_section(comparison: Comparison, index: int) -> Element:
    """Charts and table of one data set."""
    networks = comparison.networks
    charts = [
        _size_chart(comparison, f"size{index}", preliminary=False),
        _size_chart(comparison, f"searches{index}", preliminary=True),
    ]
    for position, (conditions, timings) in enumerate(comparison.timings.items()):
        charts.append(_latency_chart(comparison, conditions, timings, f"latency{index}-{position}"))
    families = list(dict.fromkeys(network.family for network in networks))
    notes = [
        "Size is that of weights, scales and biases, packed as in the storage form; error bars are the "
        "standard error from the number of images. The dashed line is the Pareto front: the accuracy that a "
        "size, or a latency, can buy."
    ]
    if any(network.preliminary for network in networks):
        notes.append(
            "Hollow markers are networks of a search before they were fine-tuned, on the first 1,000 test "
            "images: a front of their own."
        )
    if predicted := dict.fromkeys(name for network in networks for name in network.predicted_ms):
        notes.append(
            "Predicted is the latency that the search read from a table of tfmpq profile: "
            f"{'; '.join(predicted)}."
        )
    if not comparison.timings:
        notes.append("No measured latency belongs to these networks: tfmpq measure FILE... --out FILE.json.")
    return element(
        "section",
        element("h2", f"Networks on {comparison.data or 'unnamed data'}"),
        _legend(families, any(network.preliminary for network in networks)),
        element("div", *charts, class_="charts"),
        *(element("p", note, class_="note") for note in notes),
        _table(comparison),
    )


def _legend(families: Sequence[str], hollow: bool) -> Element:
    entries = [(family, FAMILIES[family], "marker") for family in FAMILIES if family in families]
    if hollow:
        entries.append(("float", "before fine-tuning", "marker hollow"))
    return element("ul", *(_legend_entry(*entry) for entry in entries), class_="legend")


def _legend_entry(family: str, text: str, kind: str) -> Element:
    shape = MARKERS["searched" if "hollow" in kind else family]
    drawing = element(
        "svg", element("path", d=shape, class_=kind), viewBox="-7 -7 14 14", class_=f"point {family}",
        aria_hidden="true",
    )  # fmt: skip
    return element("li", drawing, text)


def _size_chart(comparison: Comparison, name: str, *, preliminary: bool) -> Element | None:
    """The finished networks, or those of searches; None without any."""
    points = [
        _point(network, index, float(network.size))
        for index, network in enumerate(comparison.networks)
        if network.size is not None and network.preliminary is preliminary
    ]
    if not points:
        return None
    title = "Accuracy against bytes" + (", before fine-tuning" if preliminary else "")
    best = front([(point.x, point.y) for point in points])
    drawing = scatter(title, "size", points, best, bytes_text, name=name)
    return element("figure", element("figcaption", title), drawing)


def _latency_chart(comparison: Comparison, conditions: str, timings: Sequence[Timing], name: str) -> Element:
    points = []
    for timing in timings:
        medians = timing.measured.process_medians_ms or [timing.measured.median_ms or 0.0]
        index = comparison.networks.index(timing.network)
        spread = (min(medians), max(medians))
        points.append(_point(timing.network, index, timing.measured.median_ms or 0.0, spread))
    best = front([(point.x, point.y) for point in points])
    title = "Accuracy against latency"
    drawing = scatter(title, "median latency of one image, ms", points, best, lambda v: f"{v:.4g}", name=name)
    caption = f"{title}: {conditions}; bars across are the spread between processes"
    return element("figure", element("figcaption", caption), drawing)


def _point(network: Network, index: int, cost: float, spread: tuple[float, float] | None = None) -> Point:
    text = f"{index + 1}: {network.name}, {100 * network.top1:.2f} %"
    return Point(
        index + 1, cost, 100 * network.top1, network.family, text, network.preliminary, spread,
        100 * network.error,
    )  # fmt: skip


def _times(comparison: Comparison) -> tuple[list[str], list[tuple[str, str]]]:
    """Conditions of latencies, and columns for them: `median_ms` or `predicted_ms` with the conditions."""
    predicted = [name for network in comparison.networks for name in network.predicted_ms]
    conditions = list(dict.fromkeys([*comparison.timings, *predicted]))
    columns = [
        (kind, name)
        for name in conditions
        for kind, known in (("median_ms", comparison.timings), ("predicted_ms", predicted))
        if name in known
    ]
    return conditions, columns


def _table(comparison: Comparison) -> Element:
    conditions, columns = _times(comparison)
    letters = {name: chr(ord("A") + index) for index, name in enumerate(conditions)}
    models = len({network.model for network in comparison.networks if network.model}) > 1
    header = [
        "",
        "network",
        *(("model",) if models else ()),
        "kind",
        "top-1",
        "images",
        "size",
        "bits a weight",
        "front",
    ]
    header += [
        _TIMES[kind] if len(conditions) == 1 else f"{_TIMES[kind]} {letters[name]}" for kind, name in columns
    ]
    rows: list[list[Child]] = []
    for row, network in zip(comparison.rows(), comparison.networks, strict=True):
        error = f" ± {100 * network.error:.2f}" if network.error else ""
        latencies = [row[kind].get(name) for kind, name in columns]
        rows.append(
            [
                str(row["number"]),
                network.name,
                *((network.model or "-",) if models else ()),
                FAMILIES[network.family] + (", before fine-tuning" if network.preliminary else ""),
                f"{100 * network.top1:.2f}{error} %",
                "-" if network.images is None else f"{network.images:,}",
                "-" if network.size is None else bytes_text(network.size),
                "-" if network.mean_weight_bits is None else f"{network.mean_weight_bits:.2f}",
                "yes" if row["on_front"] else "",
                *("-" if value is None else f"{value:.3g} ms" for value in latencies),
            ]
        )
    times = range(len(header) - len(columns), len(header))
    numeric = [0, *(i for i, name in enumerate(header) if name in _NUMERIC or i in times)]
    told = "; ".join(f"{letters[name]}: {name}" for name in conditions) if len(conditions) > 1 else ""
    caption = f"Networks on {comparison.data or 'unnamed data'}{'. Latency ' + told if told else ''}"
    return table(caption, header, rows, numeric=numeric)
