"""HTML and SVG as trees of elements, so that every text that goes in is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

Element = ElementTree.Element
Child = Element | str | None

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
"""What XML cannot hold, and what makes text run the other way."""

SHORT = 24
"""Rows of a table that is shown unasked."""


def element(tag: str, *children: Child, **attributes: object) -> Element:
    """An element.

    Args:
        tag: Its name.
        children: Elements and texts; None is left out.
        attributes: An underscore stands for a hyphen, and is dropped at the end (`class_`). None leaves the
            attribute out.
    """
    named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
    made = Element(tag, {name: clean(_text(value)) for name, value in named.items() if value is not None})
    return extended(made, children)


def extended(parent: Element, children: Iterable[Child]) -> Element:
    """The element with more children."""
    for child in children:
        if isinstance(child, Element):
            parent.append(child)
        elif child is not None and len(parent):
            parent[-1].tail = (parent[-1].tail or "") + clean(child)
        elif child is not None:
            parent.text = (parent.text or "") + clean(child)
    return parent


def clean(text: str) -> str:
    """Text that a page can hold."""
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text)


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def html(page: Element) -> str:
    """A page as text."""
    return "<!doctype html>\n" + ElementTree.tostring(page, encoding="unicode", method="html") + "\n"


def standalone_svg(drawing: Element, style: str) -> str:
    """A drawing of a page as a file of its own, with the style sheet that it needs."""
    root = Element("svg", {**drawing.attrib, "xmlns": "http://www.w3.org/2000/svg"})
    root.append(element("style", style))
    root.extend(drawing)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def table(
    caption: str, header: Sequence[str], rows: Iterable[Sequence[Child]], numeric: Sequence[int] = ()
) -> Element:
    """A table that scrolls by itself where the page is narrow.

    Args:
        caption: Its title.
        header: Names of the columns.
        rows: Cells; the first one of each row is its header.
        numeric: Columns of numbers.
    """

    def kind(column: int) -> str | None:
        return "number" if column in numeric else None

    head = element("tr", *(element("th", name, scope="col", class_=kind(i)) for i, name in enumerate(header)))
    body = [
        element(
            "tr",
            *(
                element("td" if i else "th", cell, class_=kind(i), scope=None if i else "row")
                for i, cell in enumerate(row)
            ),
        )
        for row in rows
    ]
    made = element("table", element("caption", caption), element("thead", head), element("tbody", *body))
    return element("div", made, class_="scroll", role="region", tabindex="0", aria_label=caption)


def bar(share: float, bits: int | None) -> Element:
    """A bar in a cell of a table, in the colour of a bit-width.

    Args:
        share: Its length, 0 to 1.
        bits: None for a neutral colour.
    """
    inner = element(
        "i", class_="neutral" if bits is None else f"bits{bits}", style=f"width:{100 * share:.1f}%"
    )
    return element("span", inner, class_="bar", aria_hidden="true")
