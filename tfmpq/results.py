"""The base of everything that a verb returns."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any


class Result:
    """An immutable record of what was done or found; a subclass is a frozen dataclass with slots.

    A subclass that says more or less than its fields calls `Result.to_json(self)`: in a dataclass with slots
    `super()` without arguments finds the class that the decorator replaced.
    """

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON types, those of records inside too."""
        return asdict(self)  # type: ignore[call-overload]  # subclasses are dataclasses
