"""From a float Keras model to the quantized model that is searched or fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfmpq.graph.equivalence import noise
from tfmpq.graph.kinds import WEIGHTED
from tfmpq.graph.network import INPUT_QUANTIZER, Network, Node
from tfmpq.graph.recognition import is_a
from tfmpq.keras_internals import operation_of
from tfmpq.policy.search_space import Candidates
from tfmpq.quantization.folding import affine_of, norm_factor
from tfmpq.quantization.fused_float import require_fused
from tfmpq.quantizers.choices import quantize_wrappers
from tfmpq.quantizers.config import MixedPrecisionQuantizeConfig
from tfmpq.quantizers.learned_step import WIDE_BITS
from tfmpq.quantizers.relaxation import Relaxation
from tfmpq.quantizers.wrapper import QuantizeWrapper, inner

ROUNDING = 2.0**-22
"""A tensor below this share of what it could reach is zero but for the rounding of float32."""

LINKED_IMAGES = 4
"""Images on which the fused float network has to give what the model gives."""

PROBE_BATCH, PROBE_VALUES = 16, 2**26
"""Images whose activation tensors are held at once: so many, or fewer so that there are no more values."""

SAMPLE_SIZE = 200_000
"""Values of an activation tensor that its first step is fitted to."""


def quantize_model(
    model: keras.Model,
    network: Network,
    weight_bits: Candidates,
    activation_bits: Candidates,
    calibration: np.ndarray,
    input_range: tuple[float, float],
    relaxation: Relaxation = "softmax",
    pixel_step: float | None = None,
) -> keras.Model:
    """Clone a float model with quantizers on every kernel and every activation tensor.

    Weights are copied, weight steps are fitted to the kernels (one per output channel, so that the factor of
    a BatchNorm behind it changes nothing) and activation steps to the tensors that `calibration` produces
    (least squared error). Layers that keep the grid of their input (pooling, padding, reshape) get no
    quantizer of their own: that is what a deployed tensor can be. Tensors that share a grid go through one
    quantizer, a layer that is called for each of them.

    Args:
        model: Functional float model.
        network: Its analysis.
        weight_bits: Candidates of every weighted layer.
        activation_bits: Candidates of every activation tensor; one for the image, which is not searched.
        calibration: Preprocessed images, float32 (N, height, width, channels).
        input_range: Smallest and largest value that preprocessing can give.
        relaxation: How the logits of a choice weight its candidates.
        pixel_step: Distance between neighbouring pixels (`tfmpq.data.preprocess.pixel_step`), where a grid of
            that step, moved by half of it, holds every pixel; None for a grid that begins at 0.

    Returns:
        Functional model of the same layer names.

    Raises:
        TfmpqError: The analysis does not compute what the model computes.
    """
    # Noise goes where images may not, as beyond the bound of a relu6.
    require_fused(model, network, np.concatenate([calibration[:LINKED_IMAGES], noise(calibration.shape[1:])]))
    if any(WIDE_BITS in widths for widths in activation_bits.values()):
        pixel_step = None  # codes of 16 bits have no zero point
    configs = _configs(network, weight_bits, activation_bits, relaxation)
    if pixel_step is not None:
        configs[INPUT_QUANTIZER].output_halfway = True
    quantized = _clone(model, configs, network)
    for layer in model.layers:
        if layer.weights:
            inner(quantized.get_layer(layer.name)).set_weights(layer.get_weights())
    _initialise_weight_steps(quantized)
    _initialise_activation_steps(model, quantized, network, calibration, input_range)
    if pixel_step is not None:
        _give_steps(quantized.get_layer(INPUT_QUANTIZER), [pixel_step])
    return quantized


def _configs(
    network: Network, weight_bits: Candidates, activation_bits: Candidates, relaxation: Relaxation
) -> dict[str, MixedPrecisionQuantizeConfig]:
    """One config for each layer that needs a wrapper."""
    arguments: dict[str, dict[str, Any]] = {}
    for node in network.weighted:
        if node.name in weight_bits:
            arguments[node.name] = {"weight_bits": tuple(weight_bits[node.name])}
    for name in network.tensors:
        node = network.on_grid(name)[0]
        given = node.kind == "input" or node.fixed_step is not None
        arguments.setdefault(INPUT_QUANTIZER if node.kind == "input" else name, {}).update(
            output_bits=(8,) if node.fixed_step is not None else tuple(activation_bits[name]),
            output_signed=node.signed,
            trainable_output_step=not given,
        )
    return {
        name: MixedPrecisionQuantizeConfig(**values, relaxation=relaxation)
        for name, values in arguments.items()
    }


def _clone(
    model: keras.Model, configs: Mapping[str, MixedPrecisionQuantizeConfig], network: Network
) -> keras.Model:
    input_quantizer = QuantizeWrapper(keras.layers.Identity(name=INPUT_QUANTIZER), configs[INPUT_QUANTIZER])
    quantized_inputs: dict[int, Any] = {}
    shared = _shared_quantizers(configs, network)

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        copy = type(layer).from_config(layer.get_config())
        return QuantizeWrapper(copy, configs[layer.name]) if layer.name in configs else copy

    def on_grid(tensor: Any) -> Any:
        """The image on its 8-bit grid, made once however many layers read it."""
        if not is_a(operation_of(tensor), keras.layers.InputLayer):
            return tensor
        if id(tensor) not in quantized_inputs:
            quantized_inputs[id(tensor)] = input_quantizer(tensor)
        return quantized_inputs[id(tensor)]

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        first = args[0]
        kwargs.pop("mask", None)  # Keras hands on an empty mask that wrappers do not take
        first = [on_grid(t) for t in first] if isinstance(first, (list, tuple)) else on_grid(first)
        outputs = layer(first, *args[1:], **kwargs)
        return shared[layer.name](outputs) if layer.name in shared else outputs

    image = keras.Input(model.input_shape[1:], name=network.nodes[0].layers[0].name)
    return keras.models.clone_model(
        model, input_tensors=_like(model.input, image), clone_function=clone, call_function=call
    )


def _shared_quantizers(
    configs: Mapping[str, MixedPrecisionQuantizeConfig], network: Network
) -> dict[str, QuantizeWrapper]:
    """The quantizers of grids that are not one tensor's own, by the layers whose outputs they quantize."""
    found = {}
    own = {node.tensor for node in network.nodes}
    for name in (name for name in network.tensors if name not in own):
        quantizer = QuantizeWrapper(keras.layers.Identity(name=name), configs[name])
        found.update({node.tensor: quantizer for node in network.on_grid(name)})
    return found


