"""Click options made from the records of `tfmpq.options`, which say once what a verb can be asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from tfmpq.errors import UsageError
from tfmpq.options import Options, Spec, checked

from .options import Decorator, Sectioned, allow_code, finite, skip_damaged, stack


class Several(click.ParamType):
    """What a record of options takes apart itself: a list of bit-widths or texts, a word or a number."""

    def __init__(self, spec: Spec) -> None:
        self.name = spec.kind
        self._spec = spec

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the text; values that are parsed already pass."""
        if isinstance(value, tuple):
            return value
        try:
            found: Any = checked(self.name, value, self._spec)
        except UsageError as error:
            self.fail(str(error), param, ctx)
        return found


def options_of(
    record: type[Options],
    *names: str,
    without: tuple[str, ...] = (),
    callbacks: Mapping[str, Callable[..., Any]] | None = None,
    helps: Mapping[str, str] | None = None,
) -> Decorator:
    """Options for the fields of a record.

    Args:
        record: The record.
        names: Fields, in the order of the help; all but `without` by default.
        without: Fields that the verb has in another form, or not at all.
        callbacks: Checks of single options that the record leaves to the verb.
        helps: Texts of the command line's own for single options.
    """
    specs, defaults = record.specs(), record.defaults()
    wanted = names or [name for name in specs if name not in without]
    made = [
        _option(name, specs[name], defaults[name], (callbacks or {}).get(name), (helps or {}).get(name))
        for name in wanted
    ]
    # Every verb that reads data can leave damaged images out, every one that reads models can run their code.
    added = {"data_dir": skip_damaged, "weights": allow_code}
    return stack(*made, *(decorator for name, decorator in added.items() if name in wanted))


def _option(
    name: str, spec: Spec, default: Any, callback: Callable[..., Any] | None, text: str | None
) -> Decorator:
    flag = spec.flag or "--" + name.replace("_", "-")
    attributes: dict[str, Any] = {
        "help": (text or spec.help) + (f"  [default: {spec.shown}]" if spec.shown else ""),
        "default": default,
        "show_default": default is not None
        and default != ()
        and spec.kind != "switch"
        and spec.shown is None,
        "callback": callback or (finite if spec.kind == "number" else None),
        **_type(spec),
    }
    if spec.envvar:
        attributes |= {"envvar": spec.envvar, "show_envvar": True}
    if spec.metavar:
        attributes["metavar"] = spec.metavar
    if spec.kind == "bits":
        attributes["default"] = ",".join(map(str, default))
    if spec.kind == "yes-no":
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    if spec.section:
        attributes |= {"cls": Sectioned, "section": spec.section}
    return click.option(flag, name, **attributes)


def _type(spec: Spec) -> dict[str, Any]:
    """What Click has to know of the values."""
    if spec.kind == "whole":
        least, most = (None if end is None else int(end) for end in (spec.least, spec.most))
        return {"type": click.IntRange(least, most)}
    if spec.kind == "number":
        ends = {
            "min_open": spec.open and spec.least is not None,
            "max_open": spec.open and spec.most is not None,
        }
        return {"type": click.FloatRange(spec.least, spec.most, **ends)}
    if spec.kind == "switch":
        return {"is_flag": True}
    if spec.kind == "texts" and spec.many:
        return {"multiple": True}
    if spec.kind in ("texts", "bits", "word-or-whole"):
        return {"type": Several(spec)}
    if spec.kind in ("file", "folder"):
        kind = {"dir_okay": False} if spec.kind == "file" else {"file_okay": False}
        return {"type": click.Path(exists=True, path_type=Path, **kind)}
    return {"type": click.Choice(spec.choices)} if spec.choices else {}
