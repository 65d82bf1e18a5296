"""Damaged images: errors with their place, or left out, counted and said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tfmpq.errors import TfmpqError
from tfmpq.progress import Reporter

_skipped: ContextVar[bool] = ContextVar("tfmpq_skip_damaged", default=False)


@contextmanager
def skip_damaged() -> Iterator[None]:
    """Leave damaged images out of the data sets that are loaded while the context is open."""
    token = _skipped.set(True)
    try:
        yield
    finally:
        _skipped.reset(token)


def note_taker(reporter: Reporter) -> LeftOut | None:
    """What takes note of damaged images of a data set that is loaded now; None if they are errors."""
    return LeftOut(reporter) if _skipped.get() else None


class LeftOut:
    """Counts damaged images, and says of each where it is.

    Args:
        reporter: Told once about each.

    Attributes:
        places: Where they are.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.places: list[str] = []
        self._reporter = reporter

    def note(self, place: str) -> None:
        """Count the image at a place, unless it is known."""
        if place not in self.places:
            self.places.append(place)
            self._reporter.log(f"Left out: damaged image number {len(self.places)}, {place}.")


def damaged_image(place: str, error: Exception) -> TfmpqError:
    """The error for a compressed image that cannot be read or decoded."""
    return TfmpqError(
        f"Images must be whole PNG, JPEG or WebP files. Received: {place} ({type(error).__name__}). Remove "
        "or replace that image."
    )
