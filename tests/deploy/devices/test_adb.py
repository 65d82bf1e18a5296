"""Measuring over the real adb and the real adbd; benchmark_model is a script that prints what it would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from tfmpq.cli.main import main
from tfmpq.deploy.devices import errors
from tfmpq.deploy.devices.discovery import devices
from tfmpq.deploy.devices.transports import Transport, remote, transport
from tfmpq.deploy.devices.transports.adb import AdbTransport
from tfmpq.deploy.latency.measure import measure
from tfmpq.errors import UsageError

pytestmark = pytest.mark.usefixtures("short")


def _shell(line: str) -> str:
    return subprocess.run(["adb", "shell", line], capture_output=True, text=True).stdout


def _left() -> list[str]:
    return _shell("ls /data/local/tmp").split()


def test_files_are_measured_on_the_phone(phone, files, program) -> None:
    line = ["measure", *map(str, files), "--on", "adb", "--benchmark-model", str(program()), "--json"]
    done = CliRunner().invoke(main, [*line, "--affinity", "0"], prog_name="tfmpq")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    for file, path in zip(result["files"], files, strict=True):
        assert file["path"] == str(path)
        assert file["target"]["kind"] == "adb"
        assert file["target"]["address"] == phone.serial
        assert file["source"] == "benchmark_model"
        assert len(file["runtime"]["sha256"]) == 64
        assert file["device"]["os"] == "Android 14 (API 34)"
        assert [process["latency_ms"]["p50"] for process in file["processes"]] == [0.041] * 3
        # The stand-in says that it is one.
        assert file["emulated"] is True
        assert file["median_ms"] is None
    assert result["comparisons"][0]["verdict"] is None
    assert _left() == []


def test_files_arrive_as_they_are_and_come_back(phone, tmp_path) -> None:
    source = tmp_path / "a name with 'quotes' $(and more).bin"
    source.write_bytes(os.urandom(3_000_000))
    with transport(f"adb:{phone.serial}") as device:
        device.pull(device.push(source), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert _left() == []


@pytest.mark.parametrize("code", [0, 7, 139])
def test_exit_codes_and_both_streams_are_carried(phone, code) -> None:
    with transport("adb") as device:
        done = device.run(["sh", "-c", f"printf 'no newline'; echo 'a \"b\"' >&2; exit {code}"], 20)
    assert (done.code, done.stdout, done.stderr) == (code, "no newline", 'a "b"\n')


def test_the_phone_vanishes_while_a_command_runs(phone, meanwhile) -> None:
    meanwhile(lambda: bool(phone.pids("sleep")), lambda: phone.signal(signal.SIGKILL))
    with pytest.raises(errors.LinkLost) as caught, transport("adb") as device:
        device.run(["sleep", "1000"], 60)
    assert f"work folder adb:{phone.serial}:/data/local/tmp/tfmpq." in str(caught.value)


def test_the_phone_vanishes_while_a_file_is_pushed(phone, meanwhile, tmp_path) -> None:
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(150_000_000)
    folder = Path("/proc", str(phone.pids("adbd")[0]), "root/data/local/tmp")
    meanwhile(lambda: any(folder.glob("tfmpq.*/1_large.bin")), lambda: phone.signal(signal.SIGKILL))
    with pytest.raises(errors.LinkLost), transport("adb") as device:
        device.push(large)


def _make_and_pull(device: Transport, path: Path) -> None:
    assert device.run(["sh", "-c", "head -c 150000000 /dev/zero > large"], 60).code == 0
    device.pull("large", path)


def test_the_phone_vanishes_while_a_file_is_pulled(phone, meanwhile, tmp_path) -> None:
    back = tmp_path / "back"
    meanwhile(lambda: back.exists() and back.stat().st_size > 1_000_000, lambda: phone.signal(signal.SIGKILL))
    with pytest.raises(errors.LinkLost) as caught, transport("adb") as device:
        _make_and_pull(device, back)
    assert "could not be removed" in str(caught.value)


def test_the_phone_freezes(phone, meanwhile, monkeypatch) -> None:
    monkeypatch.setattr(remote, "CONTROL_SECONDS", 1.0)
    meanwhile(lambda: bool(phone.pids("sleep")), lambda: phone.signal(signal.SIGSTOP))
    with pytest.raises(errors.TimedOut, match="could not be removed"), transport("adb") as device:
        device.run(["sleep", "1000"], 2)


@pytest.mark.parametrize("known", [True, False])
def test_the_phone_is_full(phone, tmp_path, monkeypatch, known) -> None:
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(250_000_000)
    if not known:
        monkeypatch.setattr(AdbTransport, "_free_bytes", lambda _: None)
    said = "bytes free" if known else "No space left on device"
    with pytest.raises(errors.NoSpace, match=said), transport("adb") as device:
        device.push(large)
    assert _left() == []


@pytest.mark.parametrize(
    ("measuring", "helping", "error", "said"),
    [
        ("kill -SEGV $$", "", errors.Crashed, r"two\.tflite: the runtime crashed with SIGSEGV"),
        ("echo 'ERROR: Failed to load model' >&2; exit 1", "", errors.ModelInvalid, "Failed to load model"),
        ("exit 0", "", errors.ModelInvalid, "it said nothing"),
        ("", "exit 127", errors.WrongBinary, "x86_64"),
    ],
)
def test_a_benchmark_model_that_fails(phone, files, program, measuring, helping, error, said) -> None:
    with pytest.raises(error, match=said):
        measure(files[1], on="adb", benchmark_model=program(measuring or ":", helping or ":"))
    assert _left() == []


def test_a_benchmark_model_for_another_processor(phone, files, tmp_path) -> None:
    content = bytearray(Path(sys.executable).resolve().read_bytes()[:20000])
    content[18:20] = (183).to_bytes(2, "little")  # AArch64
    (tmp_path / "benchmark_model").write_bytes(content)
    with pytest.raises(errors.WrongBinary, match=r"x86_64.*android_aarch64"):
        measure(files[0], on="adb", benchmark_model=tmp_path / "benchmark_model")


def _bundle(path: Path, python: str) -> Path:
    """A bundle whose Python is a shell script."""
    program = path / "python"
    program.write_text(f"#!/system/bin/sh\n{python}\n")
    program.chmod(0o755)
    with tarfile.open(path / "bundle.tar", "w") as archive:
        archive.add(program, "bundle/python")
    return path / "bundle.tar"


def test_a_bundle_is_brought_to_the_phone(phone, tmp_path) -> None:
    said = {"device": {"machine": "x", "board": "b"}, "runtime": None, "problem": None, "state": {}}
    bundle = _bundle(tmp_path, f"[ -e 2_pushed_runner.py ] && echo 'TFMPQ_RESULT {json.dumps(said)}'")
    (found,) = devices(["adb"], python=str(bundle)).devices
    assert (found.state, found.machine, found.lacks) == ("ready", "x", "")
    assert _left() == []
    # One that is there already is called where it is.
    subprocess.run(
        ["adb", "push", tmp_path / "python", "/data/local/tmp/mine"], check=True, capture_output=True
    )
    (found,) = devices(["adb"], python="/data/local/tmp/mine").devices
    assert (found.state, found.machine) == ("crashed", None)
    assert _left() == ["mine"]


def test_a_bundle_that_is_none(phone, files, tmp_path) -> None:
    path = tmp_path / "bundle.tar"
    path.write_bytes(b"no archive" * 100)
    with pytest.raises(errors.CopyFailed, match="tar"):
        measure(files[0], on="adb", python=str(path))
    with tarfile.open(path, "w") as archive:
        archive.add(files[0], "something/else")
    with pytest.raises(errors.NoPython, match="bundle/python"):
        measure(files[0], on="adb", python=str(path))
    assert _left() == []


def test_what_does_not_suit_a_phone(files, program, tmp_path) -> None:
    with pytest.raises(UsageError, match="which is no file"):
        measure(files[0], on="adb", python=str(tmp_path / "absent.tar"))
    with pytest.raises(UsageError, match="--on adb and --python"):
        measure(files[0], on="adb", python="/data/python", benchmark_model=program())


def test_no_python_on_the_phone(phone, files) -> None:
    with pytest.raises(errors.NoPython, match=r"python3: .*not found"):
        measure(files[0], on="adb", python="python3")
    assert _left() == []


def test_nothing_to_measure_with(phone, files) -> None:
    with pytest.raises(errors.BenchmarkModelMissing, match="Download https://"):
        measure(files[0], on="adb")
    assert _left() == []


def test_interrupting_ends_the_process_there(tool, phone, files, program, eventually) -> None:
    line = [*tool, "measure", str(files[0]), "--on", "adb"]
    binary = program("exec sleep 1000")
    with subprocess.Popen(
        [*line, "--benchmark-model", str(binary)], stderr=subprocess.PIPE, text=True
    ) as process:
        assert eventually(lambda: bool(phone.pids("sleep")))
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=60)
        finally:
            process.kill()  # leaving the block waits for the process, for ever if need be
    assert process.returncode == 130
    assert eventually(lambda: not phone.pids("sleep"))
    assert _left() == []
