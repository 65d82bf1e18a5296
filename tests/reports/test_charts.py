"""Elements, axes, fronts: identities that hold for every input."""

from __future__ import annotations

import itertools
import math
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tfmpq.reports.charts import Point, Scale, course, fitted, scatter, spread, strip
from tfmpq.reports.markup import clean, element, html, standalone_svg
from tfmpq.reports.networks import front

NUMBERS = st.floats(-1e12, 1e12).filter(lambda value: value == 0 or abs(value) > 1e-9)


class Texts(HTMLParser):
    """Collects the texts and attribute values of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self.values: list[str | None] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += [value for _, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def parsed(text: str) -> Texts:
    parser = Texts()
    parser.feed(text)
    parser.close()
    return parser


@given(st.text())
def test_every_text_comes_back_as_text(text: str) -> None:
    page = parsed(html(element("p", element("b", "x"), text, title=text)))
    assert page.tags == ["p", "b"]
    # A parser reads the line ends of all systems as one.
    assert "".join(page.texts).strip("\n") == ("x" + clean(text)).strip("\n")
    assert page.values == [clean(text)]


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", '"><img src=x>', "&amp;", "a\x00b", "\udcff", "\u202eb"]
)
def test_hostile_text_stays_text(text: str) -> None:
    made = html(element("p", text, title=text))
    made.encode("utf-8")
    assert parsed(made).tags == ["p"]
    drawing = standalone_svg(element("svg", element("title", text)), "")
    assert ElementTree.fromstring(drawing).find(".//{*}title").text == clean(text)


@given(st.lists(NUMBERS, min_size=1, max_size=9))
def test_values_lie_on_their_axis_in_order(values: list[float]) -> None:
    scale = fitted(values, 10, 200)
    places = [scale(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(10 - 1e-6 <= place <= 200 + 1e-6 for place in places)
    ticks = scale.ticks()
    assert ticks == sorted(ticks)
    assert len(ticks) <= 12
    assert all(10 - 1e-3 <= scale(tick) <= 200 + 1e-3 for tick in ticks)


@given(st.floats(1e-6, 1e9), st.floats(6, 1e6))
def test_far_values_get_a_logarithmic_axis(low: float, ratio: float) -> None:
    scale = fitted([low, low * ratio], 0, 100, log=None)
    assert scale.log
    middle = scale(low * math.sqrt(ratio))
    assert middle == pytest.approx((scale(low) + scale(low * ratio)) / 2, abs=1e-6)
    assert len(scale.ticks()) >= 1


def test_ticks_are_round() -> None:
    assert Scale(0, 100, 0, 1).ticks(4) == [0, 25, 50, 75, 100]
    assert Scale(0.9, 9.3, 0, 1).ticks(5) == [2, 4, 6, 8]
    assert Scale(70, 2100, 0, 1, log=True).ticks(5) == [100, 200, 500, 1000, 2000]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_the_front_is_what_nobody_beats(points: list[tuple[int, int]]) -> None:
    def beaten(point: tuple[int, int]) -> bool:
        return any(x <= point[0] and y >= point[1] and (x, y) != point for x, y in points)

    found = front(points)
    assert {points[index] for index in found} == {point for point in points if not beaten(point)}
    assert all(points[a][0] < points[b][0] for a, b in itertools.pairwise(found))


def test_a_course_shows_first_and_last_values_and_skips_gaps() -> None:
    values = np.r_[np.nan, np.linspace(3, 1, 400)]
    drawing = course("Loss", [("loss", values)], lambda v: f"{v:.2f}", name="a")
    assert drawing.find("desc").text == "loss from 3.00 to 1.00"
    kinds = [path.get("class") for path in drawing.iter("path")]
    assert "band series0" in kinds
    assert "line series0" in kinds


def test_a_course_of_one_step_is_drawn() -> None:
    drawing = course("Loss", [("loss", np.array([2.0]))], lambda v: f"{v:.2f}", name="a")
    assert "nan" not in ElementTree.tostring(drawing, encoding="unicode")


@given(st.lists(st.tuples(st.floats(1, 1e9), st.floats(0, 100)), min_size=1, max_size=20))
def test_points_stay_inside_their_drawing(values: list[tuple[float, float]]) -> None:
    points = [Point(i + 1, x, y, "searched", "t", y_error=0.4) for i, (x, y) in enumerate(values)]
    drawing = scatter("t", "size", points, front(values), str, name="a")
    moved = [path.get("transform") for path in drawing.iter("path") if path.get("transform")]
    places = [tuple(map(float, text[10:-1].split())) for text in moved]
    assert len(places) == len(values)
    assert (drawing.findtext("desc") or "").startswith(
        "1 network; " if len(values) == 1 else f"{len(values)} networks;"
    )
    assert all(0 <= x <= 420 and 0 <= y <= 300 for x, y in places)


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=60))
def test_a_strip_is_as_wide_as_its_layers_are_large(sizes: list[int]) -> None:
    drawing = strip("t", [(str(i), 4, float(size)) for i, size in enumerate(sizes)], name="a")
    widths = [float(part.get("width", "nan")) for part in drawing.iter("rect")]
    assert widths == pytest.approx([1000 * size / sum(sizes) for size in sizes], abs=0.006)


@given(NUMBERS, NUMBERS)
def test_a_spread_is_finite(low: float, high: float) -> None:
    assume(low < high)
    drawing = spread(Scale(low, high, 4, 196), low, high, low, [high])
    assert float(drawing.find("rect").get("width")) == pytest.approx(192, abs=0.1)
