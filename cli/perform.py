"""The course that all verbs share: prepare, do the work with progress on stderr, print one result."""

from __future__ import annotations

import atexit
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import click

from . import environment


def perform(verb: str, module: str, as_json: bool, call: Callable[[Any, Any], Any]) -> dict[str, Any]:
    """Run the function behind a verb and print its result to stdout, as text or as one JSON object.

    Args:
        verb: Name of the verb, and of the function.
        module: Where the function is; imported only now.
        as_json: Print JSON instead of text.
        call: Receives the function and a `tfmpq.progress.Reporter`; returns the function's result, whose
            `to_json` says all that is known as JSON types.

    Returns:
        What was printed.
    """
    environment.prepare()
    stdout = environment.claim_stdout()
    with environment.hushed_stderr():
        function = getattr(importlib.import_module(module), verb)
    from tfmpq import tables
    from tfmpq.bars import terminal_reporter

    with terminal_reporter() as reporter:
        result = call(function, reporter).to_json()
    if as_json:
        tables.write_json(result, stdout)
    else:
        tables.write_text(verb, result, stdout)
    return result


def in_default_run(choices: dict[str, Any], model: str, data: str) -> dict[str, Any]:
    """The options of a call with the run folder that is named after model and data, unless one was given."""
    if choices["out"] is None:
        from tfmpq.training.run_folder import default_folder

        choices["out"] = default_folder(model, data)
    return choices


def under(strategy: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that trains by a strategy of `tfmpq.training.distribution`.

    Of several processes the chief alone returns and prints a result; the others end here.
    """
    if strategy == "single":
        return function

    def distributed(*args: Any, **choices: Any) -> Any:
        from tfmpq.training import distribution

        try:
            with distribution.strategy(strategy) as chief:  # type: ignore[arg-type]
                result = function(*args, **choices)
        except distribution.LostProcess:
            # The runtimes would wait for the lost process before they let this one end.
            atexit.register(_leave, distribution.LostProcess.exit_code)
            raise
        if not chief:
            raise click.exceptions.Exit(0)
        return result

    return distributed


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
