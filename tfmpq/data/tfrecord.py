"""Finding images and labels in files of tf.train.Example records (TFRecord, ArrayRecord) without TensorFlow.

Framing of TFRecord files: TensorFlow's `lib/io/record_writer.h`. Only places of images are kept, so that a
data set larger than the memory can be read.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfmpq.data import array_record
from tfmpq.data.example import FEATURES, Found, find
from tfmpq.errors import TfmpqError

_HEADER = struct.Struct("<QI")
_FOOTER_BYTES = 4


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """What some files hold.

    Attributes:
        number: int32 (N,): number of each image's file.
        offset: int64 (N,): first byte of each image; in an ArrayRecord file, the number of its record.
        length: int32 (N,): its bytes.
        label: int64 (N,): its class number.
        synset: bool (N,): whether its record names a WordNet synset, as ImageNet's do.
    """

    number: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    label: np.ndarray
    synset: np.ndarray

    def __len__(self) -> int:
        return len(self.number)

    @classmethod
    def joined(cls, parts: Sequence[Records], files: Sequence[int]) -> Records:
        """The records of several parts, whose first files get these numbers."""
        numbers = [part.number + np.int32(first) for part, first in zip(parts, files, strict=True)]
        rest = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("offset", "length", "label", "synset")
        )
        return cls(np.concatenate(numbers), *rest)


def read_records(path: Path) -> Records:
    """Find the images and labels of one file.

    Raises:
        TfmpqError: The file is missing, truncated, damaged, compressed, or has other features.
    """
    try:
        return _numbered(path) if array_record.is_array_record(path) else _framed(path)
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise TfmpqError(
            "A file of records must hold whole, uncompressed tf.train.Example records with "
            f"{FEATURES}. Received: {path} ({error}). Check that it was copied completely."
        ) from error


def _framed(path: Path) -> Records:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        spans: list[tuple[int, int]] = []
        size, position = len(data), 0
        while position < size:
            length, _ = _HEADER.unpack_from(data, position)
            start = position + _HEADER.size
            if start + length + _FOOTER_BYTES > size:
                _check_headers(data, np.array([*(s - _HEADER.size for s, _ in spans), position]))
                raise ValueError(f"truncated record at byte {position}")
            spans.append((start, start + length))
            position = start + length + _FOOTER_BYTES
        _check_headers(data, np.array([start - _HEADER.size for start, _ in spans], np.int64))
        found = [find(data, *span) for span in spans]
    return _records(np.array([each.begin for each in found], np.int64), found)


def _numbered(path: Path) -> Records:
    found = [find(record, 0, len(record)) for record in array_record.records(path)]
    return _records(np.arange(len(found), dtype=np.int64), found)


def _records(offset: np.ndarray, found: Sequence[Found]) -> Records:
    return Records(
        np.zeros(len(found), np.int32),
        offset,
        np.array([each.end - each.begin for each in found], np.int32),
        np.array([each.label for each in found], np.int64),
        np.array([each.has_synset for each in found], bool),
    )


def _check_headers(data: mmap.mmap, positions: np.ndarray) -> None:
    """Hold the checksums of all headers of a file against their lengths.

    Raises:
        ValueError: One does not fit.
    """
    headers = np.array([list(data[p : p + _HEADER.size]) for p in positions.tolist()], np.uint8)
    wrong = _masked_crc32c(headers[:, :8]) != headers[:, 8:].copy().view("<u4")[:, 0]
    if wrong.any():
        raise ValueError(f"damaged record header at byte {positions[wrong.argmax()]}")


def _crc32c_table() -> np.ndarray:
    value = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        value = np.where(value & 1, value >> 1 ^ np.uint32(0x82F63B78), value >> 1)
    return value


_CRC32C = _crc32c_table()


def _masked_crc32c(content: np.ndarray) -> np.ndarray:
    """Checksums of rows of bytes, uint32 (N,), of uint8 (N, bytes)."""
    crc = np.full(len(content), 0xFFFFFFFF, np.uint32)
    for column in content.T:
        crc = crc >> 8 ^ _CRC32C[(crc ^ column) & 0xFF]
    crc ^= np.uint32(0xFFFFFFFF)
    return (crc >> 15 | crc << 17) + np.uint32(0xA282EAD8)
