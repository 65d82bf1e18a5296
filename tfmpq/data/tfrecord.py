"""Finding images and labels in TFRecord files of tf.train.Example, without TensorFlow and without copying.

Framing: TensorFlow's `lib/io/record_writer.h`; messages: `core/example/example.proto`, protobuf wire format.
Only places of images are kept, so that a data set larger than the memory can be read.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tfmpq.data.images import EncodedImage
from tfmpq.errors import TfmpqError

_HEADER = struct.Struct("<QI")
_FOOTER_BYTES = 4
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NAMES = (("image/encoded", "image/class/label"), ("image", "label"))
"""Features of the image and of its label: as ImageNet's converter and as tensorflow-datasets write them."""

_Buffer = mmap.mmap
_Span = tuple[int, int]


class LabelledImage(NamedTuple):
    """One record.

    Attributes:
        image: Place of the compressed image.
        label: Class number.
        has_synset: Whether the record names a WordNet synset, as ImageNet's do.
    """

    image: EncodedImage
    label: int
    has_synset: bool


def read_tfrecord(path: Path) -> list[LabelledImage]:
    """Find the images and labels of one TFRecord file.

    Raises:
        TfmpqError: The file is missing, truncated, damaged, compressed, or has other features.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return [_labelled_image(path, data, span) for span in _records(data)]
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise TfmpqError(
            "A TFRecord file must hold whole, uncompressed tf.train.Example records with "
            f"{' and '.join(_NAMES[0])}. Received: {path} ({error}). Check that it was copied completely."
        ) from error


def _records(data: _Buffer) -> Iterator[_Span]:
    position = 0
    while position < len(data):
        length, checksum = _HEADER.unpack_from(data, position)
        start = position + _HEADER.size
        if checksum != _masked_crc32c(data[position : position + 8]):
            raise ValueError(f"damaged record header at byte {position}")
        if start + length + _FOOTER_BYTES > len(data):
            raise ValueError(f"truncated record at byte {position}")
        yield start, start + length
        position = start + length + _FOOTER_BYTES


def _labelled_image(path: Path, data: _Buffer, record: _Span) -> LabelledImage:
    features = dict(_features(data, record))
    for image_name, label_name in _NAMES:
        if image_name in features and label_name in features:
            start, end = _first_value(data, features[image_name], 1)
            image = EncodedImage(path, start, end - start)
            label = _integer(data, features[label_name])
            return LabelledImage(image, label, "image/class/synset" in features)
    raise ValueError(f"record at byte {record[0]} has only {', '.join(sorted(features)) or 'no features'}")


def _features(data: _Buffer, example: _Span) -> Iterator[tuple[str, _Span]]:
    # Example.features = 1; Features.feature = 1, a map whose entries have key = 1 and value = 2.
    for _, features in _fields(data, example):
        for _, entry in _fields(data, features):
            parts = dict(_fields(data, entry))
            if 1 in parts and 2 in parts:
                yield data[slice(*parts[1])].decode(), parts[2]


def _first_value(data: _Buffer, feature: _Span, kind: int) -> _Span:
    # Feature is one of bytes_list = 1, float_list = 2, int64_list = 3; their values are field 1.
    for number, values in _fields(data, feature):
        if number == kind:
            for _, value in _fields(data, values):
                return value
    raise ValueError(f"empty feature, or one of another type, at byte {feature[0]}")


def _integer(data: _Buffer, feature: _Span) -> int:
    value, _ = _varint(data, _first_value(data, feature, 3)[0])
    return value - (1 << 64) if value >> 63 else value


def _fields(data: _Buffer, span: _Span) -> Iterator[tuple[int, _Span]]:
    """Numbers of a message's fields and the bytes of their values, without their lengths."""
    position, end = span
    while position < end:
        key, position = _varint(data, position)
        wire_type = key & 7
        if wire_type == _BYTES:
            length, start = _varint(data, position)
            position = start + length
        elif wire_type == _VARINT:
            start = position
            _, position = _varint(data, position)
        elif wire_type in (_FIXED64, _FIXED32):
            start, position = position, position + (8 if wire_type == _FIXED64 else 4)
        else:
            raise ValueError(f"damaged record at byte {position}")
        if position > end:
            raise ValueError(f"damaged record at byte {start}")
        yield key >> 3, (start, position)


def _varint(data: _Buffer, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"damaged record at byte {position}")


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C = _crc32c_table()


def _masked_crc32c(content: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
