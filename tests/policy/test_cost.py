"""Costs against published counts, closed forms and brute-force sums."""

import itertools
import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfmpq.errors import UsageError
from tfmpq.policy.cost import COST_KEYS, CostModel, LayerCost
from tfmpq.policy.expected_cost import ExpectedCost


def conv(name, size, kernel, inputs, outputs, stride=1, groups=1, reads=None):
    """A convolution with "same" padding, from its closed form; `size` is that of the input."""
    weights = kernel * kernel * inputs // groups * outputs
    positions = math.ceil(size / stride) ** 2
    operator = "depthwise_conv2d" if groups == inputs > 1 else "conv2d"
    if operator == "conv2d" and kernel == stride == 1:
        operator = "pointwise"
    return LayerCost(
        name, operator, weights * positions, weights, outputs, weights // outputs, reads or f"in_{name}"
    )


def dense(inputs, outputs):
    return LayerCost("head", "dense", inputs * outputs, inputs * outputs, outputs, inputs, "in_head")


def resnet20():
    layers = [conv("stem", 32, 3, 3, 16)]
    size, inputs = 32, 16
    for stage, outputs in enumerate((16, 32, 64)):
        for block in range(3):
            stride = 2 if stage and not block else 1
            name = f"s{stage}b{block}"
            layers.append(conv(f"{name}_1", size, 3, inputs, outputs, stride))
            if stride == 2:
                layers.append(conv(f"{name}_short", size, 1, inputs, outputs, 2, reads=f"in_{name}_1"))
            size //= stride
            layers.append(conv(f"{name}_2", size, 3, outputs, outputs))
            inputs = outputs
    return CostModel((*layers, dense(64, 100)))


def resnet18():
    layers = [conv("stem", 224, 7, 3, 64, 2)]
    size, inputs = 56, 64
    for stage, outputs in enumerate((64, 128, 256, 512)):
        for block in range(2):
            stride = 2 if stage and not block else 1
            name = f"s{stage}b{block}"
            layers.append(conv(f"{name}_1", size, 3, inputs, outputs, stride))
            if stride == 2:
                layers.append(conv(f"{name}_short", size, 1, inputs, outputs, 2, reads=f"in_{name}_1"))
            size //= stride
            layers.append(conv(f"{name}_2", size, 3, outputs, outputs))
            inputs = outputs
    return CostModel((*layers, dense(512, 1000)))


def mobilenet_v2():
    layers = [conv("stem", 224, 3, 3, 32, 2)]
    size, inputs, index = 112, 32, 0
    table = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    for expansion, outputs, repeats, first_stride in table:
        for repeat in range(repeats):
            stride, hidden = first_stride if repeat == 0 else 1, inputs * expansion
            if expansion > 1:
                layers.append(conv(f"b{index}_expand", size, 1, inputs, hidden))
            layers.append(conv(f"b{index}_depthwise", size, 3, hidden, hidden, stride, groups=hidden))
            size //= stride
            layers.append(conv(f"b{index}_project", size, 1, hidden, outputs))
            inputs, index = outputs, index + 1
    layers.append(conv("last", size, 1, inputs, 1280))
    return CostModel((*layers, dense(1280, 1000)))


def bits_of(model, bits):
    """The published setting: `bits` everywhere, stem and head 8 x 8."""
    weights, activations = model.uniform(bits)
    for layer in (model.layers[0], model.layers[-1]):
        weights[layer.name] = activations[layer.reads] = 8
    return weights, activations


@pytest.mark.parametrize(
    ("build", "bits", "bops"),
    [
        (resnet20, 4, 674_643_968),
        (resnet20, 3, 392_052_736),
        (resnet18, 4, 34_714_419_200),
        (resnet18, 2, 14_367_850_496),
        (mobilenet_v2, 4, 5_394_053_120),
    ],
)
def test_bops_of_published_networks(build, bits, bops):
    model = build()
    assert model.bops(*bits_of(model, bits)) == bops


def test_weights_of_published_networks():
    # Convolution kernels, biases and the head of torchvision's models, BatchNorm left out.
    assert sum(layer.weights for layer in resnet18().layers) == 11_689_512 - 1000 - 2 * 4800
    assert sum(layer.weights for layer in mobilenet_v2().layers) == 3_504_872 - 1000 - 2 * 17056


@pytest.mark.parametrize(("bits", "compression"), [(1.992, 258.06), (2.007, 254.22)])
def test_the_ratio_rule_gives_published_compressions(bits, compression):
    model = resnet18()
    weights, activations = bits_of(model, bits)
    result = model.gmpq_bops(weights, activations)
    assert result.compression == pytest.approx(compression, abs=5e-3)
    assert result.bops == pytest.approx(model.float_bops / compression, rel=1e-4)


def test_gmpq_bops_of_a_tiny_network_leave_nothing_out():
    model = CostModel((conv("a", 8, 3, 3, 4), dense(4, 2)))
    assert model.gmpq_bops(*model.uniform(8)).compression == pytest.approx(16)


def test_size_is_that_of_the_containers():
    model = CostModel((conv("a", 8, 3, 3, 5), dense(7, 3)), fixed_bytes=11)
    assert model.size({"a": 2, "head": 3}) == 11 + (135 * 2 + 7) // 8 + 40 + (21 * 4 + 7) // 8 + 24
    assert model.size({"a": 5, "head": 8}) == model.size({"a": 8, "head": 8}) == 11 + 135 + 40 + 21 + 24
    assert model.float_size == 4 * (135 + 5 + 21 + 3)
    assert model.mean_weight_bits({"a": 2, "head": 8}) == pytest.approx((135 * 2 + 21 * 8) / 156)


