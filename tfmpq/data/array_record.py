"""ArrayRecord files, as tensorflow-datasets and Grain write them: records by number."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from tfmpq.errors import TfmpqError

_OPEN_FILES = 128
_AT_ONCE = 256
"""Records that are read at once while an index is made."""


def is_array_record(path: Path) -> bool:
    """Whether a file has records by number; its name says so."""
    return ".array_record" in path.name


def record_bytes(path: Path, number: int) -> bytes:
    """One record of a file.

    Raises:
        OSError: The file cannot be read, or has no such record.
    """
    try:
        return _reader(path).read([number])[0]
    except (RuntimeError, ValueError, IndexError) as error:
        raise OSError(f"record {number} cannot be read: {error}") from error


def records(path: Path) -> Iterator[bytes]:
    """All records of a file.

    Raises:
        OSError: It cannot be read.
    """
    try:
        reader = _reader(path)
        count = reader.num_records()
        for first in range(0, count, _AT_ONCE):
            yield from reader.read(list(range(first, min(first + _AT_ONCE, count))))
    except (RuntimeError, IndexError) as error:
        raise OSError(str(error)) from error


@lru_cache(_OPEN_FILES)
def _reader(path: Path) -> Any:
    try:
        from array_record.python.array_record_module import ArrayRecordReader
    except ModuleNotFoundError as error:
        raise TfmpqError(
            f"ArrayRecord files need the package array_record. Received: {path}, in an environment without "
            f"{error.name}. Install array_record, or prepare the data as TFRecord files."
        ) from error
    if not path.is_file():
        raise OSError("no such file")
    # Records are fetched one by one, in any order.
    return ArrayRecordReader(str(path), options="readahead_buffer_size:0")
