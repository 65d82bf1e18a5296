"""Runs a command in its own mount, process and (but for NET=host) network namespace; dies with its parent.

    namespaces.py ARCH COMMAND...

Sockets of AF_VSOCK are refused inside: adbd would listen on one, and no network namespace holds it back. For
another ARCH (Debian's name) than this machine's, qemu-user is registered in a binfmt_misc of a user namespace
(Linux 6.7 or newer), so that the system's own table stays as it is.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import signal
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
NEW_MOUNTS, NEW_USERS, NEW_PROCESSES, NEW_NETWORK = 0x20000, 0x10000000, 0x20000000, 0x40000000
PRIVATE_AND_RECURSIVE = 0x44000
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
NATIVE = {"x86_64": "amd64", "aarch64": "arm64"}
QEMU = {"arm64": (183, "aarch64", 2), "armhf": (40, "arm", 1)}
"""ELF machine, qemu's name, ELF class."""


def check(result: int, what: str) -> None:
    """End with the reason if a call into C failed."""
    if result:
        sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")


def refuse_vsock() -> None:
    """A seccomp filter: socket(AF_VSOCK, ...) is EAFNOSUPPORT, all else is allowed."""

    def step(code: int, if_true: int, if_false: int, value: int) -> bytes:
        return struct.pack("HBBI", code, if_true, if_false, value)

    socket_call = 41 if platform.machine() == "x86_64" else 198
    program = b"".join(
        (
            step(0x20, 0, 0, 0),  # load the number of the call
            step(0x15, 0, 3, socket_call),
            step(0x20, 0, 0, 16),  # load its first argument
            step(0x15, 0, 1, 40),  # AF_VSOCK
            step(0x06, 0, 0, 0x00050000 | 97),
            step(0x06, 0, 0, 0x7FFF0000),
        )
    )
    buffer = ctypes.create_string_buffer(program)
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer)))
    check(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    check(LIBC.prctl(PR_SET_SECCOMP, 2, ctypes.byref(header)), "seccomp")


def register_qemu(arch: str) -> None:
    """Let the kernel start programs of `arch` with qemu, in this user namespace only."""
    machine, name, elf_class = QEMU[arch]
    qemu = os.environ.get("QEMU") or shutil.which(f"qemu-{name}-static") or shutil.which(f"qemu-{name}")
    magic = b"\x7fELF" + bytes([elf_class, 1, 1]) + bytes(9) + struct.pack("<HH", 2, machine)
    mask = b"\xff" * 7 + b"\0" + b"\xff" * 8 + b"\xfe\xff\xff\xff"
    magic_text, mask_text = ("".join(f"\\x{byte:02x}" for byte in part) for part in (magic, mask))
    place = b"/proc/sys/fs/binfmt_misc"
    check(LIBC.mount(b"binfmt", place, b"binfmt_misc", 0, None), "mount binfmt_misc")
    with open(place + b"/register", "w", encoding="utf-8") as file:
        file.write(f":qemu-{name}:M::{magic_text}:{mask_text}:{qemu}:PF")


def enter_user_namespace() -> None:
    """Become root of a new user namespace; a helper outside writes its maps."""
    outer, root = os.getpid(), os.geteuid() == 0
    asked, answered = os.pipe(), os.pipe()
    if os.fork() == 0:
        os.close(asked[1])
        os.read(asked[0], 1)
        if not root:
            with open(f"/proc/{outer}/setgroups", "w", encoding="utf-8") as file:
                file.write("deny")
        for kind, number in (("uid", os.geteuid()), ("gid", os.getegid())):
            with open(f"/proc/{outer}/{kind}_map", "w", encoding="utf-8") as file:
                file.write("0 0 65536\n" if root else f"0 {number} 1\n")
        os.write(answered[1], b"x")
        os._exit(0)
    check(LIBC.unshare(NEW_USERS), "unshare users")
    os.write(asked[1], b"x")
    os.read(answered[0], 1)
    os.wait()
    os.setuid(0)


def main(arch: str, command: list[str]) -> None:
    """Set everything up and become the command."""
    foreign = arch != NATIVE[platform.machine()]
    if foreign or os.geteuid():
        enter_user_namespace()
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # tests that are killed leave nothing running
    network = 0 if os.environ.get("NET") == "host" else NEW_NETWORK
    check(LIBC.unshare(NEW_MOUNTS | NEW_PROCESSES | network), "unshare")
    child = os.fork()
    if child:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os.kill(child, signal.SIGKILL))
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 255)
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    check(LIBC.mount(None, b"/", None, PRIVATE_AND_RECURSIVE, None), "make mounts private")
    check(LIBC.mount(b"proc", b"/proc", b"proc", 0, None), "mount proc")
    if foreign:
        register_qemu(arch)
    refuse_vsock()
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
