"""The order of the rooms, read from every import of the toolchain: see docs/architecture.md."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from itertools import chain
from pathlib import Path
from types import ModuleType

import pytest

import tfmpq
from tfmpq.cli.main import VERBS

ROOT = Path(__file__).parents[1]
LONGEST_FILE = 400
LAZY_IMPORTS = 41
"""Imports inside functions, which may only become fewer. Those of the command line do not count: its verbs
import nothing before they are used."""


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rooms_of_the_house", ROOT / "docs" / "rooms.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


rooms = _load()
FILES = rooms.modules()
ARROWS = rooms.arrows(FILES)


def _lines(arrows: object) -> str:
    return "\n".join(sorted({str(arrow) for arrow in arrows}))  # type: ignore[attr-defined]


def test_every_file_lies_in_a_room_of_the_order() -> None:
    homeless = [name for name in FILES if rooms.room_of(name) is None]
    assert sorted(homeless) == sorted(rooms.FRONT_DOORS)


def test_every_room_of_the_order_is_there() -> None:
    found = {rooms.room_of(name) for name in FILES} - {None}
    assert found == set(chain.from_iterable(rooms.ORDER))


def test_no_files_import_each_other_in_a_circle() -> None:
    assert rooms.circles((arrow.source, arrow.target) for arrow in ARROWS) == []


def test_no_rooms_import_each_other_in_a_circle() -> None:
    between = [(rooms.room_of(arrow.source), rooms.room_of(arrow.target)) for arrow in ARROWS]
    assert rooms.circles((a, b) for a, b in between if a and b and a != b) == []


def test_every_arrow_points_to_a_lower_floor() -> None:
    wrong = []
    for arrow in ARROWS:
        source, target = rooms.room_of(arrow.source), rooms.room_of(arrow.target)
        if source and target and source != target and rooms.floor_of(source) <= rooms.floor_of(target):
            wrong.append(arrow)
    assert not wrong, _lines(wrong)


def test_no_file_imports_a_front_door() -> None:
    # The package hands out a verb that has the name of one of its sub-packages.
    wrong = [a for a in ARROWS if a.target in rooms.FRONT_DOORS and a.source not in rooms.FRONT_DOORS]
    assert not wrong, _lines(wrong)


def test_deploy_is_imported_by_itself_and_by_the_verbs_alone() -> None:
    def may(module: str) -> bool:
        room = rooms.room_of(module)
        return room is None or room in ("api", "cli") or room.startswith("deploy.")

    wrong = [a for a in ARROWS if a.target.startswith("tfmpq.deploy.") and not may(a.source)]
    assert not wrong, _lines(wrong)


def test_no_room_bears_the_name_of_a_verb() -> None:
    """`import tfmpq.search.x` would put a module where the function is. `deploy` can be called itself."""
    packages = {
        name.split(".")[1] for name, file in FILES.items() if file.name == "__init__.py" and "." in name
    }
    assert packages & {*VERBS, *tfmpq.__all__} <= {"deploy"}


def test_imports_inside_functions_become_no_more() -> None:
    lazy = {
        (arrow.source, arrow.line): arrow
        for arrow in ARROWS
        if arrow.lazy and rooms.room_of(arrow.source) not in (None, "cli")
    }
    assert len(lazy) <= LAZY_IMPORTS, f"{len(lazy)} imports inside functions:\n{_lines(lazy.values())}"


@pytest.mark.parametrize("tree", rooms.TREES)
def test_no_file_is_longer_than_four_hundred_lines(tree: str) -> None:
    lengths = {file: len(file.read_text().splitlines()) for file in (ROOT / tree).rglob("*.py")}
    assert {str(file.relative_to(ROOT)): n for file, n in lengths.items() if n > LONGEST_FILE} == {}


def test_the_picture_of_the_rooms_is_what_the_script_draws() -> None:
    committed = ROOT / "docs" / "rooms.svg"
    program = "import sys, draw_rooms; sys.stdout.write(draw_rooms.drawn())"
    command = [sys.executable, "-c", program]
    drawn = subprocess.run(command, cwd=ROOT / "docs", capture_output=True, text=True, check=True).stdout
    assert committed.read_text() == drawn, "The rooms have changed. Run: python docs/draw_rooms.py"


def test_the_page_on_architecture_has_a_row_for_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = {name for line in page.splitlines() if line.startswith("| `") for name in _names(line)}
    folders = {_path(room) for floor in rooms.ORDER for room in floor}
    assert folders <= rows, f"without a row: {sorted(folders - rows)}"


def _names(line: str) -> list[str]:
    return [name.strip(" `") for name in line.split("|")[1].split(",")]


def _path(room: str) -> str:
    module = FILES[f"tfmpq.{room}"]
    file = module.parent if module.name == "__init__.py" else module
    return str(file.relative_to(ROOT)) + ("/" if file.is_dir() else "")


def test_every_path_on_the_page_on_architecture_is_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    paths = re.findall(r"`((?:tfmpq|models|deploy|cli|tests|docs|benchmarks)/[\w./]*)`", page)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


# -- the reading of imports itself, on a small house ---------------------------------------------------------

HOUSE = {
    "tfmpq/__init__.py": "import importlib as i\nT = {'search': 'api.search'}\ni.import_module(T)\n",
    "tfmpq/errors.py": "",
    "tfmpq/api/__init__.py": "",
    "tfmpq/api/search.py": "import tfmpq.errors\ndef f():\n    from tfmpq.deploy import export\n",
    "tfmpq/methods/__init__.py": "import importlib as i\nT = {'asga': 'gradient'}\ni.import_module(T)\n",
    "tfmpq/methods/gradient.py": "NAME = 'errors'\n",
    "deploy/__init__.py": "",
    "deploy/export.py": "CALL = 'tfmpq.deploy.run:main'\nPROGRAM = __file__ + 'run.py'\n",
    "deploy/run.py": "PROGRAM = 'export.py'\n",
    "models/__init__.py": "from . import vgg\n",
    "models/vgg.py": "def f():\n    import tfmpq.errors\n",
    "cli/__init__.py": "",
    "cli/main.py": "import importlib\nVERBS = ('search',)\nimportlib.import_module('.search', __package__)\n",
    "cli/search.py": "from .main import VERBS\nHOME = 'tfmpq.api.search'\n",
}


@pytest.fixture
def found(tmp_path: Path) -> dict[tuple[str, str], bool]:
    for name, text in HOUSE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return {(arrow.source, arrow.target): arrow.lazy for arrow in rooms.arrows(rooms.modules(tmp_path))}


def test_imports_at_the_head_in_functions_and_by_string_are_all_read(
    found: dict[tuple[str, str], bool],
) -> None:
    assert found == {
        ("tfmpq", "tfmpq.api.search"): False,
        ("tfmpq.api.search", "tfmpq.errors"): False,
        ("tfmpq.api.search", "tfmpq.deploy.export"): True,
        ("tfmpq.methods", "tfmpq.methods.gradient"): False,
        ("tfmpq.deploy.export", "tfmpq.deploy.run"): False,
        ("tfmpq.deploy.run", "tfmpq.deploy.export"): False,
        ("tfmpq.models", "tfmpq.models.vgg"): False,
        ("tfmpq.models.vgg", "tfmpq.errors"): True,
        ("tfmpq.cli.main", "tfmpq.cli.search"): False,
        ("tfmpq.cli.search", "tfmpq.cli.main"): False,
        ("tfmpq.cli.search", "tfmpq.api.search"): False,
    }


def test_circles_are_found(found: dict[tuple[str, str], bool]) -> None:
    assert sorted(rooms.circles(found)) == [
        ["tfmpq.cli.main", "tfmpq.cli.search"],
        ["tfmpq.deploy.export", "tfmpq.deploy.run"],
    ]
