"""Rewriting a `.tflite` file for a runtime and a CPU, with proof that it holds the same numbers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tfmpq.api.form_choice import device_times, processor_here
from tfmpq.api.sources import file_of
from tfmpq.deploy.conversion.chosen_forms import DeviceTimes
from tfmpq.deploy.conversion.specialize import has_wide_activations
from tfmpq.deploy.conversion.specialize import specialize as rewrite
from tfmpq.deploy.devices.pushed_runner import device
from tfmpq.deploy.runtime.processor import target_for
from tfmpq.deploy.tflite.flatbuffer import read_file, read_model, reading
from tfmpq.deploy.tflite.layout import StoredLayer, stored_layers
from tfmpq.deploy.tflite.metadata import read_forms
from tfmpq.errors import TfmpqError
from tfmpq.files import write_atomically
from tfmpq.graph.containers import WIDE_TARGET, Target
from tfmpq.graph.forms import CHOOSING_TARGET, NO_WISHES, FormOptions, FormRequest
from tfmpq.results import Result


@dataclass(frozen=True, slots=True)
class Specialization(Result, verb="specialize"):
    """What was written.

    Attributes:
        path: The file that was read.
        out: The file that was written.
        target: What it was written for.
        source_bytes: Size of the file that was read.
        bytes: Size of the file that was written.
        layers: Layers with integer weights whose integers, scales and biases were compared after the writing.
        rewritten: How many of them have another container or operator now.
        integers: Number of weight integers that were compared.
        specialize_ms: Time of the rewriting in memory, in milliseconds.
    """

    path: str
    out: str
    target: Target
    source_bytes: int
    bytes: int
    layers: int
    rewritten: int
    integers: int
    specialize_ms: float


def specialize(
    path: Any,
    out: str | Path,
    target: Target | Literal["auto"] = "litert",
    forms: FormRequest = NO_WISHES,
) -> Specialization:
    """Rewrite a file for a target, read it back and compare every integer, scale and bias.

    Args:
        path: A `.tflite`, usually in storage form, or what `export` or `quantize` returned.
        out: File to write; replaced only when the new one holds the same numbers.
        target: What to write it for; `auto` for what suits the processor at hand, which with 16-bit
            activations is always `litert`.
        forms: What decides where layers have a choice of forms; what it leaves out is what the file says, or
            else small ones that run at int8's speed on this machine. With `auto` they are for this machine.

    Raises:
        UsageError: `target` is not one that files are rewritten for, or has no form with 16-bit activations.
        TfmpqError: The file is damaged, cannot be rewritten, or would not hold the same numbers.
    """
    path = file_of(path, "A .tflite is rewritten, or what tfmpq.export or tfmpq.quantize returned.")
    content = read_file(path)
    with reading(path):
        model = read_model(content, path)
        held, wide = stored_layers(model), has_wide_activations(model)
    if target == "auto":
        here = device()
        target = WIDE_TARGET if wide else target_for(here["machine"], here["features"])
        forms = replace(forms, processor=forms.processor or processor_here())
    options, times = _choice(forms, target, model, held)
    begin = time.perf_counter()
    written = rewrite(content, target, path, options, times)
    elapsed = time.perf_counter() - begin

    def write(temporary: Path) -> None:
        temporary.write_bytes(written)
        problem = _difference(held, stored_layers(read_model(temporary.read_bytes(), out)))
        if problem:
            raise TfmpqError(
                f"A rewritten file holds the same numbers. Received: {path}, where {problem}. The file was "
                "not written; please report it."
            )

    write_atomically(Path(out), write)
    after = stored_layers(read_model(written, out))
    return Specialization(
        path=str(path),
        out=str(out),
        target=target,
        source_bytes=len(content),
        bytes=len(written),
        layers=sum(layer.integers is not None for layer in held),
        rewritten=sum(_form(old) != _form(new) for old, new in zip(held, after, strict=True)),
        integers=sum(layer.integers.size for layer in held if layer.integers is not None),
        specialize_ms=1e3 * elapsed,
    )


def _choice(
    request: FormRequest, target: Target, model: Any, held: Sequence[StoredLayer]
) -> tuple[FormOptions | None, DeviceTimes | None]:
    """What decides between forms of layers; nothing for targets without a choice."""
    if target != CHOOSING_TARGET:
        replace(request, processor=None).require(target)
        return None, None
    sizes = {layer.name: layer.integers.size for layer in held if layer.integers is not None}
    times = None if request.latency_table is None else device_times(request.latency_table, sizes)
    return request.complete(processor_here(), read_forms(model).options), times


def _form(layer: StoredLayer) -> tuple[str, int, str, str | None]:
    return layer.builtin, layer.container_bits, layer.decode, layer.order


def _difference(before: Sequence[StoredLayer], after: Sequence[StoredLayer]) -> str | None:
    """The first number in which two forms of a file differ; None if all are the same."""
    if [layer.name for layer in before] != [layer.name for layer in after]:
        return "the layers are others"
    for old, new in zip(before, after, strict=True):
        for what in ("integers", "scales", "bias", "bias_scales"):
            # A matrix product has the integers of a convolution in the same order, in fewer axes.
            pair = [getattr(layer, what) for layer in (old, new)]
            held, wanted = (np.empty(0) if value is None else value.reshape(-1) for value in pair)
            if not np.array_equal(held, wanted):
                return f"the {what.replace('_', ' ')} of layer {old.name} differ"
    return None
