"""What goes wrong on an ssh target, each against the real client: its own error, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy
import pytest
from click.testing import CliRunner

from tfmpq.cli.main import main
from tfmpq.deploy.devices import errors
from tfmpq.deploy.devices.transports import transport
from tfmpq.deploy.latency.measure import measure

pytestmark = pytest.mark.usefixtures("short")

SLEEP = ["sleep", "1000"]


def _open(machine, host: str = "pi"):
    return transport(f"ssh:{host}", ssh_config=machine.config)


def _running(machine) -> bool:
    """Whether a command runs in a work folder."""
    return any((folder / ".pid").exists() for folder in machine.folders())


def _sleepers(machine) -> list[str]:
    """Processes that still run in a work folder of the machine."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "cwd").startswith(str(machine.tmp)):
                found.append((entry / "comm").read_text().strip())
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("host", "error", "said"),
    [
        ("pi-unknown", errors.HostKeyUnknown, "host key is known for"),
        ("pi-changed", errors.HostKeyChanged, "IDENTIFICATION HAS CHANGED"),
        ("pi-stranger", errors.AuthFailed, r"Permission denied \(publickey\)"),
        ("no-such-host.invalid", errors.Unreachable, "Could not resolve hostname"),
    ],
)
def test_a_machine_that_cannot_be_entered(pi, files, host, error, said) -> None:
    before = [(pi.folder / name).read_bytes() for name in ("known_hosts", "known_hosts_before")]
    with pytest.raises(error, match=said):
        measure(files[0], on=f"ssh:{host}", ssh_config=pi.config)
    assert [(pi.folder / name).read_bytes() for name in ("known_hosts", "known_hosts_before")] == before
    assert pi.folders() == []


def test_failures_are_one_line_and_keep_earlier_results(pi, files, tmp_path) -> None:
    earlier = tmp_path / "latency.json"
    earlier.write_text("earlier")
    line = ["measure", str(files[0]), "--on", "ssh:pi-changed", "--ssh-config", str(pi.config)]
    done = CliRunner().invoke(main, [*line, "--out", str(earlier)], prog_name="tfmpq")
    assert (done.exit_code, done.stdout) == (1, "")
    error = done.stderr.splitlines()[-1]
    assert error.startswith(
        "Error: The device's host key has to be the known one. Received: ssh:pi-changed: "
    )
    assert "ssh-keygen -R" in error
    assert earlier.read_text() == "earlier"
    assert [file.name for file in tmp_path.iterdir()] == ["latency.json"]


