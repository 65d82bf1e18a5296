"""Measuring over a real ssh."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from tfmpq.cli.main import main
from tfmpq.deploy.devices.transports import transport
from tfmpq.deploy.latency.measure import measure

pytestmark = pytest.mark.usefixtures("short")


def _no_clients(pi) -> bool:
    """Whether no ssh of ours is left: each would have the configuration on its command line."""
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(entry.read_bytes())
        except OSError:
            continue
    return not any(str(pi.config).encode() in line for line in lines)


def test_files_are_measured_on_the_machine(pi, files) -> None:
    line = ["measure", *map(str, files), "--on", "ssh:pi", "--ssh-config", str(pi.config), "--json"]
    done = CliRunner().invoke(main, line, prog_name="tfmpq")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert [file["path"] for file in result["files"]] == [str(path) for path in files]
    for file, path in zip(result["files"], files, strict=True):
        assert file["bytes"] == path.stat().st_size
        assert file["runs"] >= 15
        assert file["median_ms"] > 0
        assert file["target"]["kind"] == "ssh"
        assert (file["target"]["address"], file["target"]["host"]) == ("pi", "127.0.0.1")
        assert file["target"]["client"].startswith("OpenSSH")
    assert result["comparisons"][0]["verdict"] in ("none", "faster", "slower")
    assert pi.folders() == []
    assert _no_clients(pi)


@pytest.mark.parametrize("host", ["pi-via-jump", "pi-shared"])
def test_the_users_configuration_is_used(pi, files, host, monkeypatch) -> None:
    monkeypatch.setenv("TFMPQ_SSH_CONFIG", str(pi.config))
    line = ["measure", str(files[0]), "--on", f"ssh:{host}", "--json"]
    done = CliRunner().invoke(main, line, prog_name="tfmpq")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["target"]["address"] == host
    assert pi.folders() == []
    # A connection that the user's configuration shares is used and left alone.
    assert (pi.folder / "shared").exists() == (host == "pi-shared")


SHARES_NOTHING = """#!/bin/sh
for argument in "$@"; do
  case "$argument" in
    -M|-S|ControlPath=*) echo "getsockname failed: Not a socket" >&2; exit 255;;
  esac
done
exec {ssh} "$@"
"""


def test_a_client_that_cannot_share_a_connection_makes_one_for_each_command(
    pi, files, tmp_path, monkeypatch
) -> None:
    client = tmp_path / "ssh"
    client.write_text(SHARES_NOTHING.format(ssh=shutil.which("ssh")), encoding="utf-8")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    line = ["measure", str(files[0]), "--on", "ssh:pi", "--ssh-config", str(pi.config), "--json"]
    done = CliRunner().invoke(main, line, prog_name="tfmpq")
    assert done.exit_code == 0, done.stderr
    assert "each logs in anew" in json.loads(done.stdout)["target"]["connections"]
    assert pi.folders() == []
    assert _no_clients(pi)


def test_files_arrive_as_they_are_and_come_back(pi, tmp_path) -> None:
    source = tmp_path / "a name with 'quotes' $(and more).bin"
    source.write_bytes(os.urandom(300_000))
    with transport("ssh:pi", ssh_config=pi.config) as device:
        name = device.push(source)
        assert [len(list(folder.iterdir())) for folder in pi.folders()] == [1]
        assert pi.folders()[0].stat().st_mode & 0o777 == 0o700
        device.pull(name, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert pi.folders() == []


@pytest.mark.parametrize("code", [0, 7, 139])
def test_exit_codes_and_both_streams_are_carried(pi, code) -> None:
    with transport("ssh:pi", ssh_config=pi.config) as device:
        done = device.run(["sh", "-c", f"printf 'no newline'; echo 'a \"b\"' >&2; exit {code}"], 20)
    assert (done.code, done.stdout, done.stderr) == (code, "no newline", 'a "b"\n')


def test_a_login_that_talks_does_not_disturb(make_pi, tmp_path) -> None:
    machine = make_pi()
    machine.environment["BASH_ENV"] = str(tmp_path / "greeting")
    (tmp_path / "greeting").write_text("echo Welcome; echo TFMPQ_RC=5")
    machine.stop()
    machine.start()
    with transport("ssh:pi", ssh_config=machine.config) as device:
        assert device.run(["false"], 20).code == 1


def test_the_python_of_the_setup_is_preferred(make_pi, files, tmp_path) -> None:
    place = tmp_path / "home/.local/share/tfmpq/venv/bin"
    machine = make_pi(python="exit 1", HOME=str(tmp_path / "home"))
    place.mkdir(parents=True)
    (place / "python").symlink_to(machine.folder / "python")
    (machine.folder / "python").write_text(Path(_this_python(machine.folder)).read_text(encoding="utf-8"))
    (machine.folder / "python").chmod(0o755)
    assert measure(files[0], on="ssh:pi", ssh_config=machine.config)[0].runs >= 15


def _this_python(folder: Path) -> Path:
    import sys

    (folder / "this").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    return folder / "this"
