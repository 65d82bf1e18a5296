"""Stand-ins for devices: a real sshd on loopback, set up in a temporary folder."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from tfmpq.deploy.protocol import PROTOCOLS, Protocol

SHORT = Protocol("quick", runs=5, seconds=0.01, warmup_runs=1, warmup_seconds=0.0, limit_seconds=60)
_HOSTS = {
    "pi": {},
    "pi-via-jump": {"ProxyJump": "pi"},
    "pi-unknown": {"UserKnownHostsFile": "/dev/null", "GlobalKnownHostsFile": "/dev/null"},
    "pi-changed": {"UserKnownHostsFile": "{folder}/known_hosts_before"},
    "pi-stranger": {"IdentityFile": "{folder}/stranger"},
    "pi-alive": {"ServerAliveInterval": "1", "ServerAliveCountMax": "2"},
    "pi-shared": {"ControlMaster": "auto", "ControlPath": "{folder}/shared", "ControlPersist": "10"},
}


STAND_INS = Path(os.environ.get("TFMPQ_DEVICES") or Path(__file__).parents[2] / "build" / "devices")
"""What `make devices` makes."""


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
        missing.append("'make devices'")
    if not missing:
        return
    text = f"the {name} stand-in needs {', '.join(missing)}"
    if name in os.environ.get("TFMPQ_REQUIRE", "").split(","):
        pytest.fail(text)
    pytest.skip(text)


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether the condition came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def children(pid: int) -> list[int]:
    """Processes below another, at any depth."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = [child for child, parent in parents.items() if parent == pid]
    return found + [below for child in found for below in children(child)]