def test_report_adds_up():
    model = resnet20()
    weights, activations = bits_of(model, 3)
    report = model.report(weights, activations)
    assert report.size == sum(row.size for row in report.by_layer) + report.fixed_bytes
    assert report.bops == sum(row.bops for row in report.by_layer) == 392_052_736
    assert {row.container_bits for row in report.by_layer} == {4, 8}


def test_missing_bits_are_named():
    model = resnet20()
    weights, activations = model.uniform()
    del weights["s1b0_short"]
    with pytest.raises(UsageError, match="s1b0_short"):
        model.bops(weights, activations)
    with pytest.raises(UsageError, match="in_head"):
        model.report(model.uniform()[0], {k: v for k, v in activations.items() if k != "in_head"})


WEIGHT_BITS, ACTIVATION_BITS = (2, 3, 4, 8), (2, 4, 8)
SMALL = CostModel(
    (conv("a", 8, 3, 3, 4), conv("b", 8, 3, 4, 4, reads="t"), conv("c", 8, 1, 4, 6, reads="t")), 9
)
EXPECTED = ExpectedCost(
    SMALL, dict.fromkeys("abc", WEIGHT_BITS), dict.fromkeys(("in_a", "t"), ACTIVATION_BITS)
)


def one_hot(value, candidates):
    return np.eye(len(candidates), dtype="float32")[candidates.index(value)]


def probabilities(count):
    numbers = st.lists(st.floats(0.01, 1), min_size=count, max_size=count)
    return numbers.map(lambda values: np.array(values, np.float32) / np.float32(sum(values)))


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.sampled_from(WEIGHT_BITS)] * 3), st.tuples(*[st.sampled_from(ACTIVATION_BITS)] * 2))
def test_the_expected_cost_of_one_hot_choices_is_the_discrete_cost(weights, activations):
    w, a = dict(zip("abc", weights, strict=True)), dict(zip(("in_a", "t"), activations, strict=True))
    hot_w = {name: one_hot(bits, WEIGHT_BITS) for name, bits in w.items()}
    hot_a = {name: one_hot(bits, ACTIVATION_BITS) for name, bits in a.items()}
    for key in COST_KEYS:
        expected = float(EXPECTED(key, hot_w, hot_a))
        assert expected == pytest.approx(SMALL.value(key, w, a) / SMALL.reference(key), rel=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.tuples(*[probabilities(4)] * 3), st.tuples(*[probabilities(3)] * 2))
def test_the_expected_cost_is_the_mean_over_all_choices(weights, activations):
    w, a = dict(zip("abc", weights, strict=True)), dict(zip(("in_a", "t"), activations, strict=True))
    mean = dict.fromkeys(COST_KEYS, 0.0)
    for picked_w in itertools.product(range(4), repeat=3):
        for picked_a in itertools.product(range(3), repeat=2):
            p = np.prod([w[n][i] for n, i in zip("abc", picked_w, strict=True)], dtype=np.float64)
            p *= np.prod([a[n][i] for n, i in zip(a, picked_a, strict=True)], dtype=np.float64)
            bits_w = {n: WEIGHT_BITS[i] for n, i in zip("abc", picked_w, strict=True)}
            bits_a = {n: ACTIVATION_BITS[i] for n, i in zip(a, picked_a, strict=True)}
            for key in COST_KEYS:
                mean[key] += p * SMALL.value(key, bits_w, bits_a) / SMALL.reference(key)
    for key in COST_KEYS:
        assert float(EXPECTED(key, w, a)) == pytest.approx(mean[key], rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.integers(2, 8)] * 3), st.tuples(*[st.integers(2, 8)] * 2), st.integers(0, 4))
def test_more_bits_never_cost_less(weights, activations, raised):
    before = dict(zip("abc", weights, strict=True)), dict(zip(("in_a", "t"), activations, strict=True))
    after = dict(before[0]), dict(before[1])
    bits, name = (after[0], "abc"[raised]) if raised < 3 else (after[1], ("in_a", "t")[raised - 3])
    bits[name] = min(8, bits[name] + 1)
    assert all(SMALL.value(key, *after) >= SMALL.value(key, *before) for key in COST_KEYS)
    changed = after != before
    assert not changed or SMALL.bops(*after) > SMALL.bops(*before)


def test_a_single_candidate_needs_no_probabilities():
    fixed = ExpectedCost(SMALL, dict.fromkeys("abc", (8,)), dict.fromkeys(("in_a", "t"), (8,)))
    assert [float(fixed(key, {}, {})) for key in COST_KEYS] == pytest.approx([1] * len(COST_KEYS))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="takes gradients by TensorFlow")
def test_the_gradient_of_expected_bops_has_its_closed_form():
    import tensorflow as tf

    rng = np.random.default_rng(0)
    logits = {name: tf.Variable(rng.normal(size=4), dtype="float32") for name in "abc"}
    a = {"in_a": one_hot(4, ACTIVATION_BITS), "t": np.float32([0.5, 0.25, 0.25])}
    with tf.GradientTape() as tape:
        cost = EXPECTED("bops", {name: keras.ops.softmax(v) for name, v in logits.items()}, a)
    gradients = tape.gradient(cost, logits)
    for layer in SMALL.layers:
        exp = np.exp(logits[layer.name].numpy().astype(np.float64))
        p, bits = exp / exp.sum(), np.array(WEIGHT_BITS)
        activation = float(np.dot(a[layer.reads], ACTIVATION_BITS))
        wanted = p * (bits - p @ bits) * layer.macs * activation / SMALL.reference("bops")
        np.testing.assert_allclose(gradients[layer.name], wanted, rtol=1e-4, atol=1e-7)
