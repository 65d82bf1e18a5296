"""Result files of run folders, read and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tfmpq.errors import TfmpqError, UsageError
from tfmpq.policy.latency_table import FORMAT as LATENCY_TABLE
from tfmpq.reports.results import KINDS

Kind = TypeVar("Kind", bound=BaseModel)


def checked(kind: type[Kind], content: Any, path: Path) -> Kind:
    """Content of a file in its form.

    Raises:
        TfmpqError: A field is missing or of another type; it is named.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its content"
        raise TfmpqError(
            f"A result file is as tfmpq wrote it. Received: {path}, where {where} is wrong ({first['msg']}). "
            "Run the command that wrote it again."
        ) from error


def read_result(path: Path) -> Any:
    """The result in a file, as a `Result`; None if the JSON in it is something else.

    Raises:
        TfmpqError: The file is no JSON, or a field is wrong.
    """
    return _result(_content(path), path)


def _result(content: Any, path: Path) -> Any:
    if isinstance(content, Mapping):
        for names, kind in KINDS:
            if all(name in content for name in names):
                return checked(kind, content, path)
    return None


def _content(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise TfmpqError(
            f"A result file is the JSON that tfmpq wrote. Received: {path}: {error}. "
            "Leave it out, or run the command that wrote it again."
        ) from error


def read_given(path: Path) -> Any:
    """The result in a file that a user named.

    Raises:
        UsageError: It holds no result that a report shows.
        TfmpqError: It is damaged.
    """
    content = _content(path)
    found = _result(content, path)
    if found is None and isinstance(content, Mapping) and content.get("format") == LATENCY_TABLE:
        raise UsageError(
            "A report shows the latencies of whole files, as tfmpq measure writes them. "
            f"Received: {path}, a latency table of tfmpq profile, which it does not show. Leave it out."
        )
    if found is None:
        raise UsageError(
            "A report shows run folders and what measure, verify, export, evaluate and deploy print with "
            f"--json. Received: {path}, which is neither. Give its run folder, or leave it out."
        )
    return found
