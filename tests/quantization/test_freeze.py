"""The frozen integers, run by a simulator in NumPy, are the network that Keras trained."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from numpy.lib.stride_tricks import sliding_window_view

from tfmpq.graph.frozen import FrozenLayer, FrozenModel, TensorGrid
from tfmpq.graph.fusion import analyse
from tfmpq.graph.network import INPUT_QUANTIZER, Network
from tfmpq.graph.shortcut import PadShortcut
from tfmpq.quantization.freeze import freeze, snap_biases
from tfmpq.quantizers.learned_step import LearnedStepQuantizer


def padded(codes: np.ndarray, layer: FrozenLayer, size: tuple[int, int], value: float) -> np.ndarray:
    """Spatial padding as `same` has it: what is missing, half of it before."""
    pairs = [(0, 0)]
    for axis, (length, extent) in enumerate(zip(codes.shape[1:3], size, strict=True)):
        stride = layer.attributes["strides"][axis]
        total = max(0, (-(-length // stride) - 1) * stride + extent - length)
        pairs.append((total // 2, total - total // 2) if layer.attributes["padding"] == "same" else (0, 0))
    return np.pad(codes, [*pairs, (0, 0)], constant_values=value)


def windows(codes: np.ndarray, layer: FrozenLayer, size: tuple[int, int], value: float = 0.0) -> np.ndarray:
    """(N, out height, out width, channels, height, width) of a zero-padded tensor."""
    rows, columns = layer.attributes["strides"]
    every = sliding_window_view(padded(codes, layer, size, value), size, axis=(1, 2))
    return every[:, ::rows, ::columns]


def simulate(layer: FrozenLayer, frozen: FrozenModel, inputs: list[np.ndarray]) -> np.ndarray:
    """int8 codes of a layer's output, computed in float64 from int8 codes; exact up to the last rounding."""
    grids = [frozen.layer(name).grid for name in layer.inputs]
    real = None
    centred = [codes.astype(np.float64) - grid.zero_point for codes, grid in zip(inputs, grids, strict=True)]
    if layer.weights is not None:
        integers = layer.weights.integers.astype(np.float64)
        if layer.kind == "dense":
            total = centred[0] @ integers
        elif layer.kind == "conv2d":
            total = np.einsum("nhwcij,ijco->nhwo", windows(centred[0], layer, integers.shape[:2]), integers)
        else:
            total = np.einsum(
                "nhwcij,ijc->nhwc", windows(centred[0], layer, integers.shape[:2]), integers[..., 0]
            )
        total += layer.weights.bias
        assert np.abs(total).max() < 2**31
        real = total * (np.float32(grids[0].scale) * layer.weights.scales).astype(np.float64)
    elif layer.kind == "add":
        real = sum(c * grid.scale for c, grid in zip(centred, grids, strict=True))
    elif layer.kind == "global_average_pooling2d":
        real = centred[0].mean(axis=(1, 2)) * grids[0].scale
    elif layer.kind == "max_pooling2d":
        return windows(inputs[0], layer, layer.attributes["pool_size"], -128).max(axis=(-2, -1))
    elif layer.kind == "zero_padding":
        return np.pad(inputs[0], [(0, 0), *layer.attributes["paddings"]], constant_values=grids[0].zero_point)
    else:
        assert layer.kind == "reshape"
        return inputs[0].reshape(-1, *layer.attributes["shape"])
    real = {"linear": real, "relu": np.maximum(real, 0), "relu6": np.clip(real, 0, 6)}[layer.activation]
    low, high = layer.grid.code_range
    return np.clip(np.rint(real / layer.grid.scale) + layer.grid.zero_point, low, high).astype(np.int8)


def keras_codes(model: keras.Model, network: Network, frozen: FrozenModel, images: np.ndarray) -> dict:
    """int8 codes of every tensor, from Keras' inference."""
    names = {
        node.name: INPUT_QUANTIZER if node.kind == "input" else node.tensor
        for node in network.nodes
        if any(layer.name == node.name for layer in frozen.layers)
    }
    probe = keras.Model(model.inputs[0], [model.get_layer(name).output for name in names.values()])
    values = probe(images, training=False)
    return {
        name: frozen.layer(name).grid.quantize(value.numpy())
        for name, value in zip(names, values, strict=True)
    }


