"""Drawings of a report: points with their front, courses over steps, a policy's strip, a spread of times."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tfmpq.reports.markup import Element, element, extended

_WIDTH = 420.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 24.0, 40.0
_BINS = 140
"""Steps of a long course are drawn in so many parts: their mean, and the band that they lie in."""

MARKERS = {
    "float": "M0-5.5 5.5 0 0 5.5-5.5 0z",
    "uniform": "M-4.5-4.5h9v9h-9z",
    "searched": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
    "other": "M0-5.5 5.2 4.2h-10.4z",
}
"""By family, so that colour is not all that tells them apart."""

Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Point:
    """One network in a chart.

    Attributes:
        number: What it is called in the table beside.
        x: Its cost.
        y: Its accuracy in percent.
        family: Marker and colour.
        text: What a pointer shows.
        hollow: Whether it is preliminary.
        x_range: Smallest and largest cost seen; None for exact ones.
        y_error: Standard error of `y`.
    """

    number: int
    x: float
    y: float
    family: str
    text: str
    hollow: bool = False
    x_range: tuple[float, float] | None = None
    y_error: float = 0.0


def scatter(
    title: str,
    label: str,
    points: Sequence[Point],
    best: Sequence[int],
    form: Format,
    *,
    name: str,
    y_label: str = "top-1, %",
    y_log: bool | None = False,
) -> Element:
    """Accuracy against a cost.

    Args:
        title: What is shown.
        label: Name of the cost, with its unit.
        points: At least one.
        best: Indices of the front, by cost.
        form: Text of a cost.
        name: Name of the drawing, unique on the page.
        y_label: What is shown upwards, with its unit.
        y_log: Whether on a logarithmic axis; None for whether values are far apart.
    """
    height = 300.0
    extents = [value for point in points for value in (point.x, *(point.x_range or ()))]
    x = fitted(extents, _LEFT, _WIDTH - _RIGHT, log=None)
    tops = [point.y + sign * point.y_error for point in points for sign in (-1, 1)]
    y = fitted(tops, height - _BOTTOM, _TOP, log=y_log)
    counted = f"{len(points)} network{'' if len(points) == 1 else 's'}"
    told = f"{counted}; numbers are those of the table."
    drawing = _frame(title, told, _Axes(x, y, label, y_label, form), height, name)
    if len(best) > 1:
        drawing.append(element("path", class_="front", d=_stairs([points[i] for i in best], x, y)))
    places = _label_places([(x(point.x), y(point.y)) for point in points])
    for point, place in zip(points, places, strict=True):
        extended(drawing, [_marked(point, x, y, place)])
    return drawing


def _stairs(best: Sequence[Point], x: Scale, y: Scale) -> str:
    """Along the front: the accuracy that a cost can buy."""
    path = f"M{x(best[0].x):.1f} {y(best[0].y):.1f}"
    return path + "".join(f"H{x(point.x):.1f}V{y(point.y):.1f}" for point in best[1:])


def _marked(point: Point, x: Scale, y: Scale, place: tuple[float, float]) -> Element:
    across, down = x(point.x), y(point.y)
    low, high = (y(point.y + sign * point.y_error) for sign in (-1, 1))
    group = element("g", element("title", point.text), class_=f"point {point.family}")
    if point.y_error:
        group.append(element("path", class_="error", d=f"M{across:.1f} {low:.1f}V{high:.1f}"))
    if point.x_range:
        first, last = (x(value) for value in point.x_range)
        group.append(element("path", class_="error", d=f"M{first:.1f} {down:.1f}H{last:.1f}"))
    group.append(
        element(
            "path",
            d=MARKERS[point.family],
            transform=f"translate({across:.1f} {down:.1f})",
            class_="marker hollow" if point.hollow else "marker",
        )
    )
    group.append(element("text", str(point.number), x=round(place[0], 1), y=round(place[1], 1)))
    return group


_AROUND = ((8.0, -6.0), (8.0, 13.0), (-16.0, -6.0), (-16.0, 13.0), (-4.0, -11.0), (-4.0, 19.0))


def _label_places(markers: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A place beside each marker where no other marker or label is, if there is one."""
    taken = [(across, down + 4) for across, down in markers]
    places = []
    for across, down in markers:
        options = [(across + right, down + low) for right, low in _AROUND]
        free = (
            option
            for option in options
            if all(abs(option[0] + 5 - a) > 11 or abs(option[1] - b) > 10 for a, b in taken)
        )
        places.append(next(free, options[0]))
        taken.append((places[-1][0] + 5, places[-1][1]))
    return places


