"""Reconstruction: integers, layer by layer, with which a quantized layer gives what the float layer gave.

Rounding each weight to the nearest level is not the best rounding: errors of weights whose inputs go together
can cancel. In the order of the network, every kernel is fitted to the float layer's output on calibration
images, given the inputs that the layer really gets, from the quantized layers before it (the asymmetric
objective of AdaRound, arXiv 2004.10568, equation 25; `tfmpq.quantization.rounding`). What remains of the
output's mean goes into the bias (arXiv 1906.04721, section 4.2). No labels and no gradients are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmpq.graph.kinds import WEIGHTED
from tfmpq.graph.network import Network, Node
from tfmpq.graph.recognition import is_a
from tfmpq.progress import Reporter
from tfmpq.quantization.im2col import Positions, as_kernel, as_matrices, input_matrices
from tfmpq.quantization.rounding import Rounded, chosen_rounding
from tfmpq.quantization.second_moments import Moments
from tfmpq.quantization.side_by_side import Images, SideBySide
from tfmpq.quantizers.wrapper import QuantizeWrapper, inner

MAX_FAN_IN = 5000
"""Kernels with a longer input, or groups whose H together are larger than one of this length, are rounded to
the nearest level: H would not fit in memory."""

_ROWS = 40_000
_DEPTHWISE_ROWS = 4_000
"""Positions of an output tensor that H is taken from; a depthwise kernel has few weights."""

_ENTRIES = _ROWS * MAX_FAN_IN
"""Values that these positions may read; of longer inputs fewer are taken."""

_SPREAD = 8
"""A layer sees so many images that at most one in so many of its positions is taken: neighbours are alike."""

_LEAST_IMAGES = 128
"""Images that every layer sees, of those that there are, where memory allows."""

_HELD_OUT = 8
"""One in so many images is held out to choose the damping on."""

_LEAST_HELD_OUT = 4
"""Below so many held-out images the damping is not chosen."""


def reconstruct(
    quantized: keras.Model,
    model: keras.Model,
    network: Network,
    images: Images,
    reporter: Reporter,
    *,
    kernels: bool = True,
    views: int = 1,
) -> dict[str, float]:
    """Fit the quantized kernels, their steps and the biases to a float model, in place.

    Afterwards every latent kernel lies on its grid, so training can go on from it.

    Args:
        quantized: `quantize_model`'s copy of `model`, one candidate in every quantizer; steps of activations
            stay.
        model: Trained float model.
        network: Its analysis.
        images: Preprocessed images; any number, memory does not grow with it.
        reporter: Told about every layer.
        kernels: Whether to fit kernels and steps; without, only the biases are corrected.
        views: How many views of each image there are: all first ones, then all second ones, and so on. Those
            of one image are held out together.

    Returns:
        The damping of every kernel that was fitted, by layer.
    """
    dampings = {}
    pair = SideBySide(quantized, network, images, images_needed(network, len(images)))
    originals = len(images) // views
    reporter.start("reconstruction", len(network.nodes))
    for index, node in enumerate(network.nodes):
        if node.kind in WEIGHTED:
            fitting = kernels and _fits_in_memory(node)
            read = quantized.get_layer(node.name).quantized_input
            seen, held_out = _moments(pair, node, index, originals, fitting, read)
            rounded = _fit(quantized, node, seen, held_out, fitting)
            if rounded is not None:
                dampings[node.name] = rounded.damping
        pair.pass_by(node)
        reporter.advance()
    reporter.finish()
    return dampings


def images_needed(network: Network, count: int) -> dict[str, int]:
    """For each layer with a kernel the number of images that tell enough about it, at most `count`."""
    found = {}
    for node in network.weighted:
        positions = int(np.prod(node.output_shape[:2])) if len(node.output_shape) == 3 else 1
        found[node.name] = min(count, max(_LEAST_IMAGES, _SPREAD * -(-_row_limit(node) // positions)))
    return found


def _moments(
    pair: SideBySide,
    node: Node,
    index: int,
    originals: int,
    products: bool,
    read: Callable[[Any], Any],
) -> tuple[Moments, Moments | None]:
    """Moments of the rows of a kernel: of those that it is fitted to, and of those that are held out.

    What the quantized kernel reads is what `read` makes of its input.
    """
    seen = pair.seen(node)
    holding = products and min(seen, originals) // _HELD_OUT >= _LEAST_HELD_OUT
    found: list[Moments | None] = [None, None]
    for part in pair.parts(node):
        generator = np.random.default_rng((0, index, part.number))
        pair_of_inputs = (part.wanted[0], ops.convert_to_numpy(read(part.given[0])))
        rows, images = _rows(node, pair_of_inputs, part.indices, seen, generator)
        held = (images % originals) % _HELD_OUT == 0 if holding else np.zeros(len(images), bool)
        for place, mask in enumerate((~held, held)):
            if mask.any():
                wanted, given = rows if mask.all() else [x[:, mask] for x in rows]
                new = Moments.of(wanted, given, products)
                old = found[place]
                found[place] = new if old is None else old + new
    fitted, held_out = found
    assert fitted is not None  # noqa: S101 narrowed for the type checker; there are images
    return fitted, held_out


def _fit(
    quantized: keras.Model, node: Node, seen: Moments, held_out: Moments | None, kernels: bool
) -> Rounded | None:
    """Fit the kernel of a node, where wanted, and take back what the mean of every output channel lost."""
    copies = [quantized.get_layer(layer.name) for layer in node.layers]
    wrapper: QuantizeWrapper = copies[0]
    quantizer = wrapper.weight_quantizer
    assert quantizer is not None  # noqa: S101 narrowed for the type checker; the node has a kernel
    weights = as_matrices(np.asarray(node.main.kernel, np.float64), node)
    rounded = None
    if kernels:
        log_steps = {}

        def steps(kernel: np.ndarray) -> np.ndarray:
            """The steps as the network has them, in float32."""
            log_steps["found"] = quantizer.initial_log_step(as_kernel(kernel, node))
            return np.exp(log_steps["found"][0]).reshape(len(weights), 1, -1).astype(np.float64)

        rounded = chosen_rounding(weights, seen, held_out, quantizer.levels[0], steps)
        wrapper.weight_variables["log_step"].assign(log_steps["found"])
        wrapper.layer.kernel.assign(as_kernel(rounded.kernel, node).astype(np.float32))
    both = seen if held_out is None else seen + held_out
    found = as_matrices(np.asarray(wrapper.quantized_kernel(), np.float64), node)
    _shift(copies, (both.given_mean @ found - both.wanted_mean @ weights).reshape(-1))
    return rounded


def _fits_in_memory(node: Node) -> bool:
    """Whether the moments of a kernel do."""
    groups, inputs, _ = as_matrices(np.asarray(node.main.kernel), node).shape
    return groups * inputs**2 <= MAX_FAN_IN**2


def _shift(copies: Sequence[keras.layers.Layer], shift: np.ndarray) -> None:
    """Take a change of the mean of every channel back, in BatchNorm or the bias, where there is one."""
    norms = [inner(layer) for layer in copies[1:] if is_a(layer, keras.layers.BatchNormalization)]
    layer = inner(copies[0])
    if norms:  # BatchNorm subtracts its mean, so the mean moves with the output
        norms[0].moving_mean.assign(np.asarray(norms[0].moving_mean) + shift)
    elif layer.use_bias:  # loaded networks have one (tfmpq.graph.biases)
        layer.bias.assign(np.asarray(layer.bias) - shift)


def _row_limit(node: Node) -> int:
    """Positions of a node's output that its moments are taken from."""
    if node.kind == "depthwise_conv2d":
        return _DEPTHWISE_ROWS
    if node.kind == "dense":
        return _ROWS
    length = int(np.prod(node.main.kernel_size)) * int(node.layers[0].input.shape[-1])
    return min(_ROWS, _ENTRIES // length)


def _rows(
    node: Node,
    inputs: tuple[np.ndarray, np.ndarray],
    indices: np.ndarray,
    images: int,
    generator: np.random.Generator,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Rows of a kernel in both networks, float32 (groups, rows, inputs), and the image that each is of."""
    wanted, given = inputs
    if node.kind == "dense":
        return [wanted[None], given[None]], indices
    shape = (len(wanted), *node.output_shape[:2])
    total = int(np.prod(shape))
    limit = -(-_row_limit(node) * len(wanted) // images)
    picks = np.arange(total) if total <= limit else generator.choice(total, limit, replace=False)
    positions: Positions = np.unravel_index(picks, shape)
    return [input_matrices(node, x, positions) for x in (wanted, given)], indices[positions[0]]
