"""Single drawings of results, for notebooks and files: the project's own SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfmpq.errors import UsageError
from tfmpq.files import write_text
from tfmpq.reports.charts import Point, course, scatter, strip
from tfmpq.reports.folders import read_steps
from tfmpq.reports.markup import Element, standalone_svg
from tfmpq.reports.page import drawing_style
from tfmpq.training.run_folder import Stage
from tfmpq.units import bytes_text

_FAMILIES = {"float32": "float", "int8": "uniform", "mixed": "searched"}


@dataclass(frozen=True, slots=True)
class Drawing:
    """A drawing: a notebook shows it, and `save` writes it.

    Attributes:
        svg: The drawing as SVG.
    """

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"Drawing of {len(self.svg)} characters of SVG; save(PATH) writes it."

    def save(self, path: str | Path) -> None:
        """Write an `.svg` file.

        Raises:
            UsageError: The name has another ending.
        """
        if Path(path).suffix != ".svg":
            raise UsageError(f"A drawing is an .svg file. Received: {path}. Name one.")
        write_text(Path(path), self.svg)


def _drawing(element: Element) -> Drawing:
    return Drawing(standalone_svg(element, drawing_style()))


def policy_drawing(bits: Mapping[str, int]) -> Drawing:
    """The width of each layer, in the order of the network."""
    parts = [(layer, width, 1.0) for layer, width in bits.items()]
    return _drawing(strip("Bits by layer, first layer left", parts, name="policy"))


def loss_drawing(run: Path, stage: str) -> Drawing:
    """The course of a training's loss.

    Raises:
        UsageError: No step was trained.
    """
    losses = read_steps(Stage(run, stage).path(".csv")).get("loss", np.empty(0))
    if not np.isfinite(losses).any():
        raise UsageError(
            f"A course has steps. Received: {run}, in which nothing was trained. Train an epoch."
        )
    return _drawing(course("Loss", [("loss", losses)], lambda value: f"{value:.3g}", name="loss"))


def size_drawing(networks: Sequence[tuple[str, int, float]]) -> Drawing:
    """Top-1, 0 to 1, against bytes of networks with names."""
    points = [
        Point(number, size, 100 * top1, _FAMILIES.get(name, "other"), f"{name}: {100 * top1:.2f} %")
        for number, (name, size, top1) in enumerate(networks, 1)
    ]
    return _drawing(scatter("Accuracy and size", "size", points, (), bytes_text, name="sizes"))
