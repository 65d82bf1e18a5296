"""The base of everything that a verb returns."""

from __future__ import annotations

import io
from dataclasses import asdict
from typing import Any, ClassVar, TypeVar

from tfmpq.tables import html, write_text

AnyResult = TypeVar("AnyResult", bound="Result")


class Result:
    """An immutable record of what was done or found; a subclass is a frozen dataclass with slots.

    It shows itself as the table that the command line prints. A subclass that says more or less than its
    fields calls `Result.to_json(self)`: in a dataclass with slots `super()` without arguments finds the class
    that the decorator replaced.
    """

    __slots__ = ("_kept",)

    verb: ClassVar[str] = ""
    """The command that prints such a result: `class Evaluation(Result, verb="evaluate")`."""

    def __init_subclass__(cls, verb: str | None = None) -> None:
        """Take the name of the command that prints such a result."""
        if verb is not None:  # `dataclass` makes the class a second time, without it
            cls.verb = verb
        # A dataclass writes a `__repr__` of its own unless the class has one.
        cls.__repr__ = Result.__repr__  # type: ignore[method-assign]

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON types, those of records inside too."""
        return asdict(self)  # type: ignore[call-overload]  # subclasses are dataclasses

    def keeping(self: AnyResult, *kept: Any) -> AnyResult:
        """The same result, which now holds objects that have to live as long as it does.

        A temporary run folder is removed when nothing holds it any more.
        """
        object.__setattr__(self, "_kept", (*self.kept, *kept))
        return self

    @property
    def kept(self) -> tuple[Any, ...]:
        """The objects that it holds."""
        return getattr(self, "_kept", ())

    def __repr__(self) -> str:
        """The tables that the command line prints, as text."""
        text = io.StringIO()
        write_text(self.verb, self.to_json(), text)
        return f"{type(self).__name__}\n{text.getvalue().rstrip()}"

    def _repr_html_(self) -> str:
        """The same tables for a notebook."""
        return html(self.verb, self.to_json())
