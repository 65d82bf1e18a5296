"""The text of a policy file as plain Python objects; nothing in it is executed."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from tfmpq.errors import UsageError

MAX_FILE_BYTES = 2**20


class _Loader(yaml.SafeLoader):
    """The safe loader, without aliases (a small file could grow without bound) and without repeated keys."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="an alias (*), which is not allowed", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_policy_text(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        UsageError: It cannot be read, is too large, or no YAML.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"A policy is a YAML file that can be read. Received: {path} ({error.strerror}). Check the path."
        ) from None
    if len(raw) > MAX_FILE_BYTES:
        raise UsageError(
            f"A policy file has at most {MAX_FILE_BYTES} bytes. Received: {path}, which is larger. "
            "Check that it is a policy."
        )
    try:
        return yaml.load(raw.decode("utf-8"), Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{path}: a policy is well-formed YAML. Received: {_yaml_problem(error)}. "
            "Correct it, or write it anew with the search."
        ) from None


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}: " if mark else ""
    if isinstance(error, RecursionError):
        return "lists or mappings that are nested too deeply"
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
    return where + " ".join(str(problem).split())