def check(model: keras.Model, images: np.ndarray) -> FrozenModel:
    """Every layer within 1 of Keras, nearly all equal, from Keras' own inputs and in one go."""
    network = analyse(model)
    snap_biases(model, network)
    frozen = freeze(model, network, {"seed": 1})
    codes = keras_codes(model, network, frozen, images)
    flow = {frozen.layers[0].name: codes[frozen.layers[0].name]}
    wrong = total = 0
    for layer in frozen.layers[1:]:
        flow[layer.name] = simulate(layer, frozen, [flow[name] for name in layer.inputs])
        codes.setdefault(layer.name, flow[layer.name])
        alone = simulate(layer, frozen, [codes[name] for name in layer.inputs])
        difference = np.abs(alone.astype(int) - codes[layer.name])
        assert difference.max() <= 1, layer.name
        wrong, total = wrong + int((difference > 0).sum()), total + difference.size
    assert wrong <= 1e-3 * total
    last = frozen.layers[-1].name
    assert np.abs(flow[last].astype(int) - codes[last]).max() <= 2
    return frozen


def check_weights(frozen: FrozenModel) -> None:
    for layer in frozen.weighted:
        weights = layer.weights
        assert (weights.integers.dtype, weights.scales.dtype, weights.bias.dtype) == (
            np.int8,
            np.float32,
            np.int32,
        )
        assert np.abs(weights.integers.astype(int)).max() <= 2 ** (weights.bits - 1) - 1
        assert np.all(np.isfinite(weights.scales))
        assert np.all(weights.scales > 0)


@pytest.mark.parametrize(("bits", "seed"), [(2, 0), (3, 1), (4, 2), (8, 3)])
def test_frozen_integers_are_the_trained_network(searchable, bits: int, seed: int) -> None:
    made = searchable((bits,), (8,), seed=seed)
    frozen = check(made.quantized, made.images)
    check_weights(frozen)
    assert [layer.name for layer in frozen.layers] == [node.name for node in made.network.nodes]
    assert frozen.metadata == {"seed": 1}
    assert frozen.name == made.quantized.name


def test_activations_of_few_bits(searchable) -> None:
    made = searchable((4,), (3,), seed=5)
    check_weights(check(made.quantized, made.images))


def other_operators() -> keras.Model:
    """What the residual network lacks: dropout, flatten, padding, a padded shortcut, BatchNorm in part."""
    image = keras.Input((9, 9, 3), name="image")
    x = layers.ZeroPadding2D(((0, 1), (1, 0)), name="pad")(image)
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu6", name="stem")(x)
    y = layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False, name="no_beta")(x)
    y = layers.BatchNormalization(center=False, name="no_beta_bn")(y)
    x = layers.Add(name="add")([PadShortcut(6, 2, name="short")(x), y])
    x = layers.ReLU(name="add_relu")(x)
    x = layers.Conv2D(6, 1, use_bias=False, name="no_gamma")(x)
    x = layers.BatchNormalization(scale=False, name="no_gamma_bn")(x)
    x = layers.Dropout(0.3, name="dropout")(x)
    x = layers.MaxPooling2D(2, padding="same", name="pool")(x)
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(image, layers.Dense(4, use_bias=False, name="logits")(x))


def test_every_other_operator(searchable) -> None:
    made = searchable((3,), (8,), build=other_operators)
    frozen = check(made.quantized, made.images)
    check_weights(frozen)
    assert "dropout" not in {layer.name for layer in frozen.layers}
    assert frozen.layer("pool").inputs == ("no_gamma",)
    assert frozen.layer("short").inputs == ("short_subsample",)
    assert frozen.layer("short").attributes["paddings"] == ((0, 0), (0, 0), (1, 1))


def test_biases_lie_on_their_grid_and_stay_there(searchable) -> None:
    made = searchable((2,), (8,), seed=6)
    network = analyse(made.quantized)
    snap_biases(made.quantized, network)
    frozen = freeze(made.quantized, network)
    before = [w.copy() for w in made.quantized.get_weights()]
    for node in network.weighted:
        layer, wrapper = frozen.layer(node.name), made.quantized.get_layer(node.name)
        source = frozen.layer(layer.inputs[0]).grid.scale
        real = layer.weights.bias * (np.float32(source) * layer.weights.scales).astype(np.float64)
        bias = 0.0 if wrapper.layer.bias is None else np.asarray(wrapper.layer.bias, np.float64)
        norm = node.batch_norm
        if norm is not None:
            gamma, beta, mean, variance = (np.asarray(w, np.float64) for w in norm.get_weights())
            bias = (bias - mean) * gamma / np.sqrt(variance + norm.epsilon) + beta
        np.testing.assert_allclose(real, bias, rtol=1e-6, atol=1e-6)
    snap_biases(made.quantized, network)
    for old, new in zip(before, made.quantized.get_weights(), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-6, atol=1e-6)


