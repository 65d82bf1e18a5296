"""Speaks just enough of adb's wire protocol to stay in one state: `fake_adb_device.py unauthorized|offline`.

Prints the port that it listens on. Messages: https://android.googlesource.com/platform/packages/modules/adb
(protocol.txt): six little-endian words (command, two arguments, length, checksum, magic), then the data.
"""

from __future__ import annotations

import socket
import struct
import sys
import threading

TOKEN = 1
"""Kind of an AUTH message that asks for a signature."""
PUBLIC_KEY = 3


def message(command: bytes, first: int, second: int, data: bytes) -> bytes:
    """One message with its data."""
    (word,) = struct.unpack("<I", command)
    return struct.pack("<6I", word, first, second, len(data), sum(data), word ^ 0xFFFFFFFF) + data


def receive(connection: socket.socket, size: int) -> bytes:
    """Exactly so many bytes."""
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def serve(connection: socket.socket, state: str) -> None:
    """Answer one client: ask for ever for another signature, or not at all."""
    try:
        while True:
            head = struct.unpack("<4s5I", receive(connection, 24))
            receive(connection, head[3])
            if state == "unauthorized" and head[0] in (b"CNXN", b"AUTH") and head[1] != PUBLIC_KEY:
                connection.sendall(message(b"AUTH", TOKEN, 0, bytes([7] * 20)))
    except (EOFError, OSError):
        return


def main(state: str) -> None:
    """Listen until killed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            connection, _ = server.accept()
            threading.Thread(target=serve, args=(connection, state), daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1])
