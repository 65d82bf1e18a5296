"""A network's file as others get it: interface, signature, standard metadata, labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfmpq.data.preprocess import PREPROCESSINGS, value_range
from tfmpq.deploy.conversion.interface import FILE_TYPES, FileType, Interface, add_interface
from tfmpq.deploy.tflite.app_metadata import (
    LABELS,
    ModelFacts,
    TensorFacts,
    attach_files,
    write_app_metadata,
)
from tfmpq.deploy.tflite.contract import Tensor, normalization, pixels_are_codes, write_interface
from tfmpq.deploy.tflite.flatbuffer import read_model, write_model
from tfmpq.errors import UsageError
from tfmpq.graph.containers import Target
from tfmpq.graph.frozen import FrozenModel


@dataclass(frozen=True, slots=True)
class FileOptions:
    """What a person may ask of a file's ends.

    Attributes:
        input_type: `uint8` or `int8`: pixels, as they are or less 128. `float32`: preprocessed values. None
            for the codes of the network as it was trained, int8 (or int16).
        output_type: Type of the outputs; None for the codes of the network.
        softmax: Whether the file ends in probabilities.
        labels: Names of the classes, in the order of the outputs; empty for none.
    """

    input_type: FileType | None = None
    output_type: FileType | None = None
    softmax: bool = False
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("input_type", "output_type"):
            value = getattr(self, name)
            if value is not None and value not in FILE_TYPES:
                raise UsageError(
                    f"--{name.replace('_', '-')} is one of {', '.join(FILE_TYPES)}. Received: {value}. "
                    "Choose one of them."
                )


def read_labels(path: Path) -> tuple[str, ...]:
    """Names of classes from a text file, a line each; empty lines at its end are left out.

    Raises:
        UsageError: The file cannot be read, or has no names.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"Labels are lines of a text file in UTF-8. Received: {path} ({type(error).__name__}). Check it."
        ) from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise UsageError(f"Labels are lines of a text file. Received: {path}, which has none. Check it.")
    return tuple(line.strip() for line in lines)


def refuse_other_labels(labels: Sequence[str], sizes: Sequence[int]) -> None:
    """Refuse labels of another number than the outputs, before any work.

    Args:
        labels: Names of the classes; none are always right.
        sizes: Number of elements of each output of the network.

    Raises:
        UsageError: There is another number of them, or the network has several outputs.
    """
    if labels and list(sizes) != [len(labels)]:
        shown = " and ".join(map(str, sizes))
        raise UsageError(
            f"Labels name the classes of one output. Received: {len(labels)} labels for outputs of {shown}. "
            "Give one line for each output, in their order."
        )


def interface_of(frozen: FrozenModel, options: FileOptions) -> Interface:
    """What a file of the network needs at its ends.

    Raises:
        UsageError: The network has no such ends.
    """
    grid, preprocessing = frozen.layers[0].grid, str(frozen.metadata.get("preprocessing"))
    pixels = None
    if options.input_type in ("uint8", "int8") and not frozen.wide:
        entry = Tensor("", "int8", (), grid.scale, grid.zero_point)
        if not pixels_are_codes(preprocessing, entry):
            pixels = PREPROCESSINGS.get(preprocessing)
            if pixels is None and options.input_type == "uint8":
                raise UsageError(
                    "A uint8 input takes pixels. Received: a network whose inputs are no pixels of 0 to 255. "
                    "Choose --input-type float32 or int8."
                )
    own = "int16" if frozen.wide else "int8"
    return Interface(
        None if options.input_type == own else options.input_type,
        None if options.output_type == own else options.output_type,
        options.softmax,
        pixels,
    )


def as_app_file(core: bytes, frozen: FrozenModel, target: Target, options: FileOptions) -> bytes:
    """Bytes of the file that is handed out.

    Files for microcontrollers get no standard metadata: nothing there reads them, and flash is dear.

    Args:
        core: The file of the network proper.
        frozen: The network, as it was written.
        target: Which form of the file.
        options: What was asked for.

    Raises:
        UsageError: The network has no such file.
    """
    interface = interface_of(frozen, options)
    content = add_interface(core, interface)
    model = read_model(content)
    if not interface.empty:
        ends = {"inputs": [frozen.layers[0].name], "outputs": list(frozen.returned)}
        write_interface(model, interface.to_json() | ends)
    if target == "tflm":
        return write_model(model)
    graph = model.subgraphs[0]
    sizes = [int(graph.tensors[int(index)].shape[-1]) for index in graph.outputs]
    refuse_other_labels(options.labels, sizes)
    write_app_metadata(model, _facts(frozen, interface, options, model))
    files = {LABELS: "".join(f"{label}\n" for label in options.labels)} if options.labels else {}
    return attach_files(write_model(model), files)


def _facts(frozen: FrozenModel, interface: Interface, options: FileOptions, model: Any) -> ModelFacts:
    graph, metadata = model.subgraphs[0], frozen.metadata
    name = str(metadata.get("model", frozen.name))
    outputs = tuple(
        TensorFacts(
            layer,
            _said_of_output(interface, len(graph.tensors[int(index)].shape)),
            range=(0.0, 1.0) if interface.softmax else None,
            labels=bool(options.labels),
        )
        for layer, index in zip(frozen.returned, graph.outputs, strict=True)
    )
    return ModelFacts(name, _description(name, frozen, options), (_input_facts(frozen, interface),), outputs)


def _said_of_output(interface: Interface, rank: int) -> str:
    if interface.softmax:
        return "Probability of each class."
    return "Score of each class, not normalized." if rank == 2 else "Output of the network."


def _description(name: str, frozen: FrozenModel, options: FileOptions) -> str:
    height, width, channels = frozen.input_shape
    classes = f", {len(options.labels)} classes" if options.labels else ""
    return f"{name}: {height} x {width} x {channels} in{classes}; quantized and written by tfmpq."


def _input_facts(frozen: FrozenModel, interface: Interface) -> TensorFacts:
    name, (height, width, channels) = frozen.layers[0].name, frozen.input_shape
    preprocessing = str(frozen.metadata.get("preprocessing"))
    rule = PREPROCESSINGS.get(preprocessing)
    if rule is None or height == 1 or channels not in (1, 3):
        return TensorFacts(name, "Input of the network, as it was trained.")
    mean, std = normalization(preprocessing)
    takes_pixels = interface.pixels is not None
    # A program that reads these metadata hands over red, green, blue.
    reversed_ = rule.reverse and not takes_pixels
    colors = "unknown" if reversed_ else "rgb" if channels == 3 else "grayscale"
    byte = interface.input_type == "uint8" or takes_pixels
    span = (0.0, 255.0) if byte else value_range(preprocessing)
    order = ", channels in the order blue, green, red" if reversed_ else ""
    return TensorFacts(
        name, f"Image of {height} x {width} pixels{order}.", (height, width), colors, mean, std, span
    )
