"""From values to places on a drawing, and the round values that an axis names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