def _like(structure: Any, tensor: Any) -> Any:
    """`tensor` in the nesting that the model's input has (a bare tensor or a list of one)."""
    return [tensor] if isinstance(structure, (list, tuple)) else tensor


def _initialise_weight_steps(model: keras.Model) -> None:
    for wrapper in quantize_wrappers(model):
        if wrapper.weight_quantizer is not None:
            kernel = np.asarray(wrapper.layer.kernel)
            wrapper.weight_variables["log_step"].assign(wrapper.weight_quantizer.initial_log_step(kernel))


def _initialise_activation_steps(
    model: keras.Model,
    quantized: keras.Model,
    network: Network,
    calibration: np.ndarray,
    input_range: tuple[float, float],
) -> None:
    learned = [name for name in network.tensors[1:] if network.on_grid(name)[0].fixed_step is None]
    nodes = [node for name in learned for node in network.on_grid(name)]
    samples = dict(zip(nodes, _sample_tensors(model, [n.tensor for n in nodes], calibration), strict=True))
    low, high = input_range
    # The grid of the image is given by what pixels can be, not by which pixels were seen.
    span = max(-low, high) if low < 0 else high
    image = quantized.get_layer(INPUT_QUANTIZER)
    _give_steps(image, [span / grid.high for grid in image.output_quantizer.levels])
    joined = {name: np.concatenate([samples[n] for n in network.on_grid(name)]) for name in learned}
    spans = _spans(network, {name: float(np.abs(x).max()) for name, x in joined.items()}, span)
    for name in learned:
        sample = joined[name] if name not in spans else np.full(1, spans[name])
        layer = quantized.get_layer(name)
        layer.output_variables["log_step"].assign(layer.output_quantizer.initial_log_step(sample))
    for node in network.nodes:
        if node.fixed_step is not None:
            _give_steps(quantized.get_layer(node.tensor), [node.fixed_step])


def _spans(network: Network, peaks: dict[str, float], image: float) -> dict[str, float]:
    """What tensors that are always zero are made to span: as much as what they are computed from.

    With a step far from its neighbours', the runtime refuses the operators between them.

    Args:
        network: The analysis.
        peaks: Largest magnitude seen on every learned grid.
        image: Largest magnitude of the image.

    Returns:
        Spans of those that are zero.
    """
    reached, found = {network.tensors[0]: image} | peaks, {}
    for node in network.nodes:
        if node.grid_of in peaks and node.rounds and node.grid_of not in found:
            sources = [reached.get(network.node(name).grid_of, 1.0) for name in node.inputs]
            if reached[node.grid_of] <= ROUNDING * _gain(node) * max(sources):
                found[node.grid_of] = reached[node.grid_of] = max(sources)
    return found


def _gain(node: Node) -> float:
    """How many times as large as its input the output of a node can be."""
    if node.kind == "affine":
        return float(np.abs(affine_of(node)[0]).max())
    if node.kind not in WEIGHTED:
        return 1.0 if node.kind != "multiply" else 0.0
    kernel = np.abs(np.asarray(node.main.kernel, np.float64))
    norm = node.batch_norm
    largest = 1.0 if norm is None else float(np.abs(norm_factor(norm)).max())
    return float(kernel.max()) * largest


def _give_steps(wrapper: QuantizeWrapper, steps: Sequence[float]) -> None:
    """Set the steps of a grid that is given, one for each of its widths."""
    wrapper.output_variables["log_step"].assign(np.log(np.asarray(steps)).astype(np.float32))


def _sample_tensors(model: keras.Model, names: Sequence[str], images: np.ndarray) -> list[np.ndarray]:
    """Values that the outputs of some layers take, about `SAMPLE_SIZE` of each, from all images alike."""
    probe = keras.Model(model.inputs[0], [model.get_layer(name).output for name in names])
    generator = np.random.default_rng(0)
    # A few images at a time: all tensors of a large network at once would fill the memory.
    total = sum(int(np.prod([size or 1 for size in layer.output.shape[1:]])) for layer in model.layers)
    at_once = max(1, min(PROBE_BATCH, PROBE_VALUES // total))
    chunks = np.array_split(images, -(-len(images) // at_once))
    share = SAMPLE_SIZE // len(chunks)
    found: list[list[np.ndarray]] = [[] for _ in names]
    for chunk in chunks:
        # Called directly: a few passes are not worth the tracing that `predict` does.
        for values, tensor in zip(found, keras.tree.flatten(probe(chunk, training=False)), strict=True):
            flat = keras.ops.convert_to_numpy(tensor).ravel()
            values.append(flat if flat.size <= share else generator.choice(flat, share, replace=False))
    return [np.concatenate(values) for values in found]
