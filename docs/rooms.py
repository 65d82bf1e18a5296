"""The rooms of the toolchain, their order, and every arrow between files, read from the sources.

`tests/test_rooms.py` holds the order; `docs/draw_rooms.py` draws it. Nothing of the toolchain is imported.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TREES = ("tfmpq", "models", "deploy", "cli")
"""Folders of the repository; all but the first are packages below `tfmpq` where they are installed."""

ORDER: tuple[tuple[str, ...], ...] = (
    ("errors", "allocator"),
    ("progress",),
    ("files", "keras_internals", "provenance", "options", "scratch", "units", "bars"),
    ("tables",),
    ("results",),
    ("quantizers", "data"),
    ("graph",),
    ("policy", "models", "deploy.tflite", "deploy.devices"),
    ("tasks",),
    ("training", "deploy.runtime"),
    ("quantization", "deploy.conversion", "deploy.latency"),
    ("methods", "tfmot", "deploy.proof", "deploy.profiling"),
    ("deploy.microcontroller",),
    ("reports", "deploy.export"),
    ("api",),
    ("cli",),
)
"""Rooms from the lowest floor to the highest. A file imports from its own room and from lower floors."""

FRONT_DOORS = ("tfmpq", "tfmpq.deploy")
"""Packages that only hand out what lies below them: they import anything, and no file imports them."""


@dataclass(frozen=True, slots=True)
class Arrow:
    """One place where a file names another one.

    Attributes:
        source: Dotted name of the module that imports.
        target: Dotted name of the module that is imported.
        line: Line in the source.
        lazy: Whether it is an import statement inside a function.
    """

    source: str
    target: str
    line: int
    lazy: bool

    def __str__(self) -> str:
        return f"{self.source}:{self.line} -> {self.target}"


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module by the name under which it is imported."""
    found = {}
    for tree in TREES:
        for file in sorted((root / tree).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join(parts if tree == "tfmpq" else ("tfmpq", *parts))] = file
    return found


def room_of(module: str) -> str | None:
    """The room in which a module lies; None of a front door, and of a file in no room."""
    rooms = {room for floor in ORDER for room in floor}
    name = module.removeprefix("tfmpq.")
    while name and name not in rooms:
        name = name.rpartition(".")[0]
    return name or None


def floor_of(room: str) -> int:
    """Which floor a room is on, counted from the lowest."""
    return next(number for number, floor in enumerate(ORDER) if room in floor)


def arrows(files: Mapping[str, Path]) -> list[Arrow]:
    """Every import between these modules, whether a statement, at the head or in a function, or a string."""
    return [arrow for module, file in files.items() for arrow in _arrows_of(module, file, files)]


def _arrows_of(module: str, file: Path, files: Mapping[str, Path]) -> Iterable[Arrow]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    in_functions = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for inner in ast.walk(outer)
    }
    by_name = any(_is_called(node, "import_module") for node in ast.walk(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [_known(alias.name, files) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            names = [_known(f"{base}.{alias.name}", files) for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [_named_by_text(node.value, package, by_name, file, files)]
        else:
            continue
        lazy = id(node) in in_functions and not isinstance(node, ast.Constant)
        for name in dict.fromkeys(names):
            if name and name != module:
                yield Arrow(module, name, node.lineno, lazy)


def _is_called(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and name in (
        getattr(node.func, "id", None),
        getattr(node.func, "attr", None),
    )


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    parents = parts[: len(parts) - node.level + 1]
    return ".".join([*parents, *([node.module] if node.module else [])])


def _known(name: str, files: Mapping[str, Path]) -> str | None:
    """The module that holds a dotted name, which may be that of something inside it."""
    while name and name not in files:
        name = name.rpartition(".")[0]
    return name or None


def _named_by_text(
    text: str, package: str, by_name: bool, file: Path, files: Mapping[str, Path]
) -> str | None:
    """The module that a string names.

    Strings that count: `tfmpq.x.y` and `tfmpq.x.y:function`; a file beside this one that is sent to a device;
    and, in a file that calls `import_module`, the name of a module relative to the package of the file
    (`.x`, or the `api.search` of a table of names).
    """
    if re.fullmatch(r"tfmpq(\.\w+)+(:\w+)?", text):
        return _known(text.partition(":")[0], files)
    if re.fullmatch(r"\w+\.py", text) and (file.parent / text).exists():
        return f"{package}.{text.removesuffix('.py')}"
    relative = f"{package}.{text.removeprefix('.')}"
    return relative if by_name and re.fullmatch(r"\.?\w+(\.\w+)*", text) and relative in files else None


def circles(pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """The groups of names that can be reached from one another (Tarjan's strongly connected components)."""
    following: dict[str, list[str]] = {}
    for source, target in pairs:
        following.setdefault(source, []).append(target)
        following.setdefault(target, [])
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    open_names: list[str] = []
    found = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        open_names.append(name)
        for target in following[name]:
            if target not in number:
                visit(target)
                lowest[name] = min(lowest[name], lowest[target])
            elif target in open_names:
                lowest[name] = min(lowest[name], number[target])
        if lowest[name] == number[name]:
            start = open_names.index(name)
            if len(open_names) - start > 1:
                found.append(sorted(open_names[start:]))
            del open_names[start:]

    for name in following:
        if name not in number:
            visit(name)
    return found
