"""A model as C++ source for TensorFlow Lite for Microcontrollers: an array, and its operators."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from tfmpq.deploy.microcontroller.report import flash_image
from tfmpq.deploy.tflite.flatbuffer import builtin_name, read_model
from tfmpq.errors import TfmpqError
from tfmpq.files import write_atomically

_ADDERS = {
    "ADD": "AddAdd",
    "AVERAGE_POOL_2D": "AddAveragePool2D",
    "CONCATENATION": "AddConcatenation",
    "CONV_2D": "AddConv2D",
    "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D",
    "DEQUANTIZE": "AddDequantize",
    "FULLY_CONNECTED": "AddFullyConnected",
    "LOGISTIC": "AddLogistic",
    "MAX_POOL_2D": "AddMaxPool2D",
    "MEAN": "AddMean",
    "MUL": "AddMul",
    "PAD": "AddPad",
    "QUANTIZE": "AddQuantize",
    "RESHAPE": "AddReshape",
    "SLICE": "AddSlice",
    "SOFTMAX": "AddSoftmax",
    "STRIDED_SLICE": "AddStridedSlice",
    "TRANSPOSE_CONV": "AddTransposeConv",
}
"""Methods of `tflite::MicroMutableOpResolver` by operator."""

_PER_LINE = 12


def resolver_lines(content: bytes) -> tuple[str, ...]:
    """Methods of the resolver that a file needs, in alphabetical order.

    Raises:
        TfmpqError: The runtime has no such operator; it is named.
    """
    model = read_model(content)
    names = {builtin_name(model, operator) for operator in model.subgraphs[0].operators}
    missing = sorted(names - _ADDERS.keys())
    if missing:
        raise TfmpqError(
            "TensorFlow Lite for Microcontrollers has to have every operator. Received: "
            f"{', '.join(missing)}, which it has not. Replace the layer."
        )
    return tuple(sorted(_ADDERS[name] for name in names))


def write_c_source(content: bytes, folder: Path, name: str, arena: int | None) -> tuple[Path, Path]:
    """Write `NAME_model.h` and `NAME_model.cc`.

    Args:
        content: The file for microcontrollers.
        folder: Where to write; it is made.
        name: What to call the model; characters that C++ does not take in names become `_`.
        arena: Bytes of the arena, if they were measured.

    Returns:
        Header and source.

    Raises:
        TfmpqError: The runtime lacks an operator, or a file cannot be written.
    """
    identifier = _identifier(name)
    image = flash_image(content)
    texts = {
        f"{identifier}_model.h": _header(identifier, len(image), resolver_lines(content), arena),
        f"{identifier}_model.cc": _source(identifier, image),
    }
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            write_atomically(folder / file, partial(_write_text, text))
            paths.append(folder / file)
    except OSError as error:
        raise TfmpqError(
            f"C++ source is written to a folder. Received: {folder} ({error.strerror}). Choose another."
        ) from error
    return paths[0], paths[1]


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="ascii")


def _identifier(name: str) -> str:
    plain = re.sub(r"\W", "_", name, flags=re.ASCII).lower()
    return plain if plain[:1].isalpha() else f"model_{plain}"


def _header(name: str, size: int, adders: Iterable[str], arena: int | None) -> str:
    adders = tuple(adders)
    guard = f"{name.upper()}_MODEL_H_"
    known = [
        "// Bytes that the interpreter took on a 64-bit machine; a 32-bit one takes less.",
        f"constexpr unsigned int k{_camel(name)}ArenaSize = {arena};",
        "",
    ]
    lines = [
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
        '#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"',
        "",
        f"extern const unsigned char {name}_model[];",
        f"constexpr unsigned int k{_camel(name)}ModelSize = {size};",
        *(known if arena else ()),
        f"using {_camel(name)}OpResolver = tflite::MicroMutableOpResolver<{len(adders)}>;",
        "",
        "// Registers the operators of the model, and no others.",
        f"inline TfLiteStatus Register{_camel(name)}Ops({_camel(name)}OpResolver& resolver) {{",
        *(f"  if (resolver.{adder}() != kTfLiteOk) return kTfLiteError;" for adder in adders),
        "  return kTfLiteOk;",
        "}",
        "",
        f"#endif  // {guard}",
        "",
    ]
    return "\n".join(lines)


def _source(name: str, image: bytes) -> str:
    rows = "\n".join(_rows(image))
    return (
        f'#include "{name}_model.h"\n\n'
        "// The runtime reads tensors where they lie, aligned to 16 bytes.\n"
        f"alignas(16) const unsigned char {name}_model[] = {{\n{rows}\n}};\n"
    )


def _rows(image: bytes) -> Iterator[str]:
    for start in range(0, len(image), _PER_LINE):
        yield "    " + ", ".join(f"0x{byte:02x}" for byte in image[start : start + _PER_LINE]) + ","


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_") if part)
