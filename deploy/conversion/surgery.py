"""From a frozen network to a `.tflite`: the converter's structure, our integers, scales and packing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfmpq.deploy.conversion.chosen_forms import DeviceTimes, choose_forms, forms_record
from tfmpq.deploy.conversion.topology import deployable, geometry
from tfmpq.deploy.tflite.flatbuffer import (
    TYPE_OF_BITS,
    add_tensor,
    builtin_name,
    operator_code,
    pack,
    quantization,
    read_model,
    write_model,
)
from tfmpq.deploy.tflite.layout import (
    CHANNEL_AXIS,
    VERSIONS,
    WEIGHTS,
    WIDE_VERSIONS,
    bias_type,
    container_of,
    entry_input,
    file_layout,
)
from tfmpq.deploy.tflite.metadata import Forms, write_record
from tfmpq.deploy.tflite.unfold import Unfolder, become_fully_connected, window_of
from tfmpq.errors import TfmpqError
from tfmpq.graph.containers import Container, Target
from tfmpq.graph.forms import Choice, FormOptions
from tfmpq.graph.frozen import FrozenLayer, FrozenModel, FrozenWeights
from tfmpq.graph.kinds import OPERATORS
from tfmpq.graph.unfolding import Order

_TENSOR_TYPES: dict[Any, int] = {
    np.int8: schema.TensorType.INT8,
    np.int16: schema.TensorType.INT16,
    np.int32: schema.TensorType.INT32,
    np.int64: schema.TensorType.INT64,
}


def build_tflite(
    frozen: FrozenModel,
    target: Target,
    options: FormOptions | None = None,
    times: DeviceTimes | None = None,
) -> bytes:
    """Write a network as the bytes of a `.tflite`, unproved.

    Args:
        frozen: The network.
        target: Which form of the file.
        options: What decides where layers have a choice of forms; None for those of the rule table.
        times: What a latency table of the device says about forms.

    Raises:
        TfmpqError: A layer has no form in a file.
    """
    from tfmpq.deploy.conversion.placeholder import convert_placeholder  # imports TensorFlow

    frozen = deployable(frozen)
    model = read_model(convert_placeholder(frozen), "the converter's graph")
    choices = choose_forms(frozen, target, options, times) if options else {}
    forms = forms_record(frozen, options, choices) if options and choices else None
    _Surgery(model, frozen, target, choices, forms).operate()
    return write_model(model)


class _Surgery:
    """Rewrites the main graph of one placeholder, layer by layer."""

    def __init__(
        self,
        model: Any,
        frozen: FrozenModel,
        target: Target,
        choices: Mapping[str, Choice],
        forms: Forms | None,
    ) -> None:
        self.model, self.frozen, self.target = model, frozen, target
        self.choices, self.forms, self.unfolder = choices, forms, Unfolder(model)
        self.graph = model.subgraphs[0]
        self.tensors: dict[str, int] = self._locate()
        self.operators: list[Any] = []
        self.producers = {int(index): op for op in self.graph.operators for index in op.outputs}

    def operate(self) -> None:
        """Rewrite everything; operators that lead to no layer are left behind."""
        for layer in self.frozen.layers[1:]:
            self._write_layer(layer)
        self.graph.operators = self.operators
        for tensor in self.graph.tensors:
            if not (tensor.name or b"").endswith(WEIGHTS.encode()):
                tensor.name = None  # the converter's names say nothing and take space
        for layer in self.frozen.layers:
            tensor = self.graph.tensors[self.tensors[layer.name]]
            tensor.name = layer.name.encode()
            tensor.quantization = quantization(layer.grid.scale, layer.grid.zero_point)
            tensor.type = _TENSOR_TYPES[layer.grid.dtype]
        self.graph.inputs = np.array([self.tensors[self.frozen.layers[0].name]], np.int32)
        self.graph.outputs = np.array([self.tensors[name] for name in self.frozen.returned], np.int32)
        self.graph.name = None
        self.model.signatureDefs = None  # the converter's names every layer's tensor as an output
        self.model.description = b"tfmpq"
        bits = {layer.name: layer.weights.bits for layer in self.frozen.weighted if layer.weights}
        write_record(self.model, self.frozen.metadata, bits, self.forms)

    def _locate(self) -> dict[str, int]:
        """Tensor of every layer: the i-th output of the placeholder is the i-th layer."""
        layers = self.frozen.layers
        found = [int(self.graph.inputs[0]), *(int(index) for index in self.graph.outputs)]
        if len(found) != len(layers) or len(set(found)) != len(found):
            raise TfmpqError(
                f"Every layer has a tensor of its own. Received: {len(layers)} layers and "
                f"{len(set(found))} tensors from the converter; two layers of {self.frozen.name} compute the "
                "same. Remove one of them."
            )
        return {layer.name: index for layer, index in zip(layers, found, strict=True)}

    def _write_layer(self, layer: FrozenLayer) -> None:
        operator = self._operator(layer)
        self._connect(layer, operator)
        if hasattr(operator.builtinOptions, "padding"):
            operator.builtinOptions.padding = getattr(schema.Padding, _padding(layer))
        if builtin_name(self.model, operator) in CHANNEL_AXIS:
            if layer.weights is not None:
                choice = self.choices.get(layer.name)
                container = (
                    choice.chosen.container if choice else container_of(self.frozen, layer, self.target)
                )
                self._write_weights(layer, layer.weights, container, operator)
            else:
                self._write_window(layer, operator)
        if layer.kind == "elu":
            operator.opcodeIndex = operator_code(self.model, "ELU", 1)
            operator.builtinOptions, operator.builtinOptionsType = None, schema.BuiltinOptions.NONE
        if self.frozen.wide:
            self._widen_operator(operator)
        self.operators.append(operator)
        if layer.grid.signed and layer.grid.bits < 8 and not layer.keeps_grid:
            self._clamp(layer, operator)

    def _widen_operator(self, operator: Any) -> None:
        """Have an operator run with 16-bit activations."""
        name = builtin_name(self.model, operator)
        if name in WIDE_VERSIONS:
            operator.opcodeIndex = operator_code(self.model, name, WIDE_VERSIONS[name])
        # By default ADD and SUB take scales of 16-bit tensors for powers of two, which ours are not.
        if hasattr(operator.builtinOptions, "potScaleInt16"):
            operator.builtinOptions.potScaleInt16 = False

    def _connect(self, layer: FrozenLayer, operator: Any) -> None:
        """Have an operator read its layer's inputs; the converter may have seen through a layer before it."""
        sources = [self.tensors[name] for name in layer.inputs]
        before = entry_input(builtin_name(self.model, operator))
        # The converter flattens concatenations of concatenations; constants come behind the others.
        behind = () if layer.kind == "concatenate" else operator.inputs[before + len(sources) :]
        operator.inputs = np.array([*operator.inputs[:before], *sources, *behind], np.int32)

    def _operator(self, layer: FrozenLayer) -> Any:
        operator = self.producers.get(self.tensors[layer.name])
        name = "nothing" if operator is None else builtin_name(self.model, operator)
        expected = OPERATORS[layer.kind].written_as
        if operator is None or name not in expected:
            raise TfmpqError(
                f"A {layer.kind} becomes {' or '.join(expected)}. Received: {name} from the "
                f"converter for layer {layer.name}. Please report the model."
            )
        return operator

    def _write_weights(
        self, layer: FrozenLayer, weights: FrozenWeights, container: Container, operator: Any
    ) -> None:
        builtin = container.builtin
        if container.order is not None:
            self._unfold(layer, container.order, operator)
        elif builtin == "FULLY_CONNECTED" and layer.kind == "conv2d":
            become_fully_connected(operator)
        integers = file_layout(layer, builtin)
        grid = quantization(weights.scales, axis=CHANNEL_AXIS[builtin])
        packed = pack(integers, container.bits)
        cast = container.decode == "cast"
        kind = TYPE_OF_BITS[container.bits]
        source = self._add(layer.name + WEIGHTS, integers.shape, kind, None if cast else grid, packed)
        read = self._widen(source, integers.shape, kind, grid) if cast else source
        scale = np.float32(self.frozen.layer(layer.inputs[0]).grid.scale)
        dtype = bias_type(self.frozen, layer)
        bias = self._add(
            "",
            weights.bias.shape,
            _TENSOR_TYPES[dtype],
            quantization(scale * weights.scales),
            weights.bias.astype(dtype),
        )
        inputs = [operator.inputs[0], read, bias]
        if entry_input(builtin):
            inputs[2:] = [operator.inputs[entry_input(builtin)], bias]
        operator.inputs = np.array(inputs, np.int32)
        version = VERSIONS[builtin, 8 if cast else container.bits]
        # An older runtime refuses a version that it does not know, and does not read packed weights as int8.
        operator.opcodeIndex = operator_code(self.model, builtin, version)
        if self.frozen.wide and hasattr(operator.builtinOptions, "quantizedBiasType"):
            operator.builtinOptions.quantizedBiasType = _TENSOR_TYPES[dtype]

    def _unfold(self, layer: FrozenLayer, order: Order, operator: Any) -> None:
        source = self.frozen.layer(layer.inputs[0]).grid
        image = self.graph.tensors[int(operator.inputs[0])].shape[1:]
        window = window_of(operator, image, geometry(layer)[0])
        grid = quantization(source.scale, source.zero_point)
        self.operators += self.unfolder.unfold(operator, window, order, grid)

    def _write_window(self, layer: FrozenLayer, operator: Any) -> None:
        """Averages and subsampling: a depthwise convolution of ones, scaled by the window's size."""
        (height, width), channels = geometry(layer)[0], self.graph.tensors[self.tensors[layer.name]].shape[-1]
        scale = np.float32(1.0 / (height * width))
        ones = np.ones((1, height, width, channels), np.int8)
        weights = self._add("", ones.shape, schema.TensorType.INT8, quantization(scale), pack(ones, 8))
        bias_grid = quantization(np.float32(self.frozen.layer(layer.inputs[0]).grid.scale) * scale)
        dtype = np.int64 if self.frozen.wide else np.int32
        bias = self._add("", (channels,), _TENSOR_TYPES[dtype], bias_grid, np.zeros(channels, dtype))
        operator.inputs = np.array([operator.inputs[0], weights, bias], np.int32)
        operator.opcodeIndex = operator_code(
            self.model, "DEPTHWISE_CONV_2D", VERSIONS["DEPTHWISE_CONV_2D", 8]
        )

    def _widen(self, source: int, shape: tuple[int, ...], kind: int, grid: Any) -> int:
        """Two exact casts, since no kernel casts INT2 to INT8 directly."""
        middle = self._add("", shape, schema.TensorType.FLOAT32)
        wide = self._add("", shape, schema.TensorType.INT8, grid)
        for start, end in ((source, middle), (middle, wide)):
            options = schema.CastOptionsT()
            options.inDataType = self.graph.tensors[start].type
            options.outDataType = self.graph.tensors[end].type
            self._append("CAST", 6, start, end, options)
        return wide

    def _clamp(self, layer: FrozenLayer, operator: Any) -> None:
        """Clamp a signed n-bit tensor by saturation at shifted zero points; XNNPACK has no int8 MINIMUM."""
        output = self.tensors[layer.name]
        shape = tuple(self.graph.tensors[output].shape)
        half = 2 ** (layer.grid.bits - 1)
        # The operator saturates at code 127, which is half - 1 steps above the first zero point. The second
        # one lies so that code -128 is half steps below it. Between tensors of one scale QUANTIZE moves codes
        # exactly, so nothing changes but what is beyond these bounds.
        above = self._add("", shape, schema.TensorType.INT8, quantization(layer.grid.scale, 128 - half))
        below = self._add("", shape, schema.TensorType.INT8, quantization(layer.grid.scale, half - 128))
        operator.outputs = np.array([above], np.int32)
        for start, end in ((above, below), (below, output)):
            self._append("QUANTIZE", 1, start, end, schema.QuantizeOptionsT())

    def _append(self, name: str, version: int, source: int, output: int, options: Any) -> None:
        operator = schema.OperatorT()
        operator.opcodeIndex = operator_code(self.model, name, version)
        operator.inputs, operator.outputs = np.array([source], np.int32), np.array([output], np.int32)
        operator.builtinOptions = options
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.operators.append(operator)

    def _add(
        self,
        name: str,
        shape: tuple[int, ...],
        kind: int,
        grid: Any = None,
        content: np.ndarray | None = None,
    ) -> int:
        return add_tensor(self.model, name, shape, kind, grid, content)


def _padding(layer: FrozenLayer) -> str:
    """Padding of an operator; the converter merges zeros around the image into it, here layers stay apart.

    XNNPACK takes no transposed convolution that is `same` with a kernel smaller than the stride, which adds
    and cuts nothing: `valid` is the same.
    """
    if layer.kind == "conv2d_transpose":
        window, strides, _ = geometry(layer)
        if all(extent <= stride for extent, stride in zip(window, strides, strict=True)):
            return "VALID"
    return str(layer.attributes["padding"]).upper()
