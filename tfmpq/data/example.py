"""Image and label within a serialized tf.train.Example, found without TensorFlow and without copying.

Messages: TensorFlow's `core/example/example.proto`, in the protobuf wire format.
"""

from __future__ import annotations

import mmap
from typing import NamedTuple

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NAMES = ((b"image/encoded", b"image/class/label"), (b"image", b"label"))
"""Features of the image and of its label: as ImageNet's converter and as tensorflow-datasets write them."""
FEATURES = "image/encoded and image/class/label"
_SYNSET = b"image/class/synset"

Buffer = mmap.mmap | bytes
_Span = tuple[int, int]


class Found(NamedTuple):
    """One example.

    Attributes:
        begin: First byte of the compressed image.
        end: Byte behind it.
        label: Class number.
        has_synset: Whether a WordNet synset is named, as ImageNet's examples do.
    """

    begin: int
    end: int
    label: int
    has_synset: bool


def find(data: Buffer, begin: int, end: int) -> Found:
    """Find the image and the label of the example that lies in these bytes.

    Raises:
        ValueError: It is damaged, or has other features.
        IndexError: Likewise.
    """
    features = _features(data, begin, end)
    for image_name, label_name in _NAMES:
        if image_name in features and label_name in features:
            first, last = _first_value(data, features[image_name], 1)
            label, _ = _varint(data, _first_value(data, features[label_name], 3)[0])
            signed = label - (1 << 64) if label >> 63 else label
            return Found(first, last, signed, _SYNSET in features)
    names = ", ".join(sorted(name.decode(errors="replace") for name in features))
    raise ValueError(f"record at byte {begin} has only {names or 'no features'}")


def image_span(example: bytes) -> _Span:
    """First byte of the compressed image in an example, and the byte behind it.

    Raises:
        ValueError: The example is damaged.
    """
    try:
        found = find(example, 0, len(example))
    except IndexError as error:
        raise ValueError("damaged record") from error
    return found.begin, found.end


def _features(data: Buffer, begin: int, end: int) -> dict[bytes, _Span]:
    # Example.features = 1; Features.feature = 1, a map whose entries have key = 1 and value = 2.
    found = {}
    for _, features in _fields(data, begin, end):
        for _, entry in _fields(data, *features):
            parts = dict(_fields(data, *entry))
            if 1 in parts and 2 in parts:
                first, last = parts[1]
                found[data[first:last]] = parts[2]
    return found


def _first_value(data: Buffer, feature: _Span, kind: int) -> _Span:
    # Feature is one of bytes_list = 1, float_list = 2, int64_list = 3; their values are field 1.
    for number, values in _fields(data, *feature):
        if number == kind:
            for _, value in _fields(data, *values):
                return value
    raise ValueError(f"empty feature, or one of another type, at byte {feature[0]}")


def _fields(data: Buffer, position: int, end: int) -> list[tuple[int, _Span]]:
    """Numbers of a message's fields and the bytes of their values, without their lengths."""
    found = []
    while position < end:
        key = data[position]
        position += 1
        if key > 127:
            key, position = _varint(data, position - 1)
        wire_type = key & 7
        if wire_type == _BYTES:
            length = data[position]
            start = position + 1
            if length > 127:
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
        found.append((key >> 3, (start, position)))
    return found


def _varint(data: Buffer, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"damaged record at byte {position}")
