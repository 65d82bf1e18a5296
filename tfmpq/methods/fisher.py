"""Sensitivity from gradients: every width of every layer from a few backward passes, in seconds.

Where the outputs move little, their divergence from the float network's is a quadratic form, with the Fisher
information in the middle. Its root is taken at random, as FIT does (arXiv 2210.08502): with random signs, one
backward pass gives the gradient of a scalar whose square is that form on average. FIT multiplies squared
gradients by squared weight errors, one weight at a time. But the errors of one kernel go together. Here the
gradient is multiplied by what a candidate changes in the layer's output, image by image, and squared then.
For large changes, as of two bits, the form is only a guess: `sensitivity` measures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmpq.methods.candidates import Candidates, as_array, candidates_of, float_network
from tfmpq.methods.method import Problem
from tfmpq.methods.sensitivity import AdditiveMethod, Increases, never_rising, sensitivity_images
from tfmpq.quantization.tails import FusedNetwork, Values
from tfmpq.tasks.objective import CLASSES
from tfmpq.training.backend import value_and_gradient

SIGNS = 2
"""Random signs, and so backward passes, for each image."""

_HELD = 4
"""The tensors of all layers are held so many times at once: values, gradients, and what both need."""


def estimate(problem: Problem, model: keras.Model) -> tuple[Increases, Increases]:
    """Estimated divergence from the float network's outputs, in nats, by candidate.

    Args:
        problem: Gives images, seed and reporter.
        model: Searchable model with the float weights; left as it was.

    Returns:
        As `tfmpq.methods.sensitivity.measure`.
    """
    images = sensitivity_images(problem)
    network = float_network(model)
    candidates = candidates_of(model, network)
    classes = network.network.node(network.network.outputs[0]).output_shape
    generator = np.random.default_rng(problem.options.seed)
    rises = candidates.zeros()
    at_once = network.images_at_once_of_all(_HELD)
    problem.reporter.start("fisher", len(images))
    for begin in range(0, len(images), at_once):
        part = images[begin : begin + at_once]
        for _ in range(SIGNS):
            signs = generator.choice(np.array([-1.0, 1.0], np.float32), (len(part), *classes))
            projection = problem.task.objective.projection
            found_slopes = slopes(network, candidates, part, signs, projection)
            for rise, found in zip(rises, found_slopes, strict=True):
                for name, along in found.items():
                    rise[name] += 0.5 * np.square(along).sum(1) / (SIGNS * len(images))
        problem.reporter.advance(len(part))
    problem.reporter.finish()
    return never_rising(rises[0]), never_rising(rises[1])


def slopes(
    network: FusedNetwork,
    candidates: Candidates,
    images: np.ndarray,
    signs: np.ndarray,
    projection: Callable[[Any, Any], Any] = CLASSES.projection,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Derivatives of the projected outputs along what each candidate changes.

    Args:
        network: The network.
        candidates: Its candidates.
        images: Preprocessed images, float32 (N, height, width, channels).
        signs: -1 or 1, of the shape of the outputs.
        projection: The task's (`tfmpq.tasks.objective.Objective`).

    Returns:
        float64 (widths, N) by layer and by grid. Half of the mean square of one, over signs, is the
        divergence of that candidate, as far as it is quadratic; the slopes of several candidates add up.
    """
    layers = [network.network.node(name) for name in candidates.kernels]
    readers = [node for node in network.network.nodes if node.grid_of in candidates.grids and node.rounds]
    zeros = [np.zeros((len(images), *node.output_shape), np.float32) for node in (*layers, *readers)]

    def projected(added: Sequence[Any]) -> tuple[Any, Values]:
        behind = dict(zip((node.name for node in layers), added, strict=False))
        on_grid = dict(zip((node.name for node in readers), added[len(layers) :], strict=True))
        values: Values = {network.network.nodes[0].name: ops.convert_to_tensor(images)}
        for node in network.network.nodes[1:]:
            offset = network.offsets[node.name] + behind[node.name] if node.name in behind else None
            values[node.name] = network.compute(node, values, offset=offset)
            if node.name in on_grid:
                values[node.name] = values[node.name] + on_grid[node.name]
        return projection(values[network.network.outputs[0]], ops.convert_to_tensor(signs)), values

    (_, values), gradients = value_and_gradient(projected, [ops.convert_to_tensor(zero) for zero in zeros])
    found: dict[str, np.ndarray] = {}
    grids: dict[str, Any] = {}
    for node, gradient in zip(layers, gradients, strict=False):
        x = values[node.inputs[0]]
        read, own = candidates.reads[node.name](x), network.times(node, x, network.kernels[node.name])
        changes = (network.times(node, read, kernel) - own for kernel in candidates.kernels[node.name])
        found[node.name] = np.stack([_along(gradient, change) for change in changes])
    for node, gradient in zip(readers, gradients[len(layers) :], strict=True):
        value = values[node.name]
        along = np.stack([_along(gradient, grid(value) - value) for grid in candidates.grids[node.grid_of]])
        grids[node.grid_of] = grids.get(node.grid_of, 0.0) + along
    return found, grids


def _along(gradient: Any, change: Any) -> np.ndarray:
    """Inner products image by image: float64 (N,)."""
    return as_array(ops.sum(gradient * change, axis=tuple(range(1, len(gradient.shape))))).astype(np.float64)


METHODS = {"fisher": AdditiveMethod(estimate)}
"""The method, by name."""
