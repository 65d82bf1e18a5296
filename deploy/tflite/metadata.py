"""What a file says of itself: facts as JSON in a metadata entry of the `.tflite`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfmpq.deploy.tflite.flatbuffer import add_buffer, read_model, write_model
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.graph.forms import FormOptions
from tfmpq.graph.unfolding import ORDERS, Order

ENTRY = b"tfmpq"


@dataclass(frozen=True, slots=True)
class Forms:
    """Why layers have the forms that they have in a file.

    Attributes:
        options: What decided; None in a file in which nothing was decided.
        layers: By layer name, where there was a choice: `time` of the smallest product relative to int8 (of
            the chosen one if it is one), `source` of that time, and for an unfolded convolution `order`,
            `scratch` and how it reads its input, as `tfmpq.graph.unfolding.Window` writes it.
    """

    options: FormOptions | None = None
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def order(self, name: str) -> Order | None:
        """Order in which a layer is unfolded; None if it is not."""
        found = self.layers.get(name, {}).get("order")
        return found if found in ORDERS else None

    def why(self, name: str) -> str | None:
        """Why a layer has its form, in words; None where there was no choice."""
        entry = self.layers.get(name)
        if entry is None or self.options is None:
            return None
        where = "as measured on the device" if entry.get("measured") else f"on {self.options.processor}"
        time = f"{entry.get('time')} of the int8 time {where}"
        chosen = f"preferring {self.options.prefer}"
        if "order" in entry:
            return f"product unfolded {entry['order']}: {time}, {chosen}"
        return f"not the smallest: that would take {time}, {chosen}" if "time" in entry else "the smallest"


def write_record(
    model: Any, metadata: Mapping[str, Any], weight_bits: Mapping[str, int], forms: Forms | None = None
) -> None:
    """Make the facts the only metadata of a model.

    Args:
        model: Model in object form.
        metadata: JSON-able facts of the caller.
        weight_bits: Trained weight bit-widths by layer name.
        forms: Why layers have their forms; None where nothing was decided.
    """
    facts: dict[str, Any] = {"metadata": dict(metadata), "weight_bits": dict(weight_bits)}
    if forms is not None and forms.options is not None:
        facts["forms"] = _record(forms, forms.options)
    model.metadata = [_entry(model, facts)]


def _record(forms: Forms, options: FormOptions) -> dict[str, Any]:
    return {**asdict(options), "layers": {name: dict(entry) for name, entry in forms.layers.items()}}


def _entry(model: Any, facts: Mapping[str, Any]) -> Any:
    entry = schema.MetadataT()
    entry.name = ENTRY
    text = json.dumps(facts, separators=(",", ":")).encode()
    entry.buffer = add_buffer(model, np.frombuffer(text, np.uint8))
    return entry


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
    return read_facts(read_model(content, name), name)


def read_facts(model: Any, name: str | Path = "model") -> dict[str, Any]:
    """The caller's facts in a file in object form; empty for files of others.

    Raises:
        TfmpqError: The facts are damaged.
    """
    return dict(_read(model, name).get("metadata", {}))


def read_weight_bits(model: Any, name: str | Path = "model") -> dict[str, int]:
    """Trained weight bit-widths by layer name; empty for files of others.

    Raises:
        TfmpqError: The facts are damaged.
    """
    return dict(_read(model, name).get("weight_bits", {}))


def read_forms(model: Any, name: str | Path = "model") -> Forms:
    """Why layers have the forms that they have; nothing for files of others.

    Raises:
        TfmpqError: The facts are damaged.
    """
    record = dict(_read(model, name).get("forms", {}))
    layers = record.pop("layers", {})
    if not record and not layers:
        return Forms()
    try:
        options = FormOptions(**record)
    except (TypeError, UsageError) as error:
        raise _damaged(name) from error
    if not isinstance(layers, dict) or type(options.max_scratch) is not int:
        raise _damaged(name)
    if not all(isinstance(entry, dict) and _is_entry(entry) for entry in layers.values()):
        raise _damaged(name)
    return Forms(options, layers)


def _is_entry(entry: Mapping[str, Any]) -> bool:
    """Whether what a file says of a layer is what this package writes, as far as it is shown to people."""
    time, scratch = entry.get("time", 0.0), entry.get("scratch", 0)
    return (
        isinstance(time, int | float)
        and type(scratch) is int
        and scratch >= 0
        and entry.get("order") in (None, *ORDERS)
    )


def replace_forms(model: Any, forms: Forms) -> None:
    """Say other reasons in a file that has a record; one that has none, and all else, stays as it is."""
    if forms == read_forms(model) or not any(entry.name == ENTRY for entry in model.metadata or []):
        return
    facts = _read(model, "model")
    facts.pop("forms", None)
    if forms.options is not None:
        facts["forms"] = _record(forms, forms.options)
    entry = _entry(model, facts)
    model.metadata = [entry if other.name == ENTRY else other for other in model.metadata]


def _read(model: Any, name: str | Path) -> dict[str, Any]:
    entry = next((entry for entry in model.metadata or [] if entry.name == ENTRY), None)
    if entry is None:
        return {}
    try:
        record = json.loads(bytes(bytearray(model.buffers[entry.buffer].data)))
    except (ValueError, TypeError):
        record = None
    if not isinstance(record, dict) or not all(isinstance(part, dict) for part in record.values()):
        raise _damaged(name)
    return record


def _damaged(name: str | Path) -> TfmpqError:
    return TfmpqError(
        f"The facts that a .tflite file carries are JSON. Received: {name}, where they are damaged. "
        "Export it again."
    )
