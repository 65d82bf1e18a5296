"""What plays a device: a real sshd on loopback, emulated machines, the real adbd."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

SCRIPTS = Path(__file__).parent
STAND_INS = Path(os.environ.get("TFMPQ_DEVICES") or Path(__file__).parents[4] / "build" / "devices")
"""What `make devices` makes."""
_HOSTS = {
    "pi": {},
    "pi-via-jump": {"ProxyJump": "pi"},
    "pi-unknown": {"UserKnownHostsFile": "/dev/null", "GlobalKnownHostsFile": "/dev/null"},
    "pi-changed": {"UserKnownHostsFile": "{folder}/known_hosts_before"},
    "pi-stranger": {"IdentityFile": "{folder}/stranger"},
    "pi-alive": {"ServerAliveInterval": "1", "ServerAliveCountMax": "2"},
    "pi-shared": {"ControlMaster": "auto", "ControlPath": "{folder}/shared", "ControlPersist": "10"},
}


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
            with suppress(FileNotFoundError, ProcessLookupError):  # some end with the session before them
                if Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").startswith("sshd"):
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
        root = STAND_INS / f"raspberry-{self.architecture}"
        return [
            *("env", "NET=host", sys.executable, SCRIPTS / "namespaces.py", self.architecture),
            *("bash", SCRIPTS / "raspberry.sh", "inside", root, self.folder, str(self.port), self.cpu),
        ]


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
        root = STAND_INS / f"phone-{self.architecture}"
        line = ["bash", SCRIPTS / "phone.sh", "inside", root, self.run, self.cpu]
        log = self.run / "log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, SCRIPTS / "namespaces.py", self.architecture, *line],
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


def _sshd_path() -> str:
    # sshd starts itself again for each connection, so it wants its whole path.
    path = shutil.which("sshd", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")
    assert path is not None
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _name(pid: int) -> str:
    try:
        return Path("/proc", str(pid), "comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
