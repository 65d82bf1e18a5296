"""The course that all verbs share: prepare, do the work with progress on stderr, print one result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tfmpq.progress import Reporter

from . import environment


class Result(Protocol):
    """What the functions behind the verbs return."""

    def to_json(self) -> dict[str, Any]:
        """All that is known, as JSON types."""


def perform(verb: str, as_json: bool, work: Callable[[Reporter], Result]) -> None:
    """Run the work of a verb and print its result to stdout, as text or as one JSON object.

    Args:
        verb: Name of the verb; decides how the text looks.
        as_json: Print JSON instead of text.
        work: Imports the function behind the verb, only then, and calls it.
    """
    environment.prepare()
    stdout = environment.claim_stdout()
    from . import render
    from .reporter import terminal_reporter

    with terminal_reporter() as reporter:
        result = work(reporter).to_json()
    if as_json:
        render.write_json(result, stdout)
    else:
        render.write_text(verb, result, stdout)
