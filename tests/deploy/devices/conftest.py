"""Stand-ins for devices, as fixtures."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).with_name("stand_ins")))

from machines import STAND_INS, Phone, Raspberry, Sshd, wait_for

from tfmpq.deploy.devices.protocol import PROTOCOLS, Protocol

Machine = TypeVar("Machine", Sshd, Raspberry, Phone)
SHORT = Protocol("quick", runs=5, seconds=0.01, warmup_runs=1, warmup_seconds=0.0, limit_seconds=60)


def require(name: str, *programs: str, folder: str = "") -> None:
    """Skip the test, or fail it where `TFMPQ_REQUIRE` names the stand-in, if something is missing.

    Args:
        name: The stand-in.
        programs: Programs that it needs.
        folder: Folder below `STAND_INS` that it needs.
    """
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
    missing = [program for program in programs if not shutil.which(program, path=path)]
    if folder and not (STAND_INS / folder).is_dir():
        missing.append(f"'make build/devices/{folder}'")
    if not missing:
        return
    text = f"the {name} stand-in needs {', '.join(missing)}"
    if name in os.environ.get("TFMPQ_REQUIRE", "").split(","):
        pytest.fail(text)
    pytest.skip(text)


def python_in(folder: Path, text: str) -> Path:
    """A folder with a shell script called python3."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "python3").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "python3").chmod(0o755)
    return folder


def running(machine: Machine) -> Iterator[Machine]:
    """Start a machine and stop it at the end, for fixtures."""
    try:
        machine.start()
        yield machine
    finally:
        machine.stop()


PATH = "/usr/bin:/bin"
THIS_PYTHON = f'exec "{sys.executable}" "$@"'


@pytest.fixture
def make_pi(tmp_path) -> Iterator[Callable[..., Sshd]]:
    """Starts machines whose `python3` is a shell script of the test, and stops them after it."""
    require("ssh", "sshd", "ssh", "ssh-keygen", "scp")
    with ExitStack() as stack:

        def make(python: str | None = THIS_PYTHON, **environment: str) -> Sshd:
            folder = tmp_path / f"pi{len(list(tmp_path.iterdir()))}"
            path = PATH if python is None else f"{python_in(folder / 'bin', python)}:{PATH}"
            machine = Sshd(folder, {"PATH": path, **environment})
            stack.callback(machine.stop)
            machine.start()
            return machine

        yield make


@pytest.fixture(scope="session")
def pi(tmp_path_factory) -> Iterator[Sshd]:
    """A machine with Python, NumPy and the runtime, for tests that do no harm to it."""
    require("ssh", "sshd", "ssh", "ssh-keygen", "scp")
    folder = tmp_path_factory.mktemp("pi")
    machine = Sshd(folder, {"PATH": f"{python_in(folder / 'bin', THIS_PYTHON)}:{PATH}"})
    yield from running(machine)