def course(
    title: str, series: Sequence[tuple[str, np.ndarray]], form: Format, *, name: str, label: str = "step"
) -> Element:
    """Values over the steps of a training: means of neighbouring steps in the band that these lie in.

    Args:
        title: What is shown.
        series: Name and values, float64 of shape (steps,), at least one of them finite.
        form: Text of a value.
        name: Name of the drawing, unique on the page.
        label: What is counted along the axis.
    """
    height = 190.0
    finite = np.concatenate([values[np.isfinite(values)] for _, values in series])
    top = _TOP if len(series) > 1 else 8.0
    y = fitted([float(finite.min()), float(finite.max())], height - _BOTTOM, top)
    steps = max(len(values) for _, values in series)
    x = Scale(0, max(steps - 1, 1), _LEFT, _WIDTH - _RIGHT)
    told = ", ".join(
        f"{label} from {form(float(v[np.isfinite(v)][0]))} to {form(float(v[np.isfinite(v)][-1]))}"
        for label, v in series
    )
    drawing = _frame(title, told, _Axes(x, y, label, "", form, count=True), height, name)
    for index, (_, values) in enumerate(series):
        extended(drawing, _band(values, x, y, f"series{index}"))
    if len(series) > 1:
        for index, (text, _) in enumerate(series):
            extended(
                drawing, [element("text", text, x=_LEFT + 92 * index, y=15, class_=f"key series{index}")]
            )
    return drawing


def _band(values: np.ndarray, x: Scale, y: Scale, kind: str) -> list[Element]:
    """Band and mean of a series."""
    parts = np.array_split(np.arange(len(values)), min(_BINS, len(values)))
    shown = [part for part in parts if np.isfinite(values[part]).any()]
    across = [x(float(part.mean())) for part in shown]
    lowest, highest, mean = (
        [y(float(reduce(values[part]))) for part in shown] for reduce in (np.nanmin, np.nanmax, np.nanmean)
    )
    made = [element("path", class_=f"line {kind}", d=_polyline(zip(across, mean, strict=True)))]
    if len(values) > _BINS:
        outline = [*zip(across, highest, strict=True), *reversed([*zip(across, lowest, strict=True)])]
        made.insert(0, element("path", class_=f"band {kind}", d=_polyline(outline) + "z"))
    return made


def _polyline(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{across:.1f} {down:.1f}" for across, down in points)


@dataclass(frozen=True, slots=True)
class _Axes:
    """Both axes of a chart.

    Attributes:
        x: Scale across.
        y: Scale upwards.
        x_label: What is shown across.
        y_label: What is shown upwards; empty for no label.
        form: Text of a value on x; where x counts steps, on y.
        count: Whether x counts steps.
    """

    x: Scale
    y: Scale
    x_label: str
    y_label: str
    form: Format
    count: bool = False


def _frame(title: str, description: str, axes: _Axes, height: float, name: str) -> Element:
    """Title for those who listen, axes, grid and their numbers."""
    x, y, form = axes.x, axes.y, axes.form
    drawing = element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", description, id=f"{name}-text"),
        viewBox=f"0 0 {_WIDTH:.0f} {height:.0f}",
        role="img",
        aria_labelledby=f"{name}-title {name}-text",
        class_="chart",
    )
    x_form, y_form = (
        (lambda value: f"{value:,.0f}", form) if axes.count else (form, lambda value: f"{value:.4g}")
    )
    for value in y.ticks(4):
        down = round(y(value), 1)
        extended(
            drawing,
            [
                element("path", class_="grid", d=f"M{_LEFT} {down}H{_WIDTH - _RIGHT}"),
                element("text", y_form(value), x=_LEFT - 6, y=down + 4, class_="tick end"),
            ],
        )
    bottom = height - _BOTTOM
    for value in x.ticks(5):
        across = round(x(value), 1)
        extended(drawing, [element("text", x_form(value), x=across, y=bottom + 16, class_="tick middle")])
    extended(
        drawing,
        [
            element("path", class_="axis", d=f"M{_LEFT} {bottom}H{_WIDTH - _RIGHT}"),
            element(
                "text", axes.x_label, x=(_LEFT + _WIDTH - _RIGHT) / 2, y=height - 6, class_="label middle"
            ),
            element("text", axes.y_label, x=_LEFT - 38, y=14, class_="label") if axes.y_label else None,
        ],
    )
    return drawing


