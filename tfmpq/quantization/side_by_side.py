"""The float network and its quantized copy, run side by side over any number of images in bounded memory.

Later layers need more images than earlier ones: a classifier sees one position of each, a first convolution
thousands. And the later a tensor lies, the smaller it is. So the tensors of both networks are held at one
border, from which what follows is computed anew, part by part. When the border moves on, images are added
as memory allows: they go through all layers before it once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops

from tfmpq.graph.network import INPUT_QUANTIZER, Network, Node

MEMORY = 640 * 2**20
"""Bytes of the tensors of both networks that are held at a border."""

PART_BYTES = 2**27
"""Bytes of the largest tensors of both networks, for the images that are computed at once."""

_MOST_AT_ONCE = 32
_FLOAT_BYTES = 4

Pair = tuple[Any, Any]
"""A tensor in the float network and in the quantized one, float32 (images, ...) each: arrays or tensors."""


class Images(Protocol):
    """Preprocessed images; a NumPy array is one such object."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, part: slice, /) -> np.ndarray:
        """Some of them, float32 (N, height, width, channels)."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some of the images.

    Attributes:
        number: Which part it is.
        indices: Numbers of its images, int64 (images,).
        wanted: Inputs of a node in the float network.
        given: The same in the quantized network.
    """

    number: int
    indices: np.ndarray
    wanted: Sequence[np.ndarray]
    given: Sequence[np.ndarray]


class SideBySide:
    """Both networks, at a border that moves towards their outputs.

    Args:
        quantized: The quantized network; what lies behind the border may still change.
        network: Analysis of the float network.
        images: The images.
        needed: For each node with a kernel the number of images that it is to see, by name.
    """

    def __init__(
        self, quantized: keras.Model, network: Network, images: Images, needed: Mapping[str, int]
    ) -> None:
        self._quantized, self._network, self._images, self._needed = quantized, network, images, needed
        self._nodes = network.nodes
        self._index = {node.name: index for index, node in enumerate(self._nodes)}
        largest = max(
            sum(_values(self._nodes[self._index[name]]) for name in (*node.inputs, node.name))
            for node in self._nodes
        )
        fitting = PART_BYTES // (2 * _FLOAT_BYTES * largest)
        self._at_once = int(min(_MOST_AT_ONCE, max(1, fitting)))
        self._borders = _borders(network)
        self._border = -1
        self._held: list[dict[str, Pair]] = []
        """Tensors at the border, by part; before the first border images are computed as they come."""

    def parts(self, node: Node) -> Iterator[Part]:
        """The inputs of a node whose predecessors are final, part by part."""
        for number in range(self._part_count(node)):
            values = self._computed(number, self._index[node.name], node.inputs)
            wanted, given = zip(*(_as_arrays(values[name]) for name in node.inputs), strict=True)
            first = number * self._at_once
            yield Part(number, np.arange(first, first + len(wanted[0])), wanted, given)

    def seen(self, node: Node) -> int:
        """Number of images that `parts` brings to a node."""
        return min(self._part_count(node) * self._at_once, len(self._images))

    def pass_by(self, node: Node) -> None:
        """Note that a node is final; the border moves behind it if that is a good place."""
        index = self._index[node.name]
        if index not in self._borders:
            return
        names = _read_later(self._network, index)
        bytes_each = 2 * _FLOAT_BYTES * sum(_values(self._nodes[self._index[name]]) for name in names)
        affordable = max(1, MEMORY // (bytes_each * self._at_once))
        held = []
        for number in range(min(self._parts_of(self._needed_behind(index)), affordable)):
            values = self._computed(number, index + 1, names)
            held.append({name: _as_arrays(values[name]) for name in names})
            if number < len(self._held):
                self._held[number] = {}
        self._border, self._held = index, held

    def _needed_behind(self, index: int) -> int:
        """The most images that nodes need up to the next border; no fewer than there were."""
        following = next((border for border in self._borders if border > index), len(self._nodes) - 1)
        return max(self._needed.get(node.name, 1) for node in self._nodes[: following + 1])

    def _part_count(self, node: Node) -> int:
        parts = self._parts_of(self._needed[node.name])
        return parts if self._border < 0 else min(parts, len(self._held))

    def _parts_of(self, images: int) -> int:
        return -(-min(images, len(self._images)) // self._at_once)

    def _computed(self, number: int, end: int, names: Sequence[str]) -> dict[str, Pair]:
        """Tensors of a part that nodes before `end` bring."""
        held = number < len(self._held)
        values = dict(self._held[number]) if held else {}
        todo = _ancestors(self._network, names, self._border + 1 if held else 0, end, values)
        readers = [*names, *(name for node in todo for name in node.inputs)]
        for node in todo:
            if node.kind == "input":
                start = number * self._at_once
                image = np.asarray(self._images[slice(start, start + self._at_once)], np.float32)
                values[node.name] = on_grid(self._quantized, image)
            else:
                inputs = [values[n] for n in node.inputs]
                values[node.name] = run_node(self._quantized, self._network, node, inputs)
            for name in node.inputs:  # a tensor is held no longer than until its last reader has run
                readers.remove(name)
                if name not in readers:
                    del values[name]
        return values


def on_grid(quantized: keras.Model, images: np.ndarray) -> Pair:
    """Images, and the same as the quantized network reads them; with float activations as they are."""
    found = [layer for layer in quantized.layers if layer.name == INPUT_QUANTIZER]
    return images, found[0](images) if found else images


def run_node(quantized: keras.Model, network: Network, node: Node, inputs: Sequence[Pair]) -> Pair:
    """Output of a node in both networks."""
    wanted, given = zip(*inputs, strict=True)
    copies = [quantized.get_layer(layer.name) for layer in node.layers]
    if node.rounds and node.grid_of != node.tensor and not network.dynamic:
        copies.append(quantized.get_layer(node.grid_of))  # a quantizer that several tensors share
    return _run(node.layers, wanted), _run(copies, given)


def _run(layers: Sequence[Any], inputs: Sequence[Any]) -> Any:
    """Output of a chain of layers."""
    value: Any = list(inputs) if len(inputs) > 1 else inputs[0]
    for layer in layers:
        value = layer(value)
    return value


def _as_arrays(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    return ops.convert_to_numpy(pair[0]), ops.convert_to_numpy(pair[1])


def _values(node: Node) -> int:
    return int(np.prod(node.output_shape))


def _read_later(network: Network, index: int) -> list[str]:
    """Names of the nodes up to an index that nodes behind it read."""
    before = {node.name for node in network.nodes[: index + 1]}
    found = dict.fromkeys(name for node in network.nodes[index + 1 :] for name in node.inputs)
    return [name for name in found if name in before]


def _borders(network: Network) -> list[int]:
    """Numbers of the nodes behind which little has to be held.

    That is no more than at the border before, or than at both neighbours, as between two blocks.
    """
    held = [
        sum(_values(network.node(name)) for name in _read_later(network, index))
        for index in range(len(network.nodes))
    ]
    found, last = [], held[0]
    for index in range(1, len(held) - 1):
        if held[index] <= last or (held[index] <= held[index - 1] and held[index] < held[index + 1]):
            found.append(index)
            last = held[index]
    return found


def _ancestors(
    network: Network, names: Sequence[str], begin: int, end: int, known: Mapping[str, Pair]
) -> list[Node]:
    """The nodes within a range that tensors depend on and that are not known, in order."""
    wanted = {name for name in names if name not in known}
    found = []
    for node in reversed(network.nodes[begin:end]):
        if node.name in wanted:
            found.append(node)
            wanted.update(name for name in node.inputs if name not in known)
    return found[::-1]
