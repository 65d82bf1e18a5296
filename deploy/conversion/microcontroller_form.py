"""The form of a network for microcontrollers, where INT4 pays in flash and costs in memory.

TensorFlow Lite for Microcontrollers has INT4 kernels for convolutions only, and they unpack all weights of a
layer into the arena while it runs. So a dense layer becomes a 1x1 convolution where its packed weights save
more than the reshapes around it take, and with `--prefer ram` a layer stays int8 where its unpacked weights
do not fit beside the activations that are there anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal, NamedTuple

from tfmpq.deploy.conversion.topology import Shape, deployable, output_shapes
from tfmpq.graph.containers import Target
from tfmpq.graph.frozen import FrozenLayer, FrozenModel, FrozenWeights

Preference = Literal["flash", "ram"]
PREFERENCES: tuple[Preference, ...] = ("flash", "ram")

UNPACKED = "unpacked"
"""Attribute of a layer whose weights stay int8 though fewer bits were trained."""

RESHAPE_BYTES = 200
"""Flash that one reshape takes: operator, tensor and the constant with its shape (184 to 216 in files)."""

_PACKED_BITS = 4
_ALIGNMENT = 16


def as_written(frozen: FrozenModel, target: Target, prefer: Preference = "flash") -> FrozenModel:
    """The network as a file for a target holds it.

    Args:
        frozen: The network.
        target: Which form of the file.
        prefer: For `tflm`: what to save.

    Raises:
        UsageError: Two outputs are the same tensor.
        TfmpqError: A layer cannot be written.
    """
    written = deployable(frozen)
    if target != "tflm":
        return written
    packed = _dense_as_convolution(written)
    return packed if prefer == "flash" else _without_costly_unpacking(written, packed)


def is_packed(layer: FrozenLayer) -> bool:
    """Whether a file for microcontrollers holds a layer's weights in 4 bits."""
    weights = layer.weights
    return (
        weights is not None
        and weights.bits <= _PACKED_BITS
        and layer.kind in ("conv2d", "depthwise_conv2d")
        and not layer.attributes.get(UNPACKED)
    )


def arena_peak(frozen: FrozenModel, unpacking: bool = True) -> int:
    """Bytes that activations, and weights while they are unpacked, take of the arena.

    They are placed as the runtime's planner does it: the largest first, each as low as it fits beside those
    that are there at the same time. The runtime keeps some bytes more for each operator.

    Args:
        frozen: A network as it is written for microcontrollers.
        unpacking: Whether to count unpacked weights.
    """
    spans = _activations(frozen)
    if unpacking:
        spans += [_Span(number, number, _unpacked_bytes(layer)) for number, layer in enumerate(frozen.layers)]
    return _planned(spans)


