"""Where a quantized network loses what the float network computes."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

from tfmpq.graph.network import Network, Node
from tfmpq.quantization.side_by_side import Pair, on_grid, run_node
from tfmpq.tasks.fidelity import Fidelity, snr_db

LEAST_DB = {8: 15.0, 4: 6.0, 2: 0.0}
"""Ratio below which outputs of networks of at least so many bits are said to have lost much."""

LEAST_AGREEMENT = {8: 0.9, 4: 0.75, 2: 0.5}
LARGEST_DROP = 0.05
"""Loss of top-1 that is said."""

_IMAGES = 16


@dataclass(frozen=True, slots=True)
class Beginning:
    """The layer where a loss begins.

    Attributes:
        layer: Its name.
        snr_db: Signal-to-noise ratio of its output.
        before_db: The least one of its inputs; None if they are exact.
    """

    layer: str
    snr_db: float
    before_db: float | None


def bound(table: dict[int, float], bits: int) -> float:
    """The entry for the smallest width of a network."""
    return table[max(known for known in table if known <= max(bits, 2))]


def loss_warnings(
    fidelity: Fidelity,
    bits: int,
    quantized: keras.Model,
    model: keras.Model,
    network: Network,
    images: np.ndarray,
) -> list[str]:
    """What to say of outputs that lost much: how much, and the layer where that begins.

    Args:
        fidelity: The outputs.
        bits: Smallest width of a weight or an activation in the network.
        quantized: The quantized network.
        model: The float network.
        network: Its analysis.
        images: Preprocessed images, float32 (N, height, width, channels).
    """
    least, agreement = bound(LEAST_DB, bits), bound(LEAST_AGREEMENT, bits)
    found = []
    for output in fidelity.outputs:
        said = []
        if output.snr_db is not None and output.snr_db < least:
            said.append(f"a signal-to-noise ratio of {output.snr_db:.1f} dB")
        if output.agreement is not None and output.agreement < agreement:
            said.append(f"the float model's class for {output.agreement:.1%} of the images")
        before, after = output.float_top1, output.file_top1
        if before is not None and after is not None and before - after > LARGEST_DROP:
            said.append(f"a top-1 of {after:.1%} instead of {before:.1%}")
        if said:
            found.append(f"Output '{output.name}' has lost much: {', '.join(said)}.")
    if found:
        begin = where_loss_begins(quantized, model, network, images, least)
        had = "" if begin.before_db is None else f" (its inputs still have {begin.before_db:.1f} dB)"
        found.append(
            f"The loss begins in layer '{begin.layer}', whose output has {begin.snr_db:.1f} dB{had}. Give it "
            "or its activations more bits, or fine-tune."
        )
    return found


def where_loss_begins(
    quantized: keras.Model, model: keras.Model, network: Network, images: np.ndarray, least: float
) -> Beginning:
    """The first layer, in the order of the network, whose output falls below a ratio while its inputs do not.

    If none does, the layer that loses most.

    Args:
        quantized: The quantized network.
        model: The float network.
        network: Its analysis.
        images: Preprocessed images, float32 (N, height, width, channels).
        least: Signal-to-noise ratio in decibels.
    """
    ratios: dict[str, float] = {}
    worst: tuple[float, Beginning] | None = None
    for node, ratio in _ratios(quantized, network, images[:_IMAGES]):
        ratios[node.name] = ratio
        sources = [ratios[name] for name in node.inputs]
        before = min(sources, default=None)
        here = Beginning(node.name, ratio, before)
        if before is not None and ratio < least <= before:
            return here
        lost = (before if before is not None else ratio) - ratio
        if worst is None or lost > worst[0]:
            worst = (lost, here)
    assert worst is not None  # noqa: S101 narrowed for the type checker; a network has nodes
    return worst[1]


def _ratios(quantized: keras.Model, network: Network, images: np.ndarray) -> list[tuple[Node, float]]:
    """Signal-to-noise ratio of every node's output; 100 dB where the float one is constant."""
    tensors: dict[str, Pair] = {}
    readers = [name for node in network.nodes for name in node.inputs]
    found = []
    for node in network.nodes:
        if node.kind == "input":
            values = on_grid(quantized, images)
        else:
            values = run_node(quantized, network, node, [tensors[name] for name in node.inputs])
        tensors[node.name] = values
        ratio = snr_db(*(np.asarray(x) for x in values))
        found.append((node, 100.0 if ratio is None else ratio))
        for name in node.inputs:
            readers.remove(name)
            if name not in readers:
                tensors.pop(name, None)
    return found
