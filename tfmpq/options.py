"""Options of the verbs: records whose fields are written down once.

The keyword arguments of the Python verbs, the options of the command line, what a run folder records and the
table in docs/cli.md are made from them. Nothing heavy is imported here, so that the command line can read it.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from tfmpq.errors import UsageError

Kind = Literal[
    "whole",
    "number",
    "word-or-whole",
    "yes-no",
    "switch",
    "text",
    "texts",
    "bits",
    "file",
    "folder",
    "object",
]
"""What an option holds. `yes-no` has two flags on the command line, `switch` one, an `object` none.
`word-or-whole` is one of `choices`, or a number."""

Recorded = Literal["always", "given", "never"]
"""Whether a run folder records an option: always, where it is not the default, or never."""

LEAST_BITS, MOST_BITS = 2, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One option.

    Attributes:
        kind: What it holds.
        help: What it is, in the words of the command line's help.
        shown: What the help says of a default of None.
        flag: Its name on the command line; None for the field's.
        metavar: What the help calls its value.
        choices: The only values.
        least: Smallest value; excluded if `open`.
        most: Largest value; excluded if `open`.
        open: Whether `least` and `most` themselves are excluded.
        many: Whether the command line takes it several times.
        section: Heading that the help lists it under; None for the plain ones.
        envvar: Environment variable that the command line reads.
        recorded: Whether run folders record it.
    """

    kind: Kind
    help: str
    shown: str | None = None
    flag: str | None = None
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    least: float | None = None
    most: float | None = None
    open: bool = False
    many: bool = False
    section: str | None = None
    envvar: str | None = None
    recorded: Recorded = "always"


def option(default: Any, kind: Kind, help: str, **more: Any) -> Any:
    """A field of a record of options; `more` as in `Spec`."""
    return dataclasses.field(default=default, metadata={"spec": Spec(kind=kind, help=help, **more)})


AnyOptions = TypeVar("AnyOptions", bound="Options")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a verb; a subclass has a field for each, made by `option`.

    Raises:
        UsageError: A value is of another type, out of range or unknown.
    """

    def __post_init__(self) -> None:
        for name, spec in self.specs().items():
            object.__setattr__(self, name, checked(name, getattr(self, name), spec))

    @classmethod
    def specs(cls) -> dict[str, Spec]:
        """The options, by name of the field."""
        return {field.name: field.metadata["spec"] for field in fields(cls)}

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The defaults, by name of the field."""
        return {field.name: field.default for field in fields(cls)}

    @classmethod
    def of(cls: type[AnyOptions], given: Options | None, changes: Mapping[str, Any]) -> AnyOptions:
        """The options of a call: those of a record with single ones changed.

        Raises:
            UsageError: The record is of another verb, or a name or a value is unknown.
        """
        known = cls.specs()
        for name in changes:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"Did you mean {near[0]}?" if near else f"They are {', '.join(sorted(known))}."
                raise UsageError(f"{cls.__name__} has no option {name}. {hint}")
        if given is None:
            return cls(**changes)
        if type(given) is not cls:
            raise UsageError(f"options is a {cls.__name__}. Received: {type(given).__name__}. Make one.")
        return dataclasses.replace(given, **changes) if changes else given

    @property
    def values(self) -> dict[str, Any]:
        """All options, by name of the field."""
        return {name: getattr(self, name) for name in self.specs()}

    @property
    def changed(self) -> dict[str, Any]:
        """The options that have another value than their default."""
        return {name: value for name, value in self.values.items() if value != self.defaults()[name]}

    def record(self) -> dict[str, Any]:
        """What decides the result, as JSON types: all options that run folders record."""
        changed = self.changed
        return {
            name: _as_json(getattr(self, name))
            for name, spec in self.specs().items()
            if spec.recorded == "always" or (spec.recorded == "given" and name in changed)
        }


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


def checked(name: str, value: Any, spec: Spec) -> Any:
    """A value of an option in its usual type: a text or a number alone where several may be is one of them.

    Raises:
        UsageError: It is no such value.
    """
    if value is None and spec.kind not in ("bits", "texts"):
        return None
    if spec.kind == "bits":
        return _bits(name, value, spec.choices or ())
    if spec.kind == "texts":
        return _texts(name, value)
    if spec.kind in ("yes-no", "switch"):
        return _of_type(name, value, bool, "True or False")
    if spec.kind == "object":
        return value
    if spec.kind in ("file", "folder"):
        return _of_type(name, value, str | Path, "a path")
    if spec.kind == "word-or-whole":
        return _word_or_whole(name, value, spec)
    if spec.kind == "text":
        value = _of_type(name, value, str, "a text")
        if spec.choices and value not in spec.choices:
            raise UsageError(
                f"{name} is one of {', '.join(spec.choices)}. Received: {value}. Take one of them."
            )
        return value
    return _number(name, value, spec)


def _of_type(name: str, value: Any, kind: Any, what: str) -> Any:
    if not isinstance(value, kind):
        raise UsageError(f"{name} is {what}. Received: {type(value).__name__} {value!r}. Correct it.")
    return value


def _number(name: str, value: Any, spec: Spec) -> Any:
    whole = spec.kind != "number"
    fits = isinstance(value, numbers.Integral if whole else numbers.Real) and not isinstance(value, bool)
    if fits and math.isfinite(value):
        below = spec.least is not None and (value < spec.least or (spec.open and value == spec.least))
        above = spec.most is not None and (value > spec.most or (spec.open and value == spec.most))
        if not below and not above:
            return int(value) if whole else float(value)
    what = "a whole number" if whole else "a number"
    least = f" {'above' if spec.open else 'from'} {spec.least:g}" if spec.least is not None else ""
    most = f" {'below' if spec.open else 'to'} {spec.most:g}" if spec.most is not None else ""
    raise UsageError(f"{name} is {what}{least}{most}. Received: {value!r}. Correct it.")


def _word_or_whole(name: str, value: Any, spec: Spec) -> Any:
    words = spec.choices or ()
    if value in words:
        return value
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    if isinstance(value, str):
        raise UsageError(
            f"{name} is a whole number from {spec.least:g} to {spec.most:g}, or {' or '.join(words)}. "
            f"Received: {value!r}. Correct it."
        )
    return _number(name, value, spec)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if value is None:
        return ()
    texts = tuple(value) if isinstance(value, Iterable) else (value,)
    if not all(isinstance(text, str) for text in texts):
        raise UsageError(f"{name} is a text or several. Received: {value!r}. Give texts.")
    return texts


def _bits(name: str, value: Any, choices: tuple[str, ...]) -> tuple[Any, ...]:
    for word in choices:
        if value in (word, (word,), [word]):
            return (word,)
    several = (value,) if isinstance(value, numbers.Integral) else value
    if isinstance(value, str):
        several = value.split(",")
    try:
        bits = sorted({int(width) for width in several})
    except (TypeError, ValueError):
        bits = []
    if not bits or bits[0] < LEAST_BITS or bits[-1] > MOST_BITS:
        words = "".join(f", or {word} alone" for word in choices)
        raise UsageError(
            f"Bit-widths are whole numbers from {LEAST_BITS} to {MOST_BITS}{words}. Received: "
            f"{name}={value!r}. Write 2,4,8."
        )
    return tuple(bits)
