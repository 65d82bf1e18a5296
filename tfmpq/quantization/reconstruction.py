"""Reconstruction: integers, layer by layer, with which a quantized layer gives what the float layer gave.

Rounding each weight to the nearest level is not the best rounding: errors of weights whose inputs go together
can cancel. In the order of the network, every kernel is fitted to the float layer's output on calibration
images, given the inputs that the layer really gets, from the quantized layers before it (the asymmetric
objective of AdaRound, arXiv 2004.10568, equation 25). With H the second moments of these inputs and W the
best real-valued kernel, one row of integers after the other is fixed and its error is handed on to the rows
that are still free (GPTQ, arXiv 2210.17323, algorithm 1). What remains of the output's mean goes into the
bias (arXiv 1906.04721, section 4.2). No labels and no gradients are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmpq.graph.kinds import WEIGHTED
from tfmpq.graph.network import INPUT_QUANTIZER, Network, Node
from tfmpq.graph.recognition import is_a
from tfmpq.progress import Reporter
from tfmpq.quantization.im2col import Positions, as_kernel, as_matrices, input_matrices
from tfmpq.quantizers.learned_step import Levels
from tfmpq.quantizers.wrapper import QuantizeWrapper, inner

MAX_IMAGES = 1024

MEMORY = 4 * 2**30
"""Bytes for the tensors of both networks that are held at once; more than that, and fewer images are used."""

MAX_FAN_IN = 5000
"""Kernels with a longer input, or groups whose H together are larger than one of this length, are rounded to
the nearest level: H would not fit in memory."""

_ROWS = 40_000
_DEPTHWISE_ROWS = 4_000
"""Positions of an output tensor that H is taken from; a depthwise kernel has few weights."""

_ENTRIES = _ROWS * MAX_FAN_IN
"""Values that these positions may read; of longer inputs fewer are taken."""

_DAMPING = 0.01
"""Added to the diagonal of H, relative to its mean: directions that no image has shown are left alone."""

_CHUNK = 32
_BLOCK = 128


def reconstruct(
    quantized: keras.Model,
    model: keras.Model,
    network: Network,
    images: np.ndarray,
    reporter: Reporter,
    *,
    kernels: bool = True,
) -> None:
    """Fit the quantized kernels, their steps and the biases to a float model, in place.

    Afterwards every latent kernel lies on its grid, so training can go on from it.

    Args:
        quantized: `quantize_model`'s copy of `model`, one candidate in every quantizer; steps of activations
            stay.
        model: Trained float model.
        network: Its analysis.
        images: Preprocessed images, float32 (N, height, width, channels); see `affordable_images`.
        reporter: Told about every layer.
        kernels: Whether to fit kernels and steps; without, only the biases are corrected.
    """
    generator = np.random.default_rng(0)
    tensors: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    readers = [name for node in network.nodes for name in node.inputs]
    reporter.start("reconstruction", len(network.nodes))
    for node in network.nodes:
        reporter.advance()
        if node.kind == "input":
            tensors[node.name] = (images, on_grid(quantized, images))
            continue
        wanted, given = zip(*(tensors[name] for name in node.inputs), strict=True)
        copies = [quantized.get_layer(layer.name) for layer in node.layers]
        if node.kind in WEIGHTED:
            read = run_layers([copies[0].quantized_input], given)
            _fit(node, copies, _rows(node, wanted[0], read, generator), kernels)
        if node.rounds and node.grid_of != node.tensor and not network.dynamic:
            copies.append(quantized.get_layer(node.grid_of))  # a quantizer that several tensors share
        tensors[node.name] = (run_layers(node.layers, wanted), run_layers(copies, given))
        for name in node.inputs:  # a tensor is held no longer than until its last reader has run
            readers.remove(name)
            if name not in readers:
                tensors.pop(name, None)
    reporter.finish()


def on_grid(quantized: keras.Model, images: np.ndarray) -> np.ndarray:
    """Images as the quantized network reads them; with float activations as they are."""
    found = [layer for layer in quantized.layers if layer.name == INPUT_QUANTIZER]
    return run_layers(found, [images]) if found else images


def affordable_images(network: Network) -> int:
    """How many images to use: inputs and output of one operator, of both networks, fit into `MEMORY`."""
    shapes = {node.name: node.output_shape for node in network.nodes}
    held = max(
        sum(int(np.prod(shapes[name])) for name in (*node.inputs, node.name)) for node in network.nodes
    )
    return int(min(MAX_IMAGES, max(1, MEMORY // (2 * 4 * held))))


def optimal_rounding(
    kernel: np.ndarray, moments: np.ndarray, steps: np.ndarray, levels: Levels
) -> np.ndarray:
    """Integers Q that make `trace((Q s - W)^T H (Q s - W))` small; never larger than rounding to nearest.

    Args:
        kernel: W, float64 (groups, inputs, outputs); groups are independent problems.
        moments: H, float64 (groups, inputs, inputs), positive definite.
        steps: s, float64 (groups, 1, outputs).
        levels: Integer levels.

    Returns:
        float64 (groups, inputs, outputs), whole numbers within the levels.
    """
    nearest = np.clip(np.round(kernel / steps), levels.low, levels.high)
    # Inputs of large moments first: their errors weigh most and still find many others to make up for them.
    order = np.argsort(-np.einsum("gii->gi", moments).mean(0))
    sorted_moments = moments[:, order][:, :, order]
    factor = np.linalg.cholesky(np.linalg.inv(sorted_moments)).transpose(0, 2, 1)
    free, fixed = kernel[:, order].copy(), np.empty_like(kernel)
    for begin in range(0, kernel.shape[1], _BLOCK):
        end = min(begin + _BLOCK, kernel.shape[1])
        errors = np.empty((len(kernel), end - begin, kernel.shape[2]))
        for row in range(begin, end):
            fixed[:, row] = np.clip(np.round(free[:, row] / steps[:, 0]), levels.low, levels.high)
            error = (free[:, row] - fixed[:, row] * steps[:, 0]) / factor[:, row, row, None]
            free[:, row + 1 : end] -= factor[:, row, row + 1 : end, None] * error[:, None]
            errors[:, row - begin] = error
        free[:, end:] -= factor[:, begin:end, end:].transpose(0, 2, 1) @ errors
    found = fixed[:, np.argsort(order)]

    def loss(integers: np.ndarray) -> np.ndarray:
        error = integers * steps - kernel
        return np.sum(error * (moments @ error), axis=1, keepdims=True)

    return np.where(loss(found) <= loss(nearest), found, nearest)


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """What a kernel is multiplied with, at some positions: float32 (groups, positions, inputs) each.

    Attributes:
        wanted: In the float network.
        given: In the quantized network, at the same positions.
    """

    wanted: np.ndarray
    given: np.ndarray


def _fit(node: Node, copies: Sequence[keras.layers.Layer], rows: _Rows, kernels: bool) -> None:
    """Fit the kernel of a node, where wanted, and take back what the mean of every output channel lost."""
    wrapper: QuantizeWrapper = copies[0]
    weights = as_matrices(np.asarray(wrapper.layer.kernel, np.float64), node)
    means = [x.mean(1, keepdims=True, dtype=np.float64) for x in (rows.wanted, rows.given)]
    if kernels:
        wanted, given = (
            x - mean.astype(np.float32) for x, mean in zip((rows.wanted, rows.given), means, strict=True)
        )
        _fit_kernel(node, wrapper, weights, wanted, given)
    found = as_matrices(np.asarray(wrapper.quantized_kernel(), np.float64), node)
    _shift(copies, (means[1] @ found - means[0] @ weights).reshape(-1))


def _fit_kernel(
    node: Node, wrapper: QuantizeWrapper, weights: np.ndarray, wanted: np.ndarray, given: np.ndarray
) -> None:
    quantizer = wrapper.weight_quantizer
    assert quantizer is not None  # noqa: S101 narrowed for the type checker; the node has a kernel
    levels = quantizer.levels[0]
    best, moments = _best_kernel(weights, wanted, given)
    log_step = quantizer.initial_log_step(as_kernel(best, node))
    # The step as the network has it, in float32.
    steps = np.exp(log_step[0]).reshape(len(weights), 1, -1).astype(np.float64)
    if moments is None:
        integers = np.clip(np.round(best / steps), levels.low, levels.high)
    else:
        integers = optimal_rounding(best, moments, steps, levels)
    wrapper.weight_variables["log_step"].assign(log_step)
    wrapper.layer.kernel.assign(as_kernel(integers * steps, node).astype(np.float32))


def _best_kernel(
    weights: np.ndarray, wanted: np.ndarray, given: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """The real-valued kernel that gives what is wanted, and H; the weights and None for too long inputs."""
    groups, inputs, _ = weights.shape
    if groups * inputs**2 > MAX_FAN_IN**2:
        return weights, None
    moments = _moments(given, given)
    damping = _DAMPING * np.einsum("gii->g", moments) / inputs
    damping = np.where(damping > 0, damping, 1.0)  # of inputs that are zero: any will do
    ridge = damping[:, None, None] * np.eye(inputs)
    moments += ridge
    return np.linalg.solve(moments, (_moments(given, wanted) + ridge) @ weights), moments


def _shift(copies: Sequence[keras.layers.Layer], shift: np.ndarray) -> None:
    """Take a change of the mean of every channel back, in BatchNorm or the bias, where there is one."""
    norms = [inner(layer) for layer in copies[1:] if is_a(layer, keras.layers.BatchNormalization)]
    layer = inner(copies[0])
    if norms:  # BatchNorm subtracts its mean, so the mean moves with the output
        norms[0].moving_mean.assign(np.asarray(norms[0].moving_mean) + shift)
    elif layer.use_bias:
        layer.bias.assign(np.asarray(layer.bias) - shift)


def _moments(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first.transpose(0, 2, 1) @ second / first.shape[1]).astype(np.float64)


def _rows(node: Node, wanted: np.ndarray, given: np.ndarray, generator: np.random.Generator) -> _Rows:
    if node.kind == "dense":
        return _Rows(wanted[None], given[None])
    positions = _positions(node, len(wanted), generator)
    return _Rows(*(input_matrices(node, x, positions) for x in (wanted, given)))


def _positions(node: Node, count: int, generator: np.random.Generator) -> Positions:
    """Some positions of the output."""
    shape = (count, *node.output_shape[:2])
    total = int(np.prod(shape))
    length = int(np.prod(node.main.kernel_size)) * int(node.layers[0].input.shape[-1])
    limit = _DEPTHWISE_ROWS if node.kind == "depthwise_conv2d" else min(_ROWS, _ENTRIES // length)
    picks = np.arange(total) if total <= limit else generator.choice(total, limit, replace=False)
    return np.unravel_index(picks, shape)


def run_layers(layers: Sequence[Any], inputs: Sequence[np.ndarray]) -> np.ndarray:
    """Output of a chain of layers, a few images at a time."""
    found = None
    for begin in range(0, len(inputs[0]), _CHUNK):
        parts = [x[begin : begin + _CHUNK] for x in inputs]
        value: Any = parts if len(parts) > 1 else parts[0]
        for layer in layers:
            value = layer(value)
        if found is None:
            found = np.empty((len(inputs[0]), *value.shape[1:]), np.float32)
        found[begin : begin + _CHUNK] = ops.convert_to_numpy(value)
    return np.asarray(found)
