"""Where compressed images lie on disk: arrays, so that a million of them take tens of megabytes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfmpq.data.array_record import is_array_record, record_bytes
from tfmpq.data.example import image_span

TO_THE_END = -1
"""Length of an image that fills its file."""


@dataclass(frozen=True, slots=True, eq=False)
class Paths:
    """Paths of M files, as one run of bytes.

    Attributes:
        root: Folder that they are relative to.
        text: uint8 (bytes,): all paths as the file system encodes them, one behind the other.
        ends: int64 (M,): where each path ends.
    """

    root: Path
    text: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, paths: Iterable[str | Path], root: Path | None = None) -> Paths:
        """These paths, relative to a folder or to the current one."""
        encoded = [os.fsencode(path) for path in paths]
        ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)
        return cls(root or Path(), np.frombuffer(b"".join(encoded), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> Path:
        begin = int(self.ends[number - 1]) if number else 0
        return self.root / os.fsdecode(self.text[begin : int(self.ends[number])].tobytes())


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Places of N compressed images.

    Attributes:
        paths: Files that hold them.
        number: int32 (N,): number of each image's file.
        offset: int64 (N,): its first byte; in an ArrayRecord file, the number of its record.
        length: int32 (N,): its bytes; `TO_THE_END` for all of the file.
    """

    paths: Paths
    number: np.ndarray
    offset: np.ndarray
    length: np.ndarray

    @classmethod
    def whole_files(cls, paths: Paths) -> Places:
        """Files that hold an image each."""
        count = len(paths)
        return cls(
            paths,
            np.arange(count, dtype=np.int32),
            np.zeros(count, np.int64),
            np.full(count, TO_THE_END, np.int32),
        )

    def __len__(self) -> int:
        return len(self.number)

    def take(self, indices: np.ndarray | slice) -> Places:
        """Only these images, in this order."""
        return Places(self.paths, self.number[indices], self.offset[indices], self.length[indices])

    def path(self, index: int) -> Path:
        """File that holds an image."""
        return self.paths[int(self.number[index])]

    def name(self, index: int) -> str:
        """Place of an image, for people."""
        path = self.path(index)
        unit = "record" if is_array_record(path) else "byte"
        return f"{path}, {unit} {int(self.offset[index])}"

    def read(self, index: int) -> bytes:
        """Compressed bytes of an image.

        Raises:
            OSError: The file cannot be read.
            ValueError: Its record is damaged.
        """
        path, offset, length = self.path(index), int(self.offset[index]), int(self.length[index])
        if is_array_record(path):
            record = record_bytes(path, offset)
            begin, end = image_span(record)
            return record[begin:end]
        with open(path, "rb", buffering=0) as file:
            if length == TO_THE_END:
                return file.read()
            file.seek(offset)
            return _exactly(file.read(length), length)


def _exactly(content: bytes, length: int) -> bytes:
    if len(content) != length:
        raise ValueError(f"the file ends after {len(content)} of {length} bytes")
    return content
