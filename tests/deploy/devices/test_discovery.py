"""The list of devices, and setting one up."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from tfmpq.cli.main import main
from tfmpq.deploy.devices import errors
from tfmpq.deploy.devices.discovery import devices
from tfmpq.errors import UsageError


def test_machines_that_can_be_reached_and_not(pi) -> None:
    line = ["devices", "--on", "local", "--on", "ssh:pi", "--on", "ssh:pi-stranger", "--json"]
    done = CliRunner().invoke(main, [*line, "--ssh-config", str(pi.config)], prog_name="tfmpq")
    assert done.exit_code == 0, done.stderr
    local, reached, refused = json.loads(done.stdout)["devices"]
    assert (local["target"], local["state"], local["lacks"]) == ("local", "ready", "")
    assert local["runtime"].startswith("ai-edge-litert ")
    assert reached == {**local, "target": "ssh:pi"}
    assert refused["state"] == "auth_failed"
    assert "ssh-copy-id" in refused["lacks"]
    assert refused["machine"] is None


def test_what_a_machine_lacks_is_one_line(make_pi) -> None:
    machine = make_pi(f'exec "{sys.executable}" -S "$@"')
    (found,) = devices(["ssh:pi"], ssh_config=machine.config).devices
    assert found.state == "no_numpy"
    assert found.python is not None
    assert "tfmpq devices --on ssh:pi --setup" in found.lacks


def test_without_names_this_machine_and_what_adb_sees(phone) -> None:
    local, attached = devices().devices
    assert local.target == "local"
    assert attached.target == f"adb:{phone.serial}"
    assert (attached.state, attached.os, attached.emulated) == ("ready", "Android 14 (API 34)", True)
    assert "--benchmark-model" in attached.lacks


def test_without_adb(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("ADB", raising=False)
    monkeypatch.delenv("ANDROID_HOME", raising=False)
    local, adb = devices().devices
    assert local.state == "ready"
    assert (adb.target, adb.state) == ("adb", "client_missing")


def _wheel(folder: Path, name: str, files: dict[str, str]) -> None:
    """A package that pip can install (https://packaging.python.org/specifications/binary-distribution-format)."""
    info = f"{name}-9.9.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    with zipfile.ZipFile(folder / f"{name}-9.9-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.append(f"{path},sha256={digest},{len(text)}\n")
        archive.writestr(f"{info}/RECORD", "".join(rows) + f"{info}/RECORD,,\n")


def test_setting_a_machine_up(make_pi, tmp_path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    _wheel(wheels, "numpy", {"numpy/__init__.py": "__version__ = '9.9'\n"})
    _wheel(
        wheels,
        "ai_edge_litert",
        {"ai_edge_litert/__init__.py": "", "ai_edge_litert/interpreter.py": "class Interpreter: pass\n"},
    )
    home = tmp_path / "home"
    home.mkdir()
    machine = make_pi(
        f'exec "{Path(sys.executable).resolve()}" "$@"',
        HOME=str(home),
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS=str(wheels),
    )
    (before,) = devices(["ssh:pi"], ssh_config=machine.config).devices
    assert before.state in ("no_numpy", "no_runtime")
    line = ["devices", "--on", "ssh:pi", "--setup", "--ssh-config", str(machine.config), "--json"]
    done = CliRunner().invoke(main, line, prog_name="tfmpq")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["devices"][0]["runtime"] == "ai-edge-litert 9.9"
    assert 'ssh:pi: python3 -m venv "$HOME/.local/share/tfmpq/venv"' in done.stderr
    assert "pip install numpy ai-edge-litert" in done.stderr
    assert [path.name for path in home.iterdir()] == [".local"]
    assert machine.folders() == []


@pytest.mark.parametrize(
    ("python", "error", "said"),
    [
        (
            "printf 'because ensurepip is not\\navailable.  On Debian' >&2; exit 1",
            errors.NoPip,
            "apt-get install python3-pip",
        ),
        ("echo 'No module named venv' >&2; exit 1", errors.NoPip, "No module named venv"),
        ("exit 127", errors.NoPython, "it said nothing"),
        ("echo 'ERROR: no space' >&2; echo more >&2; exit 1", errors.SetupFailed, "ssh:pi: ERROR: no space"),
    ],
)
def test_a_machine_that_cannot_be_set_up(make_pi, python, error, said) -> None:
    machine = make_pi(python)
    with pytest.raises(error, match=said):
        devices(["ssh:pi"], setup=True, ssh_config=machine.config)
    assert machine.folders() == []


@pytest.mark.parametrize("on", [(), ("local",), ("ssh:pi", "adb")])
def test_only_machines_behind_ssh_are_set_up(on) -> None:
    with pytest.raises(UsageError, match="--on ssh:HOST"):
        devices(on, setup=True)
