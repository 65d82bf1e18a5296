"""From one form of a file to another, without TensorFlow: same integers, other containers and operators."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfmpq.deploy.conversion.chosen_forms import DeviceTimes, entry_of
from tfmpq.deploy.runtime.soundness import refuse_wrong
from tfmpq.deploy.tflite.app_metadata import attach_files
from tfmpq.deploy.tflite.flatbuffer import (
    BITS_OF_TYPE,
    TYPE_OF_BITS,
    add_tensor,
    builtin_name,
    contents,
    operator_code,
    pack,
    printable,
    read_model,
    reading,
    unpack,
    write_model,
)
from tfmpq.deploy.tflite.layout import (
    CHANNEL_AXIS,
    VERSIONS,
    WEIGHTS,
    entry_input,
    file_operator,
    tensor_name,
    weight_source,
)
from tfmpq.deploy.tflite.metadata import Forms, read_forms, read_weight_bits, replace_forms
from tfmpq.deploy.tflite.read_app_metadata import attached_files
from tfmpq.deploy.tflite.unfold import (
    Unfolder,
    become_fully_connected,
    fold,
    source_image,
    unfolded_input,
    window_of,
)
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.graph.containers import (
    SPECIALIZED,
    WIDE_TARGET,
    Builtin,
    Container,
    Operator,
    Target,
    alternatives,
    container_for,
)
from tfmpq.graph.forms import FormOptions, Work, choose
from tfmpq.graph.unfolding import Order, Window


def specialize(
    content: bytes,
    target: Target = "litert",
    name: str | Path = "model",
    options: FormOptions | None = None,
    times: DeviceTimes | None = None,
) -> bytes:
    """Rewrite a file for a target; one that has that form already keeps its contents.

    Args:
        content: Bytes of a `.tflite`.
        target: What to write it for: the rule table says which container and operator each layer gets.
        name: What to call the file in an error.
        options: What decides where layers have a choice of forms; None to keep unfolded convolutions as they
            are and to unfold no other.
        times: What a latency table of the device says about forms.

    Returns:
        Bytes of a `.tflite` with the same integers, scales and biases, without CAST.

    Raises:
        UsageError: `target` is not one that files are rewritten for, or has no form with 16-bit activations.
        TfmpqError: The file is damaged or cannot be rewritten.
    """
    if target not in SPECIALIZED:
        raise UsageError(
            f"A file is rewritten for {', '.join(SPECIALIZED)}. Received: {target}. Choose one of them; "
            "tfmpq export writes the storage form."
        )
    model = read_model(content, name)
    bits, forms = read_weight_bits(model, name), read_forms(model, name)
    with reading(name):
        refuse_wrong(model, name)
        if target != WIDE_TARGET and has_wide_activations(model):
            raise UsageError(
                f"16-bit activations are written for --target {WIDE_TARGET}. Received: {target}, for {name}. "
                "Choose that target, or export 8 bits."
            )
        _Rewriting(model, target, bits, forms, options, times or {}).run()
        return attach_files(write_model(model), attached_files(content))


def has_wide_activations(model: Any) -> bool:
    """Whether a file computes with 16-bit activations.

    Args:
        model: A file in object form, from `read_model`.
    """
    graph = model.subgraphs[0]
    computed = {int(index) for operator in graph.operators or [] for index in operator.outputs}
    return any(graph.tensors[index].type == schema.TensorType.INT16 for index in computed)


@dataclass(frozen=True, slots=True)
class _Held:
    """An operator with weights as it was read; an unfolded convolution has the row of the convolution."""

    name: str
    row: Operator
    builtin: str
    bits: int
    shape: tuple[int, ...]
    order: Order | None
    window: Window | None


class _Rewriting:
    """Gives every operator with weights the container and the form that it is to have."""

    def __init__(
        self,
        model: Any,
        target: Target,
        trained: Mapping[str, int],
        forms: Forms,
        options: FormOptions | None,
        times: DeviceTimes,
    ) -> None:
        self.model, self.target, self.trained = model, target, trained
        self.forms, self.options, self.times = forms, options, times
        self.graph, self.unfolder = model.subgraphs[0], Unfolder(model)
        self.producers = {int(op.outputs[0]): op for op in self.graph.operators if len(op.outputs)}
        self.entries: dict[str, Mapping[str, Any]] = {}

    def run(self) -> None:
        """Rewrite all of them; what nobody reads afterwards is left out."""
        operators = []
        for operator in self.graph.operators:
            if builtin_name(self.model, operator) in CHANNEL_AXIS and len(operator.inputs) > 1:
                operators += self._rewrite(operator)
            operators.append(operator)
        self.graph.operators = operators
        _drop_dead_operators(self.graph)
        options = self.options or self.forms.options
        replace_forms(self.model, Forms(options, self.entries) if self.entries else Forms())

    def _rewrite(self, operator: Any) -> list[Any]:
        """Rewrite one; returns the operators that have to run before it."""
        tensors = self.graph.tensors
        source = weight_source(self.model, operator, self.producers)
        stored, read = tensors[source], tensors[int(operator.inputs[1])]
        bits, data = BITS_OF_TYPE.get(stored.type), contents(self.model, stored)
        activation = tensors[int(operator.inputs[entry_input(builtin_name(self.model, operator))])]
        if bits is None or not data.size or activation.type != schema.TensorType.INT8:
            return []
        held = self._held(operator, stored, activation, bits)
        container = self._container(held, operator)
        same = (container.bits, container.builtin, container.order) == (bits, held.builtin, held.order)
        if same and stored is read:
            return []
        integers = unpack(data, bits, math.prod(held.shape))
        shape, before = self._reform(operator, held, container, activation.quantization)
        kind, packed = TYPE_OF_BITS[container.bits], _packed(integers, container.bits, held.name)
        wide = add_tensor(self.model, tensor_name(stored), shape, kind, read.quantization, packed)
        operator.inputs = np.array([operator.inputs[0], wide, *operator.inputs[2:]], np.int32)
        version = VERSIONS[container.builtin, container.bits]
        operator.opcodeIndex = operator_code(self.model, container.builtin, version)
        return before

    def _held(self, operator: Any, stored: Any, activation: Any, bits: int) -> _Held:
        builtin = builtin_name(self.model, operator)
        name = tensor_name(stored).removesuffix(WEIGHTS)
        shape = tuple(int(size) for size in stored.shape)
        ours = name in self.trained
        order = self.forms.order(name) if ours and builtin == "FULLY_CONNECTED" else None
        if order is not None:
            image = source_image(self.model, operator, self.producers)
            window = Window.from_record(image, self.forms.layers[name])
            if window.fan_in != shape[1]:  # before anything as long as it says is made of it
                raise ValueError(f"windows of {window.fan_in} codes for {shape[1]} weights")
            unfolded_input(self.model, operator, self.producers, window, order)
            return _Held(name, "conv2d", builtin, bits, shape, order, window)
        row = _row(operator, builtin, shape, activation, ours)
        whole = ours and row == "conv2d" and shape[3] == activation.shape[-1]
        found = window_of(operator, activation.shape[1:], (shape[1], shape[2])) if whole else None
        return _Held(name, row, builtin, bits, shape, None, found)

    def _container(self, held: _Held, operator: Any) -> Container:
        """What a layer is to have: chosen, kept, or as the rule table says."""
        channels = held.shape[CHANNEL_AXIS[held.builtin]]
        fan_in, bits = math.prod(held.shape) // channels, self.trained.get(held.name, held.bits)
        first = container_for(held.row, bits, fan_in, self.target)
        others = alternatives(held.row, bits, fan_in, self.target) if held.name in self.trained else ()
        if not others or (held.row == "conv2d" and not (held.window and held.window.is_unfoldable)):
            return first
        if self.options is None:
            kept = [c for c in others if held.name in self.forms.layers and c.bits == held.bits]
            if held.name in self.forms.layers:
                self.entries[held.name] = self.forms.layers[held.name]
            return replace(kept[0], order=held.order) if kept else first
        pixels = math.prod(int(n) for n in self.graph.tensors[int(operator.outputs[0])].shape[1:-1])
        work = Work(held.row, bits, fan_in, channels, pixels, held.window)
        choice = choose(work, self.target, self.options, self.times.get(held.name))
        self.entries[held.name] = entry_of(choice, held.window)
        return choice.chosen.container

    def _reform(
        self, operator: Any, held: _Held, container: Container, grid: Any
    ) -> tuple[tuple[int, ...], list[Any]]:
        """Change the operator; returns the new shape of its weights and what has to run before it."""
        shape, builtin, window = held.shape, held.builtin, held.window
        if held.order is not None and window is not None and container.order != held.order:
            fold(self.model, operator, self.producers, window, held.order)
            builtin, shape = "CONV_2D", (shape[0], *window.kernel, window.image[2])
        if container.order is not None and window is not None and container.order != held.order:
            return (shape[0], window.fan_in), self.unfolder.unfold(operator, window, container.order, grid)
        if container.builtin != builtin:
            shape = _become(operator, container.builtin, shape)
        return shape, []


def _row(operator: Any, builtin: str, shape: tuple[int, ...], activation: Any, ours: bool) -> Operator:
    """Row of the rule table; 1x1 convolutions of others stay what they are."""
    if builtin == "FULLY_CONNECTED":
        return file_operator(operator, builtin) if len(activation.shape) == 4 else "dense"
    options = operator.builtinOptions
    pointwise = ours and builtin == "CONV_2D" and shape[1:3] == (1, 1) and shape[3] == activation.shape[-1]
    if pointwise and (options.strideH, options.strideW) == (1, 1):
        return "pointwise"
    return file_operator(operator, builtin)


def _become(operator: Any, builtin: Builtin, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Turn a 1x1 convolution into a matrix product or back; returns the new shape of its weights."""
    if builtin == "FULLY_CONNECTED":
        become_fully_connected(operator)
        return shape[0], shape[3]
    options = schema.Conv2DOptionsT()
    options.padding, options.strideH, options.strideW = schema.Padding.VALID, 1, 1
    options.fusedActivationFunction = operator.builtinOptions.fusedActivationFunction
    operator.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
    operator.builtinOptions = options
    return shape[0], 1, 1, shape[1]


def _packed(integers: np.ndarray, bits: int, name: str) -> np.ndarray:
    """Packed weights; a file whose record promises fewer bits than its integers need is refused."""
    if integers.size and not -(2 ** (bits - 1)) <= integers.min() <= integers.max() < 2 ** (bits - 1):
        raise TfmpqError(
            "The weights of a layer fit into the bits that its file records. "
            f"Received: layer {printable(name)}, whose "
            f"integers from {integers.min()} to {integers.max()} do not fit into {bits} bits. "
            "Export it again."
        )
    return pack(integers, bits)


def _drop_dead_operators(graph: Any) -> None:
    """Leave out operators whose result nobody reads: the casts."""
    needed = {int(index) for index in graph.outputs}
    kept = []
    for operator in reversed(graph.operators):
        if needed & {int(index) for index in operator.outputs}:
            kept.append(operator)
            needed |= {int(index) for index in operator.inputs}
    graph.operators = kept[::-1]
