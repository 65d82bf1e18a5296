"""A file in the interpreter of TensorFlow Lite for Microcontrollers, from the package `tflite-micro`.

Its kernels are those that a microcontroller runs without a vendor's library. Structures with pointers take
twice the room on this 64-bit machine, so that an arena is an upper bound for a 32-bit one.
"""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfmpq.deploy.runtime.interpreter import with_outputs
from tfmpq.deploy.tflite.flatbuffer import read_model
from tfmpq.errors import TfmpqError

_ARENA, _TIMES = 16 << 20, 16
"""Room that the interpreter gets, in bytes and in lengths of the file; what it takes of it is measured.

With too little room tflite-micro ends the process instead of raising an error.
"""


def is_installed() -> bool:
    """Whether the package is there; it has wheels for Linux on x86-64 only."""
    return importlib.util.find_spec("tflite_micro") is not None


def run_micro(content: bytes, names: Sequence[str] | None, codes: np.ndarray, peak: int) -> list[np.ndarray]:
    """Outputs of a file, which this process has written, for each input.

    Args:
        content: Bytes of a `.tflite`.
        names: Tensors to read, which become outputs of the graph; None for the outputs that it has.
        codes: (N, ...) as the input tensor holds them.
        peak: Bytes that all tensors that are read, and unpacked weights, take at least.

    Returns:
        An array (N, ...) for each output.

    Raises:
        TfmpqError: The runtime refuses the file.
    """
    whole = content if names is None else with_outputs(content, names)
    count = _output_count(whole)
    interpreter = _open(whole, peak)
    found: list[list[np.ndarray]] = [[] for _ in range(count)]
    for index in range(len(codes)):
        interpreter.set_input(codes[index : index + 1], 0)
        interpreter.invoke()
        for number, values in enumerate(found):
            values.append(np.array(interpreter.get_output(number)))
    return [np.concatenate(values) for values in found]


def arena_bytes(content: bytes, peak: int) -> int:
    """Bytes that the runtime takes of its arena for a file, which this process has written.

    Args:
        content: Bytes of a `.tflite`.
        peak: Bytes that activations and unpacked weights take at least.

    Raises:
        TfmpqError: The runtime refuses the file, or does not say.
    """
    return _allocated(content, peak, "total")


def planned_bytes(content: bytes, peak: int) -> int:
    """The part of the arena that the runtime's planner shares out: activations and scratch buffers.

    Args and errors are those of `arena_bytes`.
    """
    return _allocated(content, peak, "head")


def _allocated(content: bytes, peak: int, part: str) -> int:
    interpreter = _open(content, peak)
    details = interpreter.get_input_details(0)
    interpreter.set_input(np.zeros(details["shape"], details["dtype"]), 0)
    interpreter.invoke()
    said = _said(interpreter.print_allocations)
    total = re.search(rf"Arena allocation {part} (\d+) bytes", said)
    if total is None:
        raise TfmpqError(
            f"tflite-micro did not say what it allocates. Received: {said[:200]!r}. Please report it."
        )
    return int(total.group(1))


def _open(content: bytes, peak: int) -> Any:
    from tflite_micro import runtime

    try:
        return runtime.Interpreter.from_bytes(content, arena_size=_ARENA + _TIMES * (len(content) + peak))
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise TfmpqError(
            f"tflite-micro has to accept the file. Received: a file that it refuses with: {reason}. "
            "Export it again, or choose another target."
        ) from error


def _output_count(content: bytes) -> int:
    return len(read_model(content).subgraphs[0].outputs)


def _said(function: Any) -> str:
    """What a function of C++ prints to stderr."""
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        try:
            os.dup2(file.fileno(), 2)
            function()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        return file.read().decode(errors="replace")
