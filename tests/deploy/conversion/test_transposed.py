"""Transposed convolutions for every target, against the runtime for microcontrollers too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tfmpq.deploy.conversion.specialize import specialize
from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.proof.verify import verify
from tfmpq.deploy.runtime.interpreter import tensor_values
from tfmpq.deploy.tflite.flatbuffer import read_model
from tfmpq.deploy.tflite.layout import stored_layers
from tfmpq.graph.containers import TARGETS
from tfmpq.graph.frozen import FrozenModel, FrozenWeights


@pytest.fixture
def network(builder, make_grid) -> Any:
    """A transposed convolution of a given width, and a few bits behind its ReLU."""

    def build(bits: int) -> FrozenModel:
        generator, limit = np.random.default_rng(1), 2 ** (bits - 1) - 1
        net = builder(bits)
        net.add("image", "input", (), make_grid(0.0173))
        scales = generator.uniform(0.5, 1.5, 5) * 0.4 / limit
        weights = FrozenWeights(
            generator.integers(-limit, limit + 1, (3, 3, 5, 3)).astype(np.int8),
            scales.astype(np.float32),
            generator.integers(-50, 50, 5).astype(np.int32),
            bits,
        )
        options = {"strides": (2, 2), "padding": "same", "weights": weights, "activation": "relu"}
        net.add("up", "conv2d_transpose", ("image",), make_grid(0.4, 4, False), **options)
        return net.model((8, 8, 3))

    return build


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    return np.random.default_rng(0).uniform(-2, 2, (2, 8, 8, 3)).astype(np.float32)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_every_target_is_proved(network, inputs, bits: int, target) -> None:
    frozen = network(bits)
    content = build_tflite(frozen, target)
    proof = verify(frozen, content, target, inputs)
    assert proof.failures == ()
    (stored,) = stored_layers(read_model(content))
    packed = target == "storage" and bits < 8
    assert (stored.container_bits, stored.decode) == ((bits, "cast") if packed else (8, "native"))
    if target == "storage":
        (wide,) = stored_layers(read_model(specialize(content)))
        assert (wide.container_bits, wide.decode, wide.operator) == (8, "native", "conv2d_transpose")
        np.testing.assert_array_equal(wide.integers, stored.integers)


def test_microcontroller_runtime_agrees(network, inputs) -> None:
    runtime = pytest.importorskip("tflite_micro", reason="tflite-micro has no wheel for this machine").runtime
    frozen = network(4)
    content = build_tflite(frozen, "tflm")
    codes = frozen.layers[0].grid.quantize(inputs)
    expected = tensor_values(content, None, codes, "builtin")["up"]
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=1_000_000)
    for image, wanted in zip(codes, expected, strict=True):
        interpreter.set_input(image[None], 0)
        interpreter.invoke()
        np.testing.assert_array_equal(interpreter.get_output(0)[0], wanted)
