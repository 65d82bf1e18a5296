"""The course that all verbs share: prepare, do the work with progress on stderr, print one result."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

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
    from . import render
    from .reporter import terminal_reporter

    with terminal_reporter() as reporter:
        result = call(function, reporter).to_json()
    if as_json:
        render.write_json(result, stdout)
    else:
        render.write_text(verb, result, stdout)
    return result