def strip(title: str, parts: Sequence[tuple[str, int, float]], *, name: str) -> Element:
    """A policy as one strip: a part for each layer, as wide as it is large, in the colour of its bits.

    Args:
        title: What is shown.
        parts: Layer, bits and size, in the order of the network.
        name: Name of the drawing, unique on the page.
    """
    total = sum(size for _, _, size in parts) or 1.0
    drawing = element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", "The table beside has the same numbers.", id=f"{name}-text"),
        viewBox="0 0 1000 30",
        preserveAspectRatio="none",
        role="img",
        aria_labelledby=f"{name}-title {name}-text",
        class_="strip",
    )
    across = 0.0
    for layer, bits, size in parts:
        width = 1000 * size / total
        tip = element("title", f"{layer}: {bits} bits, {size / total:.1%}")
        drawing.append(
            element(
                "rect", tip, x=round(across, 2), y=0, width=round(width, 2), height=30, class_=f"bits{bits}"
            )
        )
        across += width
    return drawing


def spread(scale: Scale, low: float, high: float, middle: float, ticks: Sequence[float]) -> Element:
    """A row of a table of times: a bar from low to high, the median, and the median of each process.

    Args:
        scale: From times to 0 to 200.
        low: Where the bar begins.
        high: Where it ends.
        middle: The median.
        ticks: Medians of the processes.
    """
    bar = element(
        "rect", x=round(scale(low), 1), y=8, width=max(round(scale(high) - scale(low), 1), 1), height=8,
        class_="times",
    )  # fmt: skip
    marks = [element("path", d=f"M{scale(value):.1f} 5v14", class_="process") for value in ticks]
    dot = element("circle", cx=round(scale(middle), 1), cy=12, r=4, class_="median")
    return element("svg", bar, *marks, dot, viewBox="0 0 200 24", class_="spread", aria_hidden="true")


_LOG_RATIO = 5.0
"""Values that differ by more are drawn on a logarithmic axis."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear or logarithmic axis.

    Attributes:
        low: Value at `start`.
        high: Value at `stop`.
        start: Place of the smallest value.
        stop: Place of the largest.
        log: Whether equal distances are equal ratios.
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value."""
        change: Callable[[float], float] = math.log if self.log else float
        share = (change(value) - change(self.low)) / (change(self.high) - change(self.low))
        return self.start + share * (self.stop - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Round values within the axis."""
        return _log_ticks(self.low, self.high, most) if self.log else _linear_ticks(self.low, self.high, most)


def fitted(values: Sequence[float], start: float, stop: float, *, log: bool | None = False) -> Scale:
    """A scale around values, with some room beside them.

    Args:
        values: At least one, finite.
        start: Place of the smallest.
        stop: Place of the largest.
        log: None for logarithmic if the values are positive and far apart.
    """
    low, high = min(values), max(values)
    if log is None:
        log = low > 0 and high / low > _LOG_RATIO
    if log:
        room = max((high / low) ** 0.08, 1.05)
        return Scale(low / room, high * room, start, stop, True)
    margin = 0.08 * (high - low) or abs(high) * 0.05 or 1.0
    return Scale(low - margin, high + margin, start, stop)


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high]
        if len(found) <= most:
            break
    return found if len(found) > 1 else _linear_ticks(low, high, most)