def packed_saving(frozen: FrozenModel) -> int:
    """Bytes of flash that packed weights save."""
    return sum(_unpacked_bytes(layer) // 2 for layer in frozen.layers)


def _unpacked_bytes(layer: FrozenLayer) -> int:
    return layer.weights.integers.size if is_packed(layer) and layer.weights else 0


class _Span(NamedTuple):
    """Bytes that have to stay in memory from one layer to another, both included."""

    first: int
    last: int
    size: int


def _activations(frozen: FrozenModel) -> list[_Span]:
    """The tensors between layers."""
    sizes = {name: math.prod(shape) for name, shape in output_shapes(frozen).items()}
    last = {layer.name: number for number, layer in enumerate(frozen.layers)}
    for number, layer in enumerate(frozen.layers):
        last.update(dict.fromkeys(layer.inputs, number))
    last.update(dict.fromkeys(frozen.returned, len(frozen.layers)))
    # The input is written before the first operator runs.
    return [
        _Span(max(number, 1), last[layer.name], sizes[layer.name])
        for number, layer in enumerate(frozen.layers)
    ]


def _planned(spans: Iterable[_Span]) -> int:
    """Bytes that the greedy planner of the runtime takes: sizes and places are multiples of 16."""
    placed: list[tuple[_Span, int]] = []
    # The runtime fills its list from the end, then sorts it: of equal tensors it places the last one first.
    for span in sorted(reversed(list(spans)), key=lambda span: -span.size):
        size, start = _aligned(span.size), 0
        beside = [
            (at, at + _aligned(other.size))
            for other, at in placed
            if other.first <= span.last and span.first <= other.last
        ]
        for low, high in sorted(beside):
            if low - start >= size:
                break
            start = max(start, high)
        placed.append((span, start))
    return max((at + _aligned(span.size) for span, at in placed), default=0)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _without_costly_unpacking(plain: FrozenModel, packed: FrozenModel) -> FrozenModel:
    """Layers are packed, those that save most first, as long as the arena stays what it is without any.

    Dense layers that are not packed stay what they were.
    """
    spans = _activations(packed)
    peak = _planned(spans)
    costly = set()
    for number, layer in sorted(enumerate(packed.layers), key=lambda entry: -_unpacked_bytes(entry[1])):
        span = _Span(number, number, _unpacked_bytes(layer))
        if _planned([*spans, span]) <= peak:
            spans.append(span)
        else:
            costly.add(layer.name)
    marked = [
        replace(layer, attributes={**layer.attributes, UNPACKED: True}) if layer.name in costly else layer
        for layer in plain.layers
    ]
    return _dense_as_convolution(replace(plain, layers=tuple(marked)))


def _dense_as_convolution(frozen: FrozenModel) -> FrozenModel:
    """Dense layers as 1x1 convolutions of one pixel, where INT4 saves more than reshapes take."""
    chosen = {layer.name for layer in frozen.weighted if _pays(layer)}
    if not chosen:
        return frozen
    rewriting = _Rewriting(frozen, chosen)
    layers = list(rewriting.layers())
    outputs = tuple(rewriting.flat.get(name, name) for name in frozen.returned)
    return replace(frozen, layers=tuple(_needed(layers, outputs)), outputs=outputs)


def _pays(layer: FrozenLayer) -> bool:
    weights = layer.weights
    if layer.kind != "dense" or weights is None or layer.attributes.get(UNPACKED):
        return False
    return weights.bits <= _PACKED_BITS and weights.integers.size // 2 > 2 * RESHAPE_BYTES


class _Rewriting:
    """Makes convolutions of some dense layers; vectors between them stay pixels."""

    def __init__(self, frozen: FrozenModel, chosen: set[str]) -> None:
        self.frozen, self.chosen, self.shapes = frozen, chosen, output_shapes(frozen)
        self.flat: dict[str, str] = {}
        self.pixel: dict[str, str] = {}

    def layers(self) -> Iterator[FrozenLayer]:
        for layer in self.frozen.layers:
            if layer.name in self.chosen:
                source = layer.inputs[0]
                yield from self._as_pixel(source)
                yield self._convolution(layer, self.pixel[source])
                self.pixel[layer.name] = layer.name
                if self._read_as_vector(layer.name):
                    self.flat[layer.name] = f"{layer.name}/flat"
                    yield _reshape(self.flat[layer.name], layer, self.shapes[layer.name])
            else:
                yield replace(layer, inputs=tuple(self.flat.get(name, name) for name in layer.inputs))

    def _as_pixel(self, name: str) -> Iterator[FrozenLayer]:
        """A vector as one pixel; one that was flattened from a pixel is that pixel."""
        if name in self.pixel:
            return
        layer, wanted = self.frozen.layer(name), (1, 1, *self.shapes[name])
        if layer.kind == "reshape":
            layer = self.frozen.layer(layer.inputs[0])
        if self.shapes[layer.name] == wanted:
            self.pixel[name] = layer.name
            return
        self.pixel[name] = f"{name}/pixel"
        yield _reshape(self.pixel[name], layer, wanted)

    def _read_as_vector(self, name: str) -> bool:
        readers = [layer for layer in self.frozen.layers if name in layer.inputs]
        return name in self.frozen.returned or any(layer.name not in self.chosen for layer in readers)

    def _convolution(self, layer: FrozenLayer, source: str) -> FrozenLayer:
        if layer.weights is None:
            raise ValueError(f"Only layers with weights become convolutions. Received: {layer.name}.")
        held = layer.weights
        kernel = held.integers.reshape(1, 1, *held.integers.shape)
        attributes = {"strides": (1, 1), "padding": "valid", "dilation": (1, 1), "groups": 1}
        return replace(
            layer,
            kind="conv2d",
            inputs=(source,),
            weights=FrozenWeights(kernel, held.scales, held.bias, held.bits),
            attributes=attributes,
        )


def _reshape(name: str, source: FrozenLayer, shape: Shape) -> FrozenLayer:
    return FrozenLayer(name, "reshape", (source.name,), source.grid, attributes={"shape": shape})


def _needed(layers: list[FrozenLayer], outputs: tuple[str, ...]) -> list[FrozenLayer]:
    """Without layers that nobody reads any more."""
    needed, kept = set(outputs), []
    for layer in reversed(layers):
        if layer.name in needed or layer.kind == "input":
            kept.append(layer)
            needed |= set(layer.inputs)
    return kept[::-1]