@pytest.fixture(scope="module", params=["cortex-a72", "cortex-a76"])
def raspberry(request: pytest.FixtureRequest, tmp_path_factory) -> Iterator[Raspberry]:
    """An emulated Raspberry Pi 4, without dot products, and 5, with them; cortex-a15 is a 32-bit machine."""
    architecture, qemu = ("armhf", "arm") if request.param == "cortex-a15" else ("arm64", "aarch64")
    programs = ("ssh", "ssh-keygen", "scp", f"qemu-{qemu}-static")
    require(architecture, *programs, folder=f"raspberry-{architecture}")
    folder = tmp_path_factory.mktemp("raspberry")
    machine = Raspberry(folder, {}, architecture=architecture, cpu=request.param)
    yield from running(machine)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few runs."""
    monkeypatch.setitem(PROTOCOLS, "quick", SHORT)


def dense_file(outputs: int) -> bytes:
    """A `.tflite` of one fully connected layer on int8 images of 4x4x3; needs no converter."""
    from ai_edge_litert import schema_py_generated as schema

    from tfmpq.deploy.tflite.flatbuffer import write_model

    rng = np.random.default_rng(outputs)
    weights = rng.integers(-127, 128, (outputs, 48), dtype=np.int8)
    model = schema.ModelT()
    model.version, model.buffers = 3, [schema.BufferT() for _ in range(2)]
    model.buffers[1].data = weights.view(np.uint8).reshape(-1)
    graph = schema.SubGraphT()
    graph.tensors = []
    rows = (((1, 4, 4, 3), 0, 0.02), ((outputs, 48), 1, 0.01), ((1, outputs), 0, 0.05))
    for index, (shape, buffer, scale) in enumerate(rows):
        tensor = schema.TensorT()
        tensor.name, tensor.buffer, tensor.type = f"t{index}".encode(), buffer, schema.TensorType.INT8
        tensor.shape = np.array(shape, np.int32)
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = np.array([scale], np.float32)
        tensor.quantization.zeroPoint = np.array([0], np.int64)
        graph.tensors.append(tensor)
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = np.array([0, 1, -1], np.int32), np.array([2], np.int32)
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    graph.operators = [operator]
    graph.inputs, graph.outputs = np.array([0], np.int32), np.array([2], np.int32)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 4
    model.operatorCodes, model.subgraphs = [code], [graph]
    return write_model(model)


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> tuple[Path, Path]:
    """Two files."""
    folder = tmp_path_factory.mktemp("files")
    paths = (folder / "one with spaces.tflite", folder / "two.tflite")
    for path, outputs in zip(paths, (3, 10), strict=True):
        path.write_bytes(dense_file(outputs))
    return paths


def switched_on(monkeypatch: pytest.MonkeyPatch, architecture: str, cpu: str = "") -> Iterator[Phone]:
    """A phone that adb, as the tool calls it, finds; for fixtures."""
    require("adb", "adb", "ip", "ss", folder=f"phone-{architecture}")
    # Paths of sockets are short: pytest's folders are too deep.
    with tempfile.TemporaryDirectory(prefix="phone") as folder:
        device = Phone(Path(folder), architecture, cpu)
        monkeypatch.setenv("ADB_SERVER_SOCKET", f"localfilesystem:{folder}/adb.sock")
        monkeypatch.setenv("HOME", folder)
        monkeypatch.delenv("ANDROID_SERIAL", raising=False)
        yield from running(device)


@pytest.fixture
def phone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Phone]:
    """A phone with this machine's processor."""
    yield from switched_on(monkeypatch, {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine])


@pytest.fixture
def arm_phone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Phone]:
    """An emulated one, for which there is Python in `bundle`."""
    require("bundle", "qemu-aarch64-static", folder="bundle")
    yield from switched_on(monkeypatch, "arm64", "cortex-a76")


@pytest.fixture
def bundle() -> Path:
    """Python for `arm_phone`."""
    return STAND_INS / "bundle" / "bundle.tar"


BENCHMARK = """
echo 'INFO: Initialized session in 5.579ms.'
echo 'INFO: count=5 first=90 curr=40 min=30 max=90 avg=50 std=10 p5=30 median=45 p95=90'
echo 'INFO: count=50 first=40 curr=40 min=30 max=60 avg=42 std=5 p5=31 median=41 p95=55'
echo 'INFO: Inference timings in us: Init: 5579, First inference: 90, Warmup (avg): 50, Inference (avg): 42'
"""


@pytest.fixture
def program(tmp_path):
    """Writes a stand-in of benchmark_model."""

    def write(measuring: str = BENCHMARK, helping: str = "echo --graph") -> Path:
        path = tmp_path / "benchmark_model"
        path.write_text(f'#!/system/bin/sh\ncase "$*" in *--help*) {helping};; *) {measuring};; esac\n')
        return path

    return write


@pytest.fixture
def needs() -> Callable[..., None]:
    """`needs(name, *programs)` skips or fails the test where a program of a stand-in is missing."""
    return require


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], bool]:
    """Whether a condition comes true in time."""
    return wait_for


@pytest.fixture
def meanwhile() -> Iterator[Callable[..., None]]:
    """`meanwhile(condition, act)` acts in a thread as soon as the condition is true."""
    threads = []

    def begin(condition: Callable[[], bool], act: Callable[[], None]) -> None:
        def work() -> None:
            if wait_for(condition):
                act()

        threads.append(threading.Thread(target=work))
        threads[-1].start()

    yield begin
    for thread in threads:
        thread.join()


@pytest.fixture
def tool() -> list[str]:
    """The command line as a process that can be interrupted."""
    # A process in the background begins with SIGINT ignored, and so would what it starts.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from tfmpq.cli.main import main; main(prog_name='tfmpq')"
    )
    return [sys.executable, "-c", program]
