"""The base of what verbs return."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import pytest

from tfmpq.results import Result


@dataclass(frozen=True, slots=True)
class Row:
    bits: int


@dataclass(frozen=True, slots=True)
class Table(Result):
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Titled(Table):
    title: str

    def to_json(self) -> dict[str, Any]:
        return Result.to_json(self) | {"count": len(self.rows)}


def test_a_result_says_its_fields_and_those_of_the_records_inside() -> None:
    assert Table((Row(4), Row(8))).to_json() == {"rows": ({"bits": 4}, {"bits": 8})}
    assert Titled((Row(4),), "one").to_json() == {"rows": ({"bits": 4},), "title": "one", "count": 1}


def test_a_result_takes_no_new_attributes() -> None:
    with pytest.raises((FrozenInstanceError, TypeError, AttributeError)):
        Table(()).more = 1  # type: ignore[attr-defined]
