"""The wheel: what is in it, and that it works where it is installed, away from this tree."""

from __future__ import annotations

import configparser
import os
import pkgutil
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("models", "deploy", "cli")
"""Folders beside `tfmpq` that are packages below it where they are installed."""


def _run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves a build folder beside the sources, and reads it the next time."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "tree"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("tfmpq", *ROOMS, "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, cwd=copy)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    _run(*pip, "--no-deps", "--no-index", "--target", target, wheel, cwd=target)
    return target


def test_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    expected = {str(file.relative_to(ROOT)) for file in (ROOT / "tfmpq").rglob("*.py")}
    expected |= {f"tfmpq/{file.relative_to(ROOT)}" for room in ROOMS for file in (ROOT / room).rglob("*.py")}
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert found == expected | {"tfmpq/py.typed", "tfmpq/graph/kernel_costs.json"}


def test_installed_package_is_found_from_another_folder(installed: Path, tmp_path: Path) -> None:
    program = (
        "import importlib.util as util, tfmpq, tfmpq.cli.main, tfmpq.models.registry\n"
        "for name in ('', '.cli.main', '.models.registry', '.deploy', '.data'):\n"
        "    print(util.find_spec(f'tfmpq{name}').origin)"
    )
    output = _run(sys.executable, "-c", program, cwd=tmp_path, PYTHONPATH=str(installed))
    files = [Path(line) for line in output.splitlines()]
    assert len(files) == 5
    assert all(file.is_relative_to(installed / "tfmpq") for file in files), files


def test_installed_command_answers(installed: Path, tmp_path: Path) -> None:
    (entry_points,) = installed.glob("tfmpq-*.dist-info/entry_points.txt")
    parser = configparser.ConfigParser()
    parser.read(entry_points)
    assert dict(parser["console_scripts"]) == {"tfmpq": "tfmpq.cli.main:main"}
    script = installed / "bin" / "tfmpq"
    assert "search" in _run(script, "--help", cwd=tmp_path, PYTHONPATH=str(installed))
    version = _run(script, "--version", cwd=tmp_path, PYTHONPATH=str(installed)).split()[-1]
    assert entry_points.parent.name == f"tfmpq-{version}.dist-info"


def test_no_module_hides_a_function_of_the_package() -> None:
    """Importing `tfmpq.NAME` anywhere would put the module in the function's place."""
    import tfmpq

    modules = {module.name for module in pkgutil.iter_modules(tfmpq.__path__)}
    assert modules & set(tfmpq.__all__) == set()
