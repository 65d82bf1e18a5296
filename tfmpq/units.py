"""Numbers as people read them: decimal units, four digits."""

from __future__ import annotations

from collections.abc import Sequence


def bytes_text(value: float) -> str:
    """Decimal units, as a budget reads them: 1 kB is 1000 bytes."""
    return _scaled(value, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))) or f"{value:.0f} B"


def bops_text(value: float) -> str:
    """For example `3.2 G`."""
    return _scaled(value, ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))) or f"{value:.0f}"


def points_text(share: float) -> str:
    """A share of 0 to 1 as points: `1 point` for 0.01."""
    points = f"{100 * share:.3g}"
    return f"{points} point{'' if points in ('1', '-1') else 's'}"


def percent_text(share: float) -> str:
    """A share of 0 to 1 in percent: `1%` for 0.01."""
    return f"{100 * share:.3g}%"


def _scaled(value: float, units: Sequence[tuple[float, str]]) -> str | None:
    for factor, unit in units:
        if abs(value) >= factor:
            return f"{value / factor:.4g} {unit}"
    return None
