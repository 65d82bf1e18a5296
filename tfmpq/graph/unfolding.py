"""A convolution as a matrix product: which operators bring its windows side by side, and what they cost.

The operators move codes and compute nothing, so the product's accumulators are those of the convolution,
exactly: padding, a view that splits rows and columns by the strides, slices that are shifted against each
other, and concatenations along the channels. Each pixel of the result holds one window in the order (row,
column, channel) of the kernel, whatever the operators, so that weights keep the order of the convolution's.

Strides need no strided slices, which XNNPACK does not have. With strides (s, t) an image of (rows, columns,
channels) is the same memory as one of (rows / s, s * columns / t, t * channels): what lies s rows or t
columns apart becomes neighbours, by a RESHAPE.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Order = Literal["at once", "rows first"]
"""`at once`: all shifts are concatenated. `rows first`: the shifts along a row, then those of whole rows."""

ORDERS: tuple[Order, ...] = ("at once", "rows first")

MOST_CONCATENATED = 5
"""Tensors that XNNPACK concatenates in one go; more of them are concatenated part by part."""

MOST_TAPS = 128
"""Elements of the largest kernel that is unfolded, somewhat more than 11x11."""

StepKind = Literal["PAD", "RESHAPE", "SLICE", "CONCATENATION"]

Pair = tuple[int, int]
Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Step:
    """One operator.

    Attributes:
        kind: LiteRT's name of it.
        inputs: What it reads: 0 is the input of the layer, n the output of the n-th step.
        shape: (rows, columns, channels) of its output.
        begin: Of a SLICE: its first (row, column, channel).
        pads: Of a PAD: rows and columns (before, after).
    """

    kind: StepKind
    inputs: tuple[int, ...]
    shape: Shape
    begin: Shape = (0, 0, 0)
    pads: tuple[Pair, Pair] = ((0, 0), (0, 0))


@dataclass(frozen=True, slots=True)
class Window:
    """How an ungrouped convolution reads its input.

    Attributes:
        image: (rows, columns, channels) of the input.
        kernel: Rows and columns of the kernel.
        strides: Rows and columns from one window to the next.
        dilation: Rows and columns from one element of the kernel to the next.
        padding: `same` or `valid`, as TensorFlow defines them.
    """

    image: Shape
    kernel: Pair
    strides: Pair = (1, 1)
    dilation: Pair = (1, 1)
    padding: str = "valid"

    @property
    def pads(self) -> tuple[Pair, Pair]:
        """Rows and columns (before, after) that `same` adds."""
        found = []
        for size, extent, stride, step in zip(
            self.image[:2], self.kernel, self.strides, self.dilation, strict=True
        ):
            missing = (-(-size // stride) - 1) * stride + (extent - 1) * step + 1 - size
            total = max(0, missing) if self.padding == "same" else 0
            found.append((total // 2, total - total // 2))
        return found[0], found[1]

    @property
    def output(self) -> Pair:
        """Rows and columns of the output."""
        rows, columns = (
            (size + sum(pad) - (extent - 1) * step - 1) // stride + 1
            for size, pad, extent, step, stride in zip(
                self.image[:2], self.pads, self.kernel, self.dilation, self.strides, strict=True
            )
        )
        return rows, columns

    @property
    def fan_in(self) -> int:
        """Codes in one window."""
        return math.prod(self.kernel) * self.image[2]

    @property
    def is_pointwise(self) -> bool:
        """Whether every window is one pixel and every pixel is one, so that nothing has to be moved."""
        return self.kernel == self.strides == (1, 1)

    @property
    def is_unfoldable(self) -> bool:
        """Whether there is something to be moved, and not more than is worth it."""
        return not self.is_pointwise and math.prod(self.kernel) <= MOST_TAPS

    def unfold(self, order: Order) -> tuple[Step, ...]:
        """The operators whose last result has a window in each pixel: (*output, fan_in)."""
        plan = _Plan(self)
        return plan.rows_first() if order == "rows first" else plan.at_once()

    def to_record(self) -> dict[str, Any]:
        """All but the input as JSON types; what is usual is left out."""
        record: dict[str, Any] = {"kernel": list(self.kernel), "padding": self.padding}
        for key, pair in (("strides", self.strides), ("dilation", self.dilation)):
            if pair != (1, 1):
                record[key] = list(pair)
        return record

    @classmethod
    def from_record(cls, image: Shape, record: Mapping[str, Any]) -> Window:
        """The inverse of `to_record`.

        Raises:
            ValueError: The record is damaged.
        """
        pairs = [record.get(key, [1, 1]) for key in ("kernel", "strides", "dilation")]
        for pair in pairs:
            if (
                not isinstance(pair, list)
                or len(pair) != 2
                or not all(type(n) is int and n > 0 for n in pair)
            ):
                raise ValueError(f"a convolution with {pair} where two positive numbers belong")
        if record.get("padding") not in ("same", "valid"):
            raise ValueError(f"a convolution with padding {record.get('padding')}")
        kernel, strides, dilation = ((pair[0], pair[1]) for pair in pairs)
        window = cls(image, kernel, strides, dilation, record["padding"])
        if not window.is_unfoldable:
            raise ValueError(f"an unfolded convolution of {kernel[0]}x{kernel[1]} taps")
        return window


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the operators of an unfolding do to memory.

    Attributes:
        copied: Bytes that are written.
        runs: Pieces of memory that are copied each in one go.
        operators: Number of operators.
        scratch: Most bytes that are alive beside the input: a concatenation and all that it reads.
    """

    copied: int
    runs: int
    operators: int
    scratch: int


