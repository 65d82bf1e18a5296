"""What a compression says: a table to decide by, the front, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from tfmpq.api.compress_search import Searched
from tfmpq.policy.policy import Policy
from tfmpq.reports.drawings import Drawing, size_drawing
from tfmpq.results import Result
from tfmpq.tasks.paired import Pairing, standard_error

if TYPE_CHECKING:
    from tfmpq.deploy.export import ExportReport


@dataclass(frozen=True, slots=True)
class CompressedRow:
    """One file of the table.

    Attributes:
        file: `float32`, `int8`, `this file` or `next smaller`.
        bytes: Its size.
        mean_weight_bits: Mean bits of a weight.
        score: Share of right answers on the held-out images, 0 to 1; None where nothing is scored.
        error: Standard error of `score`.
        drop: How much lower that is than the float network's, 0 to 1.
        drop_error: Standard error of `drop`, from both networks' answers to the same images.
        drop_at_most: Upper confidence bound of `drop`.
        median_ms: Median latency of one image on this machine, one thread; None where it was not measured.
    """

    file: str
    bytes: int
    mean_weight_bits: float
    score: float | None
    error: float | None
    drop: float | None
    drop_error: float | None
    drop_at_most: float | None
    median_ms: float | None


@dataclass(frozen=True, slots=True)
class FrontEntry:
    """One policy of the front.

    Attributes:
        size: Bytes of its weights, scales and biases in the file.
        mean_weight_bits: Mean bits of a weight.
        expected: Sum of the measured divergences of its layers, in nats; None for widths without one.
        bytes: Size of its file; None for policies that were not tried.
        score: As in `CompressedRow`, as all that follow.
        error: The same.
        drop: The same.
        drop_at_most: The same.
        chosen: Whether it is the file that was written.
    """

    size: int
    mean_weight_bits: float
    expected: float | None
    bytes: int | None
    score: float | None
    error: float | None
    drop: float | None
    drop_at_most: float | None
    chosen: bool


@dataclass(frozen=True, slots=True)
class CompressReport(Result, verb="compress"):
    """What was written, beside what it is compared with.

    Attributes:
        export: The file that was written.
        policy: Its bit-widths.
        smaller: Bit-widths of the next smaller candidate, which lost too much: what fine-tuning could begin
            with. None without one.
        asked: What was asked for, such as `max-drop 1%`.
        score: What the scores are: `top-1` or `agreement with the float model`; None where nothing is scored.
        images: Number of held-out images.
        confidence: Confidence of the bounds.
        table: The files to decide between.
        front: The whole front, from the largest to the smallest.
        advice: What to do next.
        warnings: What to know before using the file.
        seconds: Wall-clock time.
        page: The page about the front; None without one.
    """

    export: ExportReport
    policy: Policy
    smaller: Policy | None
    asked: str
    score: str | None
    images: int
    confidence: float
    table: tuple[CompressedRow, ...]
    front: tuple[FrontEntry, ...]
    advice: tuple[str, ...]
    warnings: tuple[str, ...]
    seconds: float
    page: str | None

    def to_json(self) -> dict[str, Any]:
        """All fields; `bits` and `smaller_bits` are the weight bits by layer."""
        told = {name: getattr(self, name) for name in ("asked", "score", "images", "confidence", "page")}
        return {
            "path": self.export.path,
            **told,
            "table": [asdict(row) for row in self.table],
            "advice": list(self.advice),
            "warnings": list(self.warnings),
            "bits": self.policy.weight_bits,
            "smaller_bits": self.smaller.weight_bits if self.smaller else None,
            "front": [asdict(entry) for entry in self.front],
            "export": self.export.to_json(),
            "seconds": self.seconds,
        }

    def plot(self) -> Drawing:
        """Scores of the files of the table against their bytes."""
        named = {"this file": "mixed"}
        rows = [(named.get(r.file, r.file), r.bytes, r.score) for r in self.table if r.score is not None]
        return size_drawing(rows)


def compressed_row(
    file: str, size: int, bits: float, pairing: Pairing | None, score: float | None, confidence: float | None
) -> CompressedRow:
    """A row of the table, not timed yet; without a confidence, that of the float network itself."""
    if pairing is None or score is None:
        return CompressedRow(file, size, bits, None, None, None, None, None, None)
    bound = None if confidence is None else pairing.at_most(confidence)
    error = standard_error(score, pairing.count)
    return CompressedRow(file, size, bits, score, error, pairing.drop, pairing.error, bound, None)


def front_entries(found: Searched, mean_bits: Sequence[float], confidence: float) -> tuple[FrontEntry, ...]:
    """The whole front.

    Args:
        found: What was searched.
        mean_bits: Mean bits of a weight of each point.
        confidence: Of the bounds.
    """
    entries = []
    for index, (point, bits) in enumerate(zip(found.points, mean_bits, strict=True)):
        entry = FrontEntry(
            point.size, bits, point.expected, None, None, None, None, None, index == found.chosen
        )
        tried = found.tried.get(index)
        if tried is not None:
            entry = replace(entry, bytes=tried.bytes)
            if tried.pairing is not None and tried.score is not None:
                entry = replace(
                    entry,
                    score=tried.score,
                    error=standard_error(tried.score, tried.pairing.count),
                    drop=tried.pairing.drop,
                    drop_at_most=tried.pairing.at_most(confidence),
                )
        entries.append(entry)
    return tuple(entries)