@dataclass
class Sshd:
    """A Linux machine, played by this one.

    Attributes:
        folder: Keys, configuration, and `tmp`, where work folders are made.
        environment: What sessions find in their environment.
    """

    folder: Path
    environment: dict[str, str]
    port: int = 0
    user: str = field(default_factory=getpass.getuser)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def config(self) -> Path:
        """For `ssh -F`."""
        return self.folder / "config"

    @property
    def tmp(self) -> Path:
        """Where work folders are made."""
        return self.folder / "tmp"

    def folders(self) -> list[Path]:
        """Work folders that are there now."""
        return list(self.tmp.glob("tfmpq.*"))

    def start(self) -> None:
        """Make keys once, write the configuration of server and client, and listen."""
        self.tmp.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        for name in ("host", "before", "user", "stranger"):
            if not (self.folder / name).exists():
                line = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", self.folder / name]
                subprocess.run(line, check=True)
        self.port = self.port or _free_port()
        self._write_client()
        log = self.folder / "sshd.log"
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stderr=stderr, start_new_session=True
            )
        assert wait_for(lambda: "Server listening" in log.read_text(), 60), log.read_text()

    def _command(self) -> list[str | Path]:
        """Write the server's configuration; the program that serves."""
        self._write_server()
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        return [_sshd_path(), "-D", "-e", "-f", self.folder / "sshd_config"]

    def _write_server(self) -> None:
        shutil.copy(self.folder / "user.pub", self.folder / "authorized_keys")
        # Without a home of its own, the user's .bashrc would have a say.
        environment = {"TMPDIR": str(self.tmp), "HOME": str(self.folder), **self.environment}
        lines = [
            "ListenAddress 127.0.0.1",
            f"Port {self.port}",
            f"HostKey {self.folder}/host",
            f"AuthorizedKeysFile {self.folder}/authorized_keys",
            *("PidFile none", "PasswordAuthentication no", "KbdInteractiveAuthentication no", "UsePAM no"),
            *("StrictModes no", "PrintMotd no", "Subsystem sftp internal-sftp"),
            "SetEnv " + " ".join(f'"{key}={value}"' for key, value in environment.items()),
        ]
        (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")

    def _write_client(self) -> None:
        for name, key in (("known_hosts", "host"), ("known_hosts_before", "before")):
            kind, text = (self.folder / f"{key}.pub").read_text().split()[:2]
            (self.folder / name).write_text(f"[127.0.0.1]:{self.port} {kind} {text}\n")
        common = {
            "HostName": "127.0.0.1",
            "Port": str(self.port),
            "User": self.user,
            "IdentityFile": f"{self.folder}/user",
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": f"{self.folder}/known_hosts",
            "StrictHostKeyChecking": "yes",
        }
        lines = []
        for host, special in _HOSTS.items():
            lines.append(f"Host {host}")
            for key, value in (common | special).items():
                lines.append(f"  {key} {value.format(folder=self.folder)}")
        self.config.write_text("\n".join(lines) + "\n")

    def signal_sessions(self, number: int) -> None:
        """Send a signal to the processes that serve connections."""
        assert self._process is not None
        for pid in children(self._process.pid):
            if (Path("/proc") / str(pid) / "comm").read_text().startswith("sshd"):
                os.kill(pid, number)

    def stop(self) -> None:
        """Be gone, with all sessions."""
        if self._process is None:
            return
        below = children(self._process.pid)
        self._process.kill()
        self._process.wait()
        self._process = None
        for pid in below:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


@dataclass
class Raspberry(Sshd):
    """An ARM machine that is emulated, with `python-ai_edge_litert` and `python-tflite_runtime`.

    Attributes:
        architecture: `arm64` or `armhf`, as Debian calls it.
        cpu: Its processor, as qemu names it.
    """

    architecture: str = "arm64"
    cpu: str = "cortex-a72"
    user: str = "pi"

    @property
    def inside(self) -> Path:
        """Its root folder, seen from here."""
        assert self._process is not None
        return Path("/proc", str(children(self._process.pid)[0]), "root")

    def _command(self) -> list[str | Path]:
        programs = Path(__file__).with_name("stand_ins")
        root = STAND_INS / f"raspberry-{self.architecture}"
        return [
            *("env", "NET=host", sys.executable, programs / "namespaces.py", self.architecture),
            *("bash", programs / "raspberry.sh", "inside", root, self.folder, str(self.port), self.cpu),
        ]


def _sshd_path() -> str:
    # sshd starts itself again for each connection, so it wants its whole path.
    path = shutil.which("sshd", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")
    assert path is not None
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def python_in(folder: Path, text: str) -> Path:
    """A folder with a shell script called python3."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "python3").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "python3").chmod(0o755)
    return folder


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
            machine.start()
            stack.callback(machine.stop)
            return machine

        yield make


@pytest.fixture(scope="session")
def pi(tmp_path_factory) -> Iterator[Sshd]:
    """A machine with Python, NumPy and the runtime, for tests that do no harm to it."""
    require("ssh", "sshd", "ssh", "ssh-keygen", "scp")
    folder = tmp_path_factory.mktemp("pi")
    machine = Sshd(folder, {"PATH": f"{python_in(folder / 'bin', THIS_PYTHON)}:{PATH}"})
    machine.start()
    yield machine
    machine.stop()


@pytest.fixture(scope="module", params=["cortex-a72", "cortex-a76"])
def raspberry(request: pytest.FixtureRequest, tmp_path_factory) -> Iterator[Raspberry]:
    """An emulated Raspberry Pi 4, without dot products, and 5, with them; cortex-a15 is a 32-bit machine."""
    architecture, qemu = ("armhf", "arm") if request.param == "cortex-a15" else ("arm64", "aarch64")
    programs = ("ssh", "ssh-keygen", "scp", f"qemu-{qemu}-static")
    require(architecture, *programs, folder=f"raspberry-{architecture}")
    folder = tmp_path_factory.mktemp("raspberry")
    machine = Raspberry(folder, {}, architecture=architecture, cpu=request.param)
    machine.start()
    yield machine
    machine.stop()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few runs."""
    monkeypatch.setitem(PROTOCOLS, "quick", SHORT)


def dense_file(outputs: int) -> bytes:
    """A `.tflite` of one fully connected layer on int8 images of 4x4x3; needs no converter."""
    from ai_edge_litert import schema_py_generated as schema

    from tfmpq.deploy.flatbuffer import write_model

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


@dataclass
class Phone:
    """A real adbd in namespaces of its own.

    Attributes:
        run: Folder of its adb server's socket.
        architecture: As Debian calls it.
        cpu: Processor to emulate, as qemu names it; none for one that this machine runs.
    """

    run: Path
    architecture: str
    cpu: str = ""
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    serial = "127.0.0.1:6555"

    def start(self) -> None:
        """Switch it on and wait until adb lists it."""
        programs = Path(__file__).with_name("stand_ins")
        root = STAND_INS / f"phone-{self.architecture}"
        line = ["bash", programs / "phone.sh", "inside", root, self.run, self.cpu]
        log = self.run / "log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, programs / "namespaces.py", self.architecture, *line],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        assert wait_for((self.run / "ready").exists), log.read_text()

    def pids(self, name: str) -> list[int]:
        """Its processes of a name."""
        assert self._process is not None
        return [pid for pid in children(self._process.pid) if _name(pid) == name]

    def signal(self, number: int) -> None:
        """Send a signal to its adbd."""
        for pid in self.pids("adbd"):
            os.kill(pid, number)

    def stop(self) -> None:
        """Switch it off."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


def _name(pid: int) -> str:
    try:
        return Path("/proc", str(pid), "comm").read_text().strip()
    except OSError:
        return ""


def switched_on(monkeypatch: pytest.MonkeyPatch, architecture: str, cpu: str = "") -> Iterator[Phone]:
    """A phone that adb, as the tool calls it, finds; for fixtures."""
    require("adb", "adb", "ip", "ss", folder=f"phone-{architecture}")
    # Paths of sockets are short: pytest's folders are too deep.
    with tempfile.TemporaryDirectory(prefix="phone") as folder:
        device = Phone(Path(folder), architecture, cpu)
        monkeypatch.setenv("ADB_SERVER_SOCKET", f"localfilesystem:{folder}/adb.sock")
        monkeypatch.setenv("HOME", folder)
        monkeypatch.delenv("ANDROID_SERIAL", raising=False)
        device.start()
        yield device
        device.stop()


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
