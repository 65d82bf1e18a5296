"""Tensors that are the same for all images: parts of a network that compute nothing."""

from __future__ import annotations

import keras
import numpy as np

from tfmpq.graph.network import Network

_IMAGES = 64
_MOST_NAMES = 4


def unchanging_tensors(model: keras.Model, network: Network, images: np.ndarray) -> list[str]:
    """Layers whose output is the same for all images.

    Args:
        model: Float model.
        network: Its analysis.
        images: Preprocessed images, float32 (N, height, width, channels).

    Returns:
        Names, in the order of the network; empty with a single image.
    """
    if len(images) < 2:
        return []
    nodes = [node for node in network.nodes if node.rounds and node.kind != "input"]
    probe = keras.Model(model.inputs[0], [model.get_layer(node.tensor).output for node in nodes])
    same = np.ones(len(nodes), bool)
    first = None
    # One image at a time: all tensors of a large network at once would fill the memory.
    for image in images[:_IMAGES]:
        values = [np.asarray(x) for x in keras.tree.flatten(probe(image[None], training=False))]
        first = first or values
        same &= [np.array_equal(one, other) for one, other in zip(first, values, strict=True)]
        if not same.any():
            break
    return [node.name for node, alike in zip(nodes, same, strict=True) if alike]


def unchanging_warning(names: list[str]) -> str:
    """What to say of such layers."""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return (
        f"The output of {', '.join(names[:_MOST_NAMES])}{more} is the same for all calibration images, so "
        "that nothing tells its range. Calibrate with images like those that the network will see."
    )
