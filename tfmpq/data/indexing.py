"""Indexes of large data sets: made by several processes at once, and kept in the user's cache.

As a program (`python -m tfmpq.data.indexing`) it reads names of files, each ended by a zero byte, and writes
the index of these files.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from tfmpq.data.tfrecord import Records, read_records
from tfmpq.errors import TfmpqError
from tfmpq.files import write_atomically
from tfmpq.progress import Reporter

SMALL_BYTES = 2**26
"""Files of fewer bytes than this, all together, are read anew every time, by this process."""

_WORTH_KEEPING = 2**20
"""Smaller indexes, in bytes, are made faster than they are worth a file."""

_FIELDS = ("number", "offset", "length", "label", "synset")
_TURNS = 4
"""Portions that each process gets, so that none waits long for another and progress is seen."""
_VERSION = 1


def index_records(paths: Sequence[Path], reporter: Reporter) -> Records:
    """Images and labels of files of records, from the cache if the files have not changed.

    Args:
        paths: The files; at least one.
        reporter: Told about progress.

    Raises:
        TfmpqError: A file is missing, damaged, or has other features.
    """
    try:
        stamps = [_stamp(path) for path in paths]
    except OSError as error:
        raise TfmpqError(f"Files of records have to be there. Received: {error}. Check the path.") from error
    if sum(size for size, _ in stamps) < SMALL_BYTES:
        return Records.joined([read_records(path) for path in paths], range(len(paths)))
    found = cached(paths, stamps, lambda: _arrays(_in_parallel(paths, reporter)))
    return Records(*(found[name] for name in _FIELDS))


def cached(
    paths: Sequence[Path],
    stamps: Sequence[tuple[int, int]],
    make: Callable[[], Mapping[str, np.ndarray]],
) -> Mapping[str, np.ndarray]:
    """Arrays by name, as they were kept when these paths had these stamps; else made, and kept.

    A cache that is damaged or cannot be written is as none.

    Args:
        paths: What the arrays were made from.
        stamps: (size, time of the last change in nanoseconds) of each.
        make: Makes the arrays.
    """
    names = "\n".join(os.fspath(path.absolute()) for path in paths)
    key = hashlib.sha256(os.fsencode(names)).hexdigest()[:24]
    file = cache_folder() / f"{key}.npz"
    stamp = np.array([(_VERSION, 0), *stamps], np.int64)
    with suppress(Exception), open(file, "rb") as stream, np.load(stream, allow_pickle=False) as kept:
        if np.array_equal(kept["stamp"], stamp):
            return {name: kept[name] for name in kept.files if name != "stamp"}
    arrays = dict(make())
    if sum(array.nbytes for array in arrays.values()) < _WORTH_KEEPING:
        return arrays
    with suppress(OSError):
        write_atomically(file, lambda target: _save(target, stamp, arrays))
    return arrays


def cache_folder() -> Path:
    """Folder of indexes in the user's cache."""
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "tfmpq" / "indexes"


def processors() -> int:
    """Processors that this process may use."""
    with suppress(AttributeError):  # only some systems tell
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _save(target: Path, stamp: np.ndarray, arrays: Mapping[str, np.ndarray]) -> None:
    with open(target, "wb") as file:
        np.savez(file, stamp=stamp, **arrays)  # type: ignore[arg-type]


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _arrays(records: Records) -> dict[str, np.ndarray]:
    return {name: getattr(records, name) for name in _FIELDS}


def _in_parallel(paths: Sequence[Path], reporter: Reporter) -> Records:
    count = min(len(paths), processors() * _TURNS)
    starts = [len(paths) * number // count for number in range(count)]
    portions = [paths[a:b] for a, b in zip(starts, [*starts[1:], len(paths)], strict=True)]
    reporter.start("index", len(paths))
    parts = []
    with ThreadPoolExecutor(processors()) as pool:
        for portion, part in zip(portions, pool.map(_by_a_process, portions), strict=True):
            parts.append(part)
            reporter.advance(len(portion))
    reporter.finish()
    return Records.joined(parts, starts)


def _by_a_process(paths: Sequence[Path]) -> Records:
    # Threads would wait for the one interpreter; multiprocessing would run the user's own script again.
    command = [sys.executable, "-m", "tfmpq.data.indexing"]
    names = b"".join(os.fsencode(path) + b"\0" for path in paths)
    done = subprocess.run(command, input=names, capture_output=True, check=False)
    if done.returncode:
        # What is wrong with a file is said by this process.
        return Records.joined([read_records(path) for path in paths], range(len(paths)))
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as found:
        return Records(*(found[name] for name in _FIELDS))


def _main() -> None:
    paths = [Path(os.fsdecode(name)) for name in sys.stdin.buffer.read().split(b"\0")[:-1]]
    found = Records.joined([read_records(path) for path in paths], range(len(paths)))
    stream = io.BytesIO()
    np.savez(stream, **_arrays(found))  # type: ignore[arg-type]
    sys.stdout.buffer.write(stream.getvalue())


if __name__ == "__main__":
    _main()
