"""What a file says of itself: facts as JSON in a metadata entry of the `.tflite`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfmpq.deploy.tflite.flatbuffer import add_buffer, read_model, write_model
from tfmpq.errors import TfmpqError

ENTRY = b"tfmpq"


def write_record(model: Any, metadata: Mapping[str, Any], weight_bits: Mapping[str, int]) -> None:
    """Make the facts the only metadata of a model.

    Args:
        model: Model in object form.
        metadata: JSON-able facts of the caller.
        weight_bits: Trained weight bit-widths by layer name.
    """
    facts = {"metadata": dict(metadata), "weight_bits": dict(weight_bits)}
    entry = schema.MetadataT()
    entry.name = ENTRY
    text = json.dumps(facts, separators=(",", ":")).encode()
    entry.buffer = add_buffer(model, np.frombuffer(text, np.uint8))
    model.metadata = [entry]


def with_facts(content: bytes, facts: Mapping[str, Any]) -> bytes:
    """A file of this toolchain with more facts of the caller's; nothing else changes.

    Args:
        content: Bytes of the file.
        facts: JSON-able facts, by name.
    """
    model = read_model(content)
    record = _read(model, "model")
    record["metadata"] = {**record.get("metadata", {}), **facts}
    entry = next(entry for entry in model.metadata if entry.name == ENTRY)
    text = json.dumps(record, separators=(",", ":")).encode()
    model.buffers[entry.buffer].data = np.frombuffer(text, np.uint8)
    return write_model(model)


def read_metadata(content: bytes, name: str | Path = "model") -> dict[str, Any]:
    """The caller's facts in a file; empty for files of others.

    Raises:
        TfmpqError: The file is damaged.
    """
    return dict(_read(read_model(content, name), name).get("metadata", {}))


def read_weight_bits(model: Any, name: str | Path = "model") -> dict[str, int]:
    """Trained weight bit-widths by layer name; empty for files of others.

    Raises:
        TfmpqError: The facts are damaged.
    """
    return dict(_read(model, name).get("weight_bits", {}))


def _read(model: Any, name: str | Path) -> dict[str, Any]:
    entry = next((entry for entry in model.metadata or [] if entry.name == ENTRY), None)
    if entry is None:
        return {}
    try:
        record = json.loads(bytes(bytearray(model.buffers[entry.buffer].data)))
    except (ValueError, TypeError):
        record = None
    if not isinstance(record, dict) or not all(isinstance(part, dict) for part in record.values()):
        raise TfmpqError(
            f"The facts that a .tflite file carries are JSON. Received: {name}, where they are damaged. "
            "Export it again."
        )
    return record
