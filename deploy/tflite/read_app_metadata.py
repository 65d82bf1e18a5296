"""Reading standard TFLite metadata: labels and normalization of a file of anybody's."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from flatbuffers import number_types

from tfmpq.deploy.tflite.app_metadata import ENTRY

_MAX_TEXT = 1 << 22
"""Bytes of a file of labels, and of all of them; hostile archives unpack to any size."""


@dataclass(frozen=True, slots=True)
class AppMetadata:
    """What the standard metadata of a file say.

    Attributes:
        description: What the model does; empty if not said.
        mean: Mean of the first input's normalization, in pixels; empty without one.
        std: What is divided by then.
        labels: Names of the classes; empty without a file of them.
    """

    description: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: tuple[str, ...]


def attached_files(content: bytes) -> dict[str, str]:
    """Texts of the ZIP archive behind a model, by name; none without one or for a damaged one."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > _MAX_TEXT:
                return {}
            return {member.filename: archive.read(member).decode(errors="replace") for member in members}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OSError):
        return {}


def read_app_metadata(model: Any, content: bytes) -> AppMetadata | None:
    """The standard metadata of a file; None without them.

    Args:
        model: The file in object form.
        content: Its bytes.

    Raises:
        LookupError, TypeError, ValueError, struct.error: They are damaged.
    """
    entry = next((entry for entry in model.metadata or [] if entry.name == ENTRY), None)
    if entry is None:
        return None
    data = bytearray(np.asarray(model.buffers[entry.buffer].data, np.uint8).tobytes())
    root = flatbuffers.table.Table(
        data, flatbuffers.encode.Get(number_types.UOffsetTFlags.packer_type, data, 0)
    )
    graph = _first(root, 3)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    if graph is not None:
        source, target = _first(graph, 2), _first(graph, 3)
        unit = None if source is None else _first(source, 4)
        options = None if unit is None or _byte(unit, 0) != 1 else _child(unit, 1)
        if options is not None:
            mean, std = _floats(options, 0), _floats(options, 1)
        file = None if target is None else _first(target, 6)
        name = "" if file is None else _text(file, 0)
        labels = tuple(attached_files(content).get(name, "").splitlines())
    return AppMetadata(_text(root, 1), mean, std, labels)


def _offset(table: Any, slot: int) -> int:
    return int(table.Offset(4 + 2 * slot))


def _text(table: Any, slot: int) -> str:
    offset = _offset(table, slot)
    return table.String(table.Pos + offset).decode(errors="replace") if offset else ""


def _byte(table: Any, slot: int) -> int:
    offset = _offset(table, slot)
    return int(table.Get(number_types.Uint8Flags, table.Pos + offset)) if offset else 0


def _child(table: Any, slot: int) -> Any:
    offset = _offset(table, slot)
    return flatbuffers.table.Table(table.Bytes, table.Indirect(table.Pos + offset)) if offset else None


def _first(table: Any, slot: int) -> Any:
    """The first table of a vector of them; None without one."""
    offset = _offset(table, slot)
    if not offset or not table.VectorLen(offset):
        return None
    return flatbuffers.table.Table(table.Bytes, table.Indirect(table.Vector(offset)))


def _floats(table: Any, slot: int) -> tuple[float, ...]:
    offset = _offset(table, slot)
    if not offset:
        return ()
    values = table.GetVectorAsNumpy(number_types.Float32Flags, offset)
    return tuple(float(value) for value in values)