@contextmanager
def _listener(machine, accept: bool, room: int = 128):
    """The machine's address, changed to a port where nobody speaks ssh."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if accept:
            server.listen(room)
        config = machine.folder / "config_elsewhere"
        text = machine.config.read_text().replace(f"Port {machine.port}", f"Port {server.getsockname()[1]}")
        config.write_text(f"ConnectTimeout 1\n{text}")
        yield config


@pytest.mark.parametrize(
    ("accept", "said"), [(False, "Connection refused"), (True, "timed out during banner exchange")]
)
def test_a_machine_that_does_not_answer(pi, files, accept, said) -> None:
    with _listener(pi, accept) as config, pytest.raises(errors.Unreachable, match=said):
        measure(files[0], on="ssh:pi", ssh_config=config)


def test_a_machine_that_is_off(pi, files) -> None:
    with _listener(pi, accept=True, room=0) as config, socket.socket() as first:
        port = int(next(line for line in config.read_text().splitlines() if "Port" in line).split()[1])
        first.connect(("127.0.0.1", port))  # takes the only room: the next one gets no answer at all
        with pytest.raises(errors.Unreachable, match="Connection timed out"):
            measure(files[0], on="ssh:pi", ssh_config=config)


def test_a_configuration_that_ssh_refuses(pi, files) -> None:
    config = pi.folder / "config_damaged"
    config.write_text("Host *\n  NoSuchOption yes\n")
    with pytest.raises(errors.Unreachable, match="Bad configuration option"):
        measure(files[0], on="ssh:pi", ssh_config=config)


def test_no_client(files, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.ClientMissing, match="no ssh on the PATH"):
        measure(files[0], on="ssh:pi")


def test_the_link_dies_while_a_command_runs(make_pi, meanwhile) -> None:
    machine = make_pi()
    meanwhile(lambda: _running(machine), lambda: machine.signal_sessions(signal.SIGKILL))
    with pytest.raises(errors.LinkLost) as caught, _open(machine) as device:
        device.run(SLEEP, 60)
    assert caught.value.left_behind == ""
    assert machine.folders() == []
    assert _sleepers(machine) == []


def test_the_shell_there_is_killed(make_pi, meanwhile) -> None:
    machine = make_pi()

    def kill() -> None:
        (folder,) = machine.folders()
        runs = int((folder / ".pid").read_text())
        os.kill(
            int(Path(f"/proc/{runs}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]),
            signal.SIGKILL,
        )

    meanwhile(lambda: _running(machine), kill)
    with pytest.raises(errors.LinkLost), _open(machine) as device:
        device.run(SLEEP, 60)
    assert machine.folders() == []
    assert _sleepers(machine) == []


def test_the_machine_vanishes_while_a_command_runs(make_pi, meanwhile) -> None:
    machine = make_pi()
    meanwhile(lambda: _running(machine), machine.stop)
    with pytest.raises(errors.LinkLost) as caught, _open(machine) as device:
        device.run(SLEEP, 60)
    (folder,) = machine.folders()
    assert caught.value.left_behind == f"ssh:pi:{folder}"
    assert f"work folder ssh:pi:{folder} could not be removed" in str(caught.value)


def test_the_machine_freezes(make_pi, meanwhile) -> None:
    machine = make_pi()
    meanwhile(lambda: _running(machine), lambda: machine.signal_sessions(signal.SIGSTOP))
    with pytest.raises(errors.LinkLost, match="not responding"), _open(machine, "pi-alive") as device:
        device.run(SLEEP, 60)
    assert machine.folders() == []
    assert "sleep" not in _sleepers(machine)


def _arrives(machine, size: int = 1) -> bool:
    files = [file for folder in machine.folders() for file in folder.iterdir()]
    return any(file.stat().st_size >= size for file in files)


@pytest.fixture
def large(tmp_path) -> Path:
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.truncate(400_000_000)
    return path


def test_the_machine_vanishes_while_a_file_is_pushed(make_pi, meanwhile, large) -> None:
    machine = make_pi()
    meanwhile(lambda: _arrives(machine, 1_000_000), machine.stop)
    with pytest.raises(errors.LinkLost), _open(machine) as device:
        device.push(large)


def test_the_machine_vanishes_while_a_file_is_pulled(make_pi, meanwhile, large, tmp_path) -> None:
    machine, back = make_pi(), tmp_path / "back"
    meanwhile(lambda: back.exists() and back.stat().st_size > 1_000_000, machine.stop)
    with _open(machine) as device:
        shutil.copyfile(large, machine.folders()[0] / "large")
        with pytest.raises(errors.LinkLost):
            device.pull("large", back)


@pytest.fixture
def full(make_pi):
    """A machine with 200 kB of room, whose `df` says otherwise the first time."""
    machine = make_pi()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", machine.tmp]
    if os.geteuid() or subprocess.run(mounted).returncode:
        pytest.skip("a small file system is mounted by root")
    program = machine.folder / "bin" / "df"
    first = "echo a; echo tmpfs 1000000 0 1000000 0% /"
    flag = machine.folder / "asked"
    program.write_text(f'#!/bin/sh\n[ -e {flag} ] && exec /bin/df "$@"\ntouch {flag}; {first}\n')
    program.chmod(0o755)
    yield machine
    subprocess.run(["umount", "-l", machine.tmp], check=True)


def test_the_machine_is_full(full, tmp_path) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(1_000_000))
    with _open(full) as device:
        # Not known before; then known before.
        for said in ("bytes free in .*, 1000000 needed|No space left", "bytes free in .*, 1000000 needed"):
            with pytest.raises(errors.NoSpace, match=said):
                device.push(large)
        (full.folders()[0] / "1_large.bin").unlink(missing_ok=True)
    assert full.folders() == []


def test_a_place_that_cannot_be_written(make_pi, files) -> None:
    machine = make_pi(TMPDIR="/proc/nowhere")
    with pytest.raises(errors.CopyFailed, match="no work folder could be made"):
        measure(files[0], on="ssh:pi", ssh_config=machine.config)


def test_a_file_that_arrives_damaged(make_pi, files) -> None:
    machine = make_pi()
    program = machine.folder / "bin" / "sha256sum"
    program.write_text("#!/bin/sh\necho 0000\n")
    program.chmod(0o755)
    with pytest.raises(errors.CopyFailed, match="another SHA-256"):
        measure(files[0], on="ssh:pi", ssh_config=machine.config)
    assert machine.folders() == []


def test_a_command_that_does_not_end(pi) -> None:
    with pytest.raises(errors.TimedOut, match="no result in 1 s"), _open(pi) as device:
        device.run(SLEEP, 1)
    assert pi.folders() == []
    assert _sleepers(pi) == []


PROBED = 'case "$*" in *.tflite*) ;; *) echo \'TFMPQ_RESULT {"problem": null}\'; exit;; esac'
BARE = f'exec "{sys.executable}" -S -E "$@"'


@pytest.mark.parametrize(
    ("python", "error", "said"),
    [
        (None, errors.NoPython, "python3"),
        ('echo "Illegal instruction" >&2; kill -ILL $$', errors.Crashed, "crashed with SIGILL"),
        (f"{PROBED}; kill -SEGV $$", errors.Crashed, r"two\.tflite: the runtime crashed with SIGSEGV"),
        (f"{PROBED}; kill -ABRT $$", errors.Crashed, "crashed with SIGABRT"),
        (f"{PROBED}; echo no memory >&2; exit 9", errors.Crashed, "exit code 9: no memory"),
        (
            "echo 'SyntaxError: future feature annotations is not defined' >&2; exit 1",
            errors.NoPython,
            "annotations",
        ),
        (BARE, errors.NoNumpy, "No module named 'numpy'"),
    ],
)
def test_a_machine_whose_python_fails(make_pi, files, python, error, said) -> None:
    machine = make_pi(python)
    with pytest.raises(error, match=said):
        measure(
            files[1], on="ssh:pi", ssh_config=machine.config, python="no-python" if python is None else None
        )
    assert machine.folders() == []


def _with_packages(folder: Path, *names: str) -> str:
    """A Python that finds these packages only."""
    folder.mkdir()
    site = Path(numpy.__file__).parents[1]
    for name in names:
        for path in site.glob(f"{name}*"):
            (folder / path.name).symlink_to(path)
    return f'PYTHONPATH={folder} exec "{sys.executable}" -S "$@"'


def test_a_machine_without_the_runtime(make_pi, files, tmp_path) -> None:
    machine = make_pi(_with_packages(tmp_path / "site", "numpy"))
    with pytest.raises(errors.NoRuntime, match=r"No module named 'ai_edge_litert'.*tfmpq devices"):
        measure(files[0], on="ssh:pi", ssh_config=machine.config)


@pytest.mark.parametrize("package", ["numpy", "ai_edge_litert"])
def test_packages_for_another_processor(make_pi, files, tmp_path, package) -> None:
    others = ("numpy", "ai_edge_litert", "flatbuffers")
    machine = make_pi(_with_packages(tmp_path / "site", *(name for name in others if name != package)))
    site = Path(numpy.__file__).parents[1]
    shutil.copytree(site / package, tmp_path / "site" / package)
    for path in (tmp_path / "site" / package).rglob("*.so"):
        content = bytearray(path.read_bytes())
        content[18:20] = (243).to_bytes(2, "little")  # RISC-V
        path.write_bytes(content)
    with pytest.raises(errors.WrongArchitecture, match=rf"{package} has \w+.*\.so"):
        measure(files[0], on="ssh:pi", ssh_config=machine.config)


def test_a_broken_model(pi, tmp_path) -> None:
    path = tmp_path / "broken.tflite"
    path.write_bytes(b"\0" * 100)
    with pytest.raises(errors.ModelInvalid, match=r"broken\.tflite: .*flatbuffer|broken\.tflite: .*buffer"):
        measure(path, on="ssh:pi", ssh_config=pi.config)
    assert pi.folders() == []


def _end(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        return process.communicate(timeout=60)
    finally:
        process.kill()  # leaving the block waits for the process, for ever if need be


def test_interrupting_ends_the_process_there(tool, make_pi, files, eventually) -> None:
    machine = make_pi(f"{PROBED}; exec sleep 1000")
    line = [*tool, "measure", str(files[0]), "--on", "ssh:pi"]
    with subprocess.Popen(
        [*line, "--ssh-config", str(machine.config)], stderr=subprocess.PIPE, text=True
    ) as process:
        assert eventually(lambda: "sleep" in _sleepers(machine))
        process.send_signal(signal.SIGINT)
        _, stderr = _end(process)
    assert process.returncode == 130
    assert stderr.splitlines()[-1].startswith("Interrupted")
    assert machine.folders() == []
    assert eventually(lambda: _sleepers(machine) == [])
