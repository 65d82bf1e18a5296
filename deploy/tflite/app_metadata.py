"""Standard TFLite metadata: what apps read of a file, with the labels as a file inside it.

MediaPipe Tasks, ML Kit and Android Studio read the same flatbuffer ("M001", its public schema is
`metadata_schema.fbs`), which lies in the entry TFLITE_METADATA, and the files that it names, which lie
uncompressed in a ZIP archive behind the model. Only the fields of image classifiers and of plain numbers are
written here.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfmpq.deploy.tflite.flatbuffer import add_buffer

ENTRY = b"TFLITE_METADATA"
LABELS = "labels.txt"

_IDENTIFIER = b"M001"
_PARSER = "1.0.0"
# Numbers of the schema's unions and enumerations.
_FEATURE, _IMAGE = 1, 2
_NORMALIZATION = 1
_AXIS_LABELS = 2
_RGB, _GRAYSCALE = 1, 2
_DATE = (1980, 1, 1, 0, 0, 0)  # the first that ZIP knows: the same file always has the same bytes


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """An input or output as an app sees it.

    Attributes:
        name: What the signature calls it.
        description: One sentence.
        image: (height, width) of an image; None for anything else.
        colors: `rgb`, `grayscale`, or `unknown` where neither is right.
        mean: Mean of each channel, in pixels of 0 to 255, that is taken off; empty for no normalization.
        std: What each channel is divided by then.
        range: Smallest and largest value; None if not known.
        labels: Whether `labels.txt` names its last axis.
    """

    name: str
    description: str
    image: tuple[int, int] | None = None
    colors: str = "unknown"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    range: tuple[float, float] | None = None
    labels: bool = False


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A file as an app sees it.

    Attributes:
        name: Name of the model.
        description: What it does.
        inputs: Its inputs.
        outputs: Its outputs.
    """

    name: str
    description: str
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]


def write_app_metadata(model: Any, facts: ModelFacts) -> None:
    """Put facts, and a signature of the same names, into a model in object form; older ones are replaced."""
    model.metadata = [entry for entry in model.metadata or [] if entry.name != ENTRY]
    entry = schema.MetadataT()
    entry.name = ENTRY
    entry.buffer = add_buffer(model, np.frombuffer(_packed(facts), np.uint8))
    model.metadata.append(entry)
    model.description = facts.description.encode()
    graph, signature = model.subgraphs[0], schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
    signature.inputs = _named(graph.inputs, facts.inputs)
    signature.outputs = _named(graph.outputs, facts.outputs)
    model.signatureDefs = [signature]


def _named(indices: Sequence[int], tensors: Sequence[TensorFacts]) -> list[Any]:
    found = []
    for index, facts in zip(indices, tensors, strict=True):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = facts.name.encode(), int(index)
        found.append(entry)
    return found


def attach_files(content: bytes, files: Mapping[str, str]) -> bytes:
    """Put files behind a model, as a ZIP archive of the same bytes every time; none leave it as it is.

    Args:
        content: Bytes of a `.tflite` without files.
        files: Text by name.
    """
    if not files:
        return content
    whole = io.BytesIO(content)
    with zipfile.ZipFile(whole, "a", zipfile.ZIP_STORED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), text.encode())
    return whole.getvalue()


class _Writer:
    """Writes tables of the schema; a slot's number is its place in the table's declaration."""

    def __init__(self) -> None:
        self.builder = flatbuffers.Builder(1024)

    def text(self, value: str) -> int:
        return self.builder.CreateString(value)

    def floats(self, values: Sequence[float]) -> int:
        return self.builder.CreateNumpyVector(np.asarray(values, np.float32))

    def tables(self, offsets: Sequence[int]) -> int:
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return self.builder.EndVector()

    def table(
        self, offsets: Mapping[int, int], bytes_: Mapping[int, int] = {}, numbers: Mapping[int, int] = {}
    ) -> int:
        """A table of offsets to strings, vectors and tables, of single bytes and of 32-bit numbers."""
        self.builder.StartObject(1 + max((*offsets, *bytes_, *numbers), default=-1))
        for slot, offset in offsets.items():
            self.builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        for slot, number in numbers.items():
            self.builder.PrependUint32Slot(slot, number, 0)
        for slot, number in bytes_.items():
            self.builder.PrependUint8Slot(slot, number, 0)
        return self.builder.EndObject()


def _packed(facts: ModelFacts) -> bytes:
    writer = _Writer()
    inputs = writer.tables([_tensor(writer, tensor) for tensor in facts.inputs])
    outputs = writer.tables([_tensor(writer, tensor) for tensor in facts.outputs])
    graph = writer.tables([writer.table({2: inputs, 3: outputs})])
    name, description = writer.text(facts.name), writer.text(facts.description)
    root = writer.table({0: name, 1: description, 3: graph, 7: writer.text(_PARSER)})
    writer.builder.Finish(root, _IDENTIFIER)
    return bytes(writer.builder.Output())


def _tensor(writer: _Writer, facts: TensorFacts) -> int:
    fields = {0: writer.text(facts.name), 1: writer.text(facts.description), 3: _content(writer, facts)}
    if facts.mean:
        options = writer.table({0: writer.floats(facts.mean), 1: writer.floats(facts.std)})
        fields[4] = writer.tables([writer.table({1: options}, {0: _NORMALIZATION})])
    if facts.range:
        low, high = facts.range
        fields[5] = writer.table({0: writer.floats([high]), 1: writer.floats([low])})
    if facts.labels:
        file = writer.table(
            {0: writer.text(LABELS), 1: writer.text("Name of each class, a line each.")}, {2: _AXIS_LABELS}
        )
        fields[6] = writer.tables([file])
    return writer.table(fields)


def _content(writer: _Writer, facts: TensorFacts) -> int:
    if facts.image is None:
        return writer.table({1: writer.table({})}, {0: _FEATURE})
    height, width = facts.image
    size = writer.table({}, numbers={0: width, 1: height})
    colors = {"rgb": _RGB, "grayscale": _GRAYSCALE}.get(facts.colors, 0)
    return writer.table({1: writer.table({1: size}, {0: colors})}, {0: _IMAGE})
