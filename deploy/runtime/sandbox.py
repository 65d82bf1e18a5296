"""Work on files of others in a child process, so that a crash, a hang or a flood of memory is one error.

A `.tflite` can make the C++ runtime read beyond its memory; no check in Python finds every such file. The
child is asked for one function after another, and answers in JSON and raw arrays, never in pickles: what
comes back from a child that a file has taken over is data only.
"""

from __future__ import annotations

import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from tfmpq.errors import TfmpqError, UsageError

SECONDS = 600.0
"""Longest time for one call."""

MEMORY = 8 << 30
"""Most bytes that the child may allocate."""

# The folder that the user is in is no place to import from.
_PROGRAM = (
    "import sys; sys.path[:] = [entry for entry in sys.path if entry]\n"
    "from tfmpq.deploy.runtime.sandbox import serve; serve(int(sys.argv[1]))"
)


class Sandbox:
    """A child process that runs functions by name; started at the first call, and again after a crash.

    Args:
        name: What to call the file in an error.
        seconds: Longest time for one call.
        memory: Most bytes that the child may allocate.
    """

    def __init__(self, name: str | Path, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        self.name, self.seconds, self.memory = str(name), seconds, memory
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(Exception):
            self.close()

    def call(self, function: str, *arguments: Any) -> Any:
        """Run `MODULE:NAME` with arguments of JSON types, bytes and arrays; its result is of these, too.

        Raises:
            UsageError: The function raised it.
            TfmpqError: The function raised it, or the child crashed, took too long or too much memory.
        """
        process, fresh = self._start()
        try:
            if fresh:  # a slow start of Python is nothing that the file does
                _receive(_Deadline(process.stdout, SECONDS))
            _send(process.stdin, {"function": function, "arguments": list(arguments)})
            answer = _receive(_Deadline(process.stdout, self.seconds))
        except _TooLong:
            self.close()
            raise TfmpqError(
                f"A file is worked on in at most {self.seconds:.0f} seconds. Received: {self.name}, which "
                "takes longer. Give a smaller network, or less of it."
            ) from None
        except (OSError, ValueError, EOFError) as error:
            raise TfmpqError(self._obituary()) from error
        if "result" in answer:
            return answer["result"]
        raise (UsageError if answer["usage"] else TfmpqError)(answer["message"])

    def close(self) -> None:
        """End the child."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()
        if self._log is not None:
            self._log.close()
            self._log = None

    def _start(self) -> tuple[subprocess.Popen[bytes], bool]:
        """The child, and whether it has only just been started."""
        fresh = self._process is None or self._process.poll() is not None
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the child)
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(self.memory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
            )
        return self._process, fresh

    def _obituary(self) -> str:
        """What happened to the child, in one line; the child is gone afterwards."""
        code, said = None, ["nothing"]
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                code = self._process.wait(timeout=5)
        if self._log is not None:
            self._log.seek(0)
            said = self._log.read()[-2000:].decode(errors="replace").strip().splitlines() or said
        self.close()
        if code is not None and code < 0:
            how = f"crashed with {signal.Signals(-code).name}"
        else:
            how = f"stopped with exit code {code} and said: {said[-1][:200]}"
        return (
            f"The runtime has to bear the file. Received: {self.name}, on which it {how}. Copy or export the "
            "file again; do not use it if it comes from others."
        )


class _TooLong(Exception):
    """The child has not answered in time."""


class _Deadline:
    """Reads from a pipe until a point in time."""

    def __init__(self, pipe: Any, seconds: float) -> None:
        self._pipe, self._end = pipe, time.monotonic() + seconds

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes, or fewer at the end of the pipe."""
        parts, missing = [], count
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ)
            while missing:
                if not selector.select(max(0.0, self._end - time.monotonic())):
                    raise _TooLong
                part = os.read(self._pipe.fileno(), min(missing, 1 << 20))
                if not part:
                    break
                parts.append(part)
                missing -= len(part)
        return b"".join(parts)


def _send(stream: Any, value: Any) -> None:
    """A line of JSON with its length before it, then the contents of its arrays."""
    arrays: list[bytes] = []

    def plain(item: Any) -> Any:
        if isinstance(item, np.ndarray):
            arrays.append(np.ascontiguousarray(item).tobytes())
            return {"dtype": item.dtype.str, "shape": item.shape, "bytes": len(arrays[-1])}
        if isinstance(item, bytes):
            arrays.append(item)
            return {"bytes": len(item)}
        if isinstance(item, dict):
            return {"items": [[key, plain(part)] for key, part in item.items()]}
        return [plain(part) for part in item] if isinstance(item, list | tuple) else item

    header = json.dumps(plain(value)).encode()
    stream.write(len(header).to_bytes(8, "little") + header)
    for array in arrays:
        stream.write(array)
    stream.flush()


def _receive(stream: Any) -> Any:
    """What `_send` sent; tuples come as lists."""

    def exactly(count: int) -> bytes:
        data = stream.read(count)
        if len(data) != count:
            raise EOFError
        return bytes(data)

    def whole(item: Any) -> Any:
        if isinstance(item, dict) and "items" in item:
            return {key: whole(part) for key, part in item["items"]}
        if isinstance(item, dict) and "dtype" in item:
            content = exactly(item["bytes"])
            return np.frombuffer(content, np.dtype(item["dtype"])).reshape(item["shape"])
        if isinstance(item, dict):
            return exactly(item["bytes"])
        return [whole(part) for part in item] if isinstance(item, list) else item

    return whole(json.loads(exactly(int.from_bytes(exactly(8), "little"))))


def _limit_memory(memory: int) -> None:
    """Let allocations beyond `memory` bytes fail, where the system can."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        for kind in (resource.RLIMIT_DATA, resource.RLIMIT_CORE):
            limit = memory if kind == resource.RLIMIT_DATA else 0
            resource.setrlimit(kind, (limit, limit))


def serve(memory: int) -> None:
    """Be the child: answer calls until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _limit_memory(memory)
    stdin, stdout = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    _send(stdout, "ready")
    while True:
        try:
            request = _receive(stdin)
        except EOFError:
            return
        module, _, name = request["function"].partition(":")
        answer: dict[str, Any]
        try:
            function = getattr(importlib.import_module(module), name)
            answer = {"result": function(*request["arguments"])}
        except TfmpqError as error:
            answer = {"usage": isinstance(error, UsageError), "message": str(error)}
        except MemoryError:
            answer = {
                "usage": False,
                "message": f"A file is worked on in at most {memory >> 20} MiB of memory. Received: one that "
                "takes more. Give a smaller network.",
            }
        _send(stdout, answer)