def test_the_sign_of_gamma_goes_into_the_integers(searchable) -> None:
    made = searchable((4,), (8,), seed=7)
    network = analyse(made.quantized)
    frozen = freeze(made.quantized, network)
    for name in ("stem", "dw"):
        wrapper, norm = made.quantized.get_layer(name), network.node(name).batch_norm
        gamma, _, _, variance = norm.get_weights()
        step = np.exp(np.asarray(wrapper.weight_variables["log_step"])[0]).reshape(-1)
        weights = frozen.layer(name).weights
        kernel = np.asarray(wrapper.quantized_kernel(), np.float64)
        channels = kernel.reshape(
            -1, kernel.size // (kernel.shape[0] * kernel.shape[1] * gamma.size), gamma.size
        )
        folded = channels * (gamma / np.sqrt(variance + norm.epsilon))
        real = weights.integers.astype(np.float64).reshape(channels.shape) * weights.scales
        np.testing.assert_allclose(real[..., 1:], folded[..., 1:], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(
            weights.scales[1:], (step * np.abs(gamma) / np.sqrt(variance + norm.epsilon))[1:], rtol=1e-5
        )
        assert (gamma[1:] < 0).any()
        assert not weights.integers[..., 0].any() or name == "dw"  # gamma 0 switches channel 0 off


@pytest.mark.parametrize("gamma", [0.0, 1e-30, -1e-12, 1e-7])
def test_channels_that_batch_norm_switches_off_stay_finite(searchable, gamma: float) -> None:
    made = searchable((4,), (8,), seed=8)
    network = analyse(made.quantized)
    for name in ("stem", "dw"):
        norm = network.node(name).batch_norm
        values = norm.get_weights()
        values[0][:3], values[1][:3] = gamma, (5.0, -5.0, 0.0)
        norm.set_weights(values)
    frozen = check(made.quantized, made.images)
    check_weights(frozen)
    for name in ("stem", "dw"):
        layer = frozen.layer(name)
        source, weights = frozen.layer(layer.inputs[0]).grid.scale, layer.weights
        assert np.abs(weights.bias.astype(np.int64)).max() <= 2**30 * (1 + 1e-6)
        largest = 255 * np.abs(weights.integers.astype(np.int64)).sum(axis=(0, 1, 2))
        assert (np.abs(weights.bias.astype(np.int64)).max() + largest.max()) < 2**31
        assert np.all(source * weights.scales.astype(np.float64) / layer.grid.scale >= 2.0**-31)


def test_a_model_with_a_choice_cannot_be_frozen(searchable) -> None:
    made = searchable((2, 4), (8,))
    with pytest.raises(ValueError, match="one bit-width per tensor"):
        freeze(made.quantized, analyse(made.quantized))


def test_the_simulator_is_tensorflows_convolution() -> None:
    """A check of the checker."""
    generator = np.random.default_rng(0)
    x = generator.integers(-9, 9, (2, 7, 6, 3)).astype(np.float64)
    kernel = generator.integers(-7, 8, (3, 2, 3, 4)).astype(np.float64)
    for strides in ((1, 1), (2, 3)):
        for padding in ("same", "valid"):
            layer = FrozenLayer("c", "conv2d", (), None, attributes={"strides": strides, "padding": padding})
            ours = np.einsum("nhwcij,ijco->nhwo", windows(x, layer, (3, 2)), kernel)
            theirs = tf.nn.conv2d(x, kernel, strides, padding.upper())
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8, 16])
def test_codes_stand_for_what_the_trained_quantizer_gives(bits: int, signed: bool) -> None:
    step = float(np.float32(0.037))
    grid = TensorGrid(step, bits, signed, 16 if bits == 16 else 8)
    values = np.random.default_rng(bits).normal(0, 60 * step * 2 ** max(bits - 8, 0), 4000).astype("float32")
    variables = {"log_step": np.log(np.array([step], np.float32))}
    quantizer = LearnedStepQuantizer((bits,), signed=signed)
    wanted = np.asarray(quantizer(keras.ops.convert_to_tensor(values), training=False, weights=variables))
    codes = grid.quantize(values)
    assert np.mean(np.abs(grid.dequantize(codes) - wanted) > step / 2) < 1e-3  # ties, as log and exp round
    assert grid.dequantize(codes[codes == grid.zero_point]).sum() == 0
    if not signed:
        assert grid.code_range[0] == grid.zero_point
