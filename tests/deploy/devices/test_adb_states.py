"""What the real adb client says about devices that cannot be used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tfmpq.deploy.devices import errors
from tfmpq.deploy.devices.transports.adb import adb_devices, find_adb
from tfmpq.deploy.latency.measure import measure

FAKE = Path(__file__).with_name("fake_adb_device.py")


@pytest.fixture
def attach(needs, monkeypatch, eventually) -> Iterator[Callable[[str], str]]:
    """Attaches a device that is in some state for ever; returns its serial number."""
    needs("adb", "adb")
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    # Paths of sockets are short: pytest's folders are too deep.
    folder = Path(tempfile.mkdtemp(prefix="adb"))
    monkeypatch.setenv("ADB_SERVER_SOCKET", f"localfilesystem:{folder}/s")
    monkeypatch.setenv("HOME", str(folder))
    with ExitStack() as stack, (folder / "log").open("wb") as log:

        def start(*line: str, **options) -> subprocess.Popen[str]:
            process = subprocess.Popen(line, text=True, start_new_session=True, **options)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        start("adb", "-L", f"localfilesystem:{folder}/s", "server", "nodaemon", stdout=log, stderr=log)
        assert eventually((folder / "s").exists)

        def one(state: str) -> str:
            device = start(sys.executable, str(FAKE), state, stdout=subprocess.PIPE)
            assert device.stdout is not None
            stack.callback(device.stdout.close)
            serial = f"127.0.0.1:{device.stdout.readline().strip()}"
            # Its answer comes when the state is known, for silent devices after ten seconds.
            start("adb", "connect", serial, stdout=log, stderr=log)
            assert eventually(lambda: serial in adb_devices("adb"))
            return serial

        yield one
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("state", "error", "advice"),
    [
        ("unauthorized", errors.Unauthorized, "confirm the question on its screen"),
        ("offline", errors.Offline, "adb reconnect"),
    ],
)
def test_a_device_that_does_not_let_us_in(attach, files, eventually, state, error, advice) -> None:
    serial = attach(state)
    assert eventually(lambda: adb_devices("adb")[serial] == state)
    for on in ("adb", f"adb:{serial}"):
        with pytest.raises(error, match=rf"adb:{serial}: its state is {state}\. .*{advice}"):
            measure(files[0], on=on)


def test_the_device_has_to_be_named_among_several(attach, files) -> None:
    serials = {attach("offline"), attach("offline")}
    with pytest.raises(errors.AmbiguousDevice) as caught:
        measure(files[0], on="adb")
    assert all(serial in str(caught.value) for serial in serials)
    with pytest.raises(errors.NoDevice, match=r"device 'X' not found; attached: 127"):
        measure(files[0], on="adb:X")


def test_no_device(attach, files, monkeypatch) -> None:
    with pytest.raises(errors.NoDevice, match="no devices"):
        measure(files[0], on="adb")
    monkeypatch.setenv("ANDROID_SERIAL", "emulator-1")
    with pytest.raises(errors.NoDevice, match="emulator-1"):
        measure(files[0], on="adb")


def test_a_phone_in_the_network_that_does_not_answer(attach, files) -> None:
    line = ["adb", "connect", "127.0.0.1:1"]
    told = subprocess.run(line, capture_output=True, text=True, check=True)  # exit code 0, whatever happens
    assert "failed to connect" in told.stdout
    with pytest.raises(errors.NoDevice, match=r"device '127\.0\.0\.1:1' not found.*'adb connect' to it"):
        measure(files[0], on="adb:127.0.0.1:1")


def test_no_server(needs, files, monkeypatch, tmp_path) -> None:
    needs("adb", "adb")
    monkeypatch.setenv("ADB_SERVER_SOCKET", f"localfilesystem:{tmp_path}/none/s")
    with pytest.raises(errors.AdbServerUnreachable, match=r"daemon"):
        measure(files[0], on="adb")


def test_the_client_is_looked_for(files, monkeypatch, tmp_path) -> None:
    def program(folder: str) -> str:
        path = tmp_path / folder / "adb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\nexit 1\n")
        path.chmod(0o755)
        return str(path)

    monkeypatch.delenv("ADB", raising=False)
    monkeypatch.delenv("ANDROID_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    with pytest.raises(errors.ClientMissing, match="no adb on the PATH"):
        measure(files[0], on="adb")
    with pytest.raises(errors.ClientMissing, match="absent is no program"):
        measure(files[0], on="adb", adb="absent")
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path / "sdk"))
    sdk = program("sdk/platform-tools")
    assert find_adb() == sdk
    on_path = program("path")
    assert find_adb() == on_path
    monkeypatch.setenv("ADB", program("variable"))
    assert find_adb() == os.environ["ADB"]
    assert find_adb(on_path) == on_path