def traffic(window: Window, order: Order) -> Traffic:
    """Count what an unfolding moves; codes have one byte."""
    steps = window.unfold(order)
    shapes = [window.image, *(step.shape for step in steps)]
    copied = runs = scratch = 0
    for step in steps:
        size = math.prod(step.shape)
        if step.kind == "RESHAPE":
            copied, runs = copied + size, runs + 1
            continue
        copied += size
        if step.kind == "CONCATENATION":
            runs += len(step.inputs) * step.shape[0] * step.shape[1]
            scratch = max(scratch, size + sum(math.prod(shapes[i]) for i in step.inputs if i))
        else:
            runs += _runs(shapes[step.inputs[0]], step.shape)
            scratch = max(scratch, size)
    return Traffic(copied, runs, len(steps), scratch)


def _runs(source: Shape, shape: Shape) -> int:
    """Pieces in which a part of an image is copied: whole rows lie together, and whole columns in a row."""
    if source[2] != shape[2]:
        return shape[0] * shape[1]
    return shape[0] if source[1] != shape[1] else 1


@dataclass
class _Plan:
    """Collects the steps of one window."""

    window: Window
    steps: list[Step] = field(default_factory=list)

    def at_once(self) -> tuple[Step, ...]:
        source = self._strided()
        taps = [self._tap(row) for row in range(self.window.kernel[0])]
        self._concatenate(
            [
                piece
                for down, phase in taps
                for piece in self._line(source, phase, down, self.window.output[0])
            ]
        )
        return tuple(self.steps)

    def rows_first(self) -> tuple[Step, ...]:
        """Windows of one row in every row, a tensor for each remainder that strides leave; then the rows."""
        source = self._strided()
        taps = [self._tap(row) for row in range(self.window.kernel[0])]
        rows, columns = self.window.output
        lines: dict[int, int] = {}
        pieces = []
        for down, phase in taps:
            if sum(other == phase for _, other in taps) == 1:
                pieces.append(self._concatenate(self._line(source, phase, down, rows)))
                continue
            if phase not in lines:
                lines[phase] = self._concatenate(self._line(source, phase, 0, self._shape(source)[0]))
            channels = self._shape(lines[phase])[2]
            pieces.append(self._slice(lines[phase], (down, 0, 0), (rows, columns, channels)))
        self._concatenate(pieces)
        return tuple(self.steps)

    def _tap(self, row: int) -> Pair:
        """Where a row of the kernel lies in a strided view: rows further down, and image in a row."""
        down, phase = divmod(row * self.window.dilation[0], self.window.strides[0])
        return down, phase

    def _line(self, source: int, phase: int, down: int, rows: int) -> list[int]:
        """Slices for one row of the kernel, shifted along a row against each other."""
        left, columns = phase * (self._shape(source)[1] // self.window.strides[0]), self.window.output[1]
        return [
            self._slice(source, (down, left + right, first), (rows, columns, channels))
            for right, first, channels in self._groups()
        ]

    def _strided(self) -> int:
        """Pad, to whole strides as well, and split rows and columns by the strides."""
        window = self.window
        pads: list[Pair] = []
        for size, (before, after), stride in zip(window.image[:2], window.pads, window.strides, strict=True):
            pads.append((before, after + -(size + before + after) % stride))
        rows, columns = (size + sum(pad) for size, pad in zip(window.image[:2], pads, strict=True))
        channels, (down, right) = window.image[2], window.strides
        source = 0
        if any(map(any, pads)):
            source = self._add(Step("PAD", (0,), (rows, columns, channels), pads=(pads[0], pads[1])))
        if window.strides != (1, 1):
            split = (rows // down, down * (columns // right), right * channels)
            source = self._add(Step("RESHAPE", (source,), split))
        return source

    def _groups(self) -> list[tuple[int, int, int]]:
        """Columns of the kernel that lie side by side: (column, first channel, channels) of each group."""
        channels, step, stride = self.window.image[2], self.window.dilation[1], self.window.strides[1]
        found: list[tuple[int, int, int]] = []
        for tap in range(self.window.kernel[1]):
            right, phase = divmod(tap * step, stride)
            if found and found[-1][0] == right and found[-1][1] + found[-1][2] == phase * channels:
                found[-1] = (right, found[-1][1], found[-1][2] + channels)
            else:
                found.append((right, phase * channels, channels))
        return found

    def _shape(self, number: int) -> Shape:
        return self.steps[number - 1].shape if number else self.window.image

    def _slice(self, source: int, begin: Shape, shape: Shape) -> int:
        if shape == self._shape(source):
            return source
        return self._add(Step("SLICE", (source,), shape, begin=begin))

    def _concatenate(self, pieces: list[int]) -> int:
        if len(pieces) == 1:
            return pieces[0]
        if len(pieces) > MOST_CONCATENATED:
            parts = -(-len(pieces) // MOST_CONCATENATED)
            ends = [len(pieces) * part // parts for part in range(parts + 1)]
            return self._concatenate([self._concatenate(pieces[a:b]) for a, b in itertools.pairwise(ends)])
        shapes = [self._shape(piece) for piece in pieces]
        total = sum(shape[2] for shape in shapes)
        return self._add(Step("CONCATENATION", tuple(pieces), (*shapes[0][:2], total)))

    def _add(self, step: Step) -> int:
        self.steps.append(step)
        return len(self.steps)
