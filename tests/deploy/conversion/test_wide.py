"""16-bit activations: accumulators never wrap, and codes use the whole container."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tfmpq.api.specialize import specialize
from tfmpq.deploy.conversion import surgery
from tfmpq.deploy.conversion.specialize import has_wide_activations
from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.proof import readback
from tfmpq.deploy.proof.verify import verify
from tfmpq.deploy.tflite import layout
from tfmpq.deploy.tflite.flatbuffer import read_model
from tfmpq.deploy.tflite.layout import bias_type
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.graph.containers import SPECIALIZED, wide_container
from tfmpq.graph.frozen import FrozenLayer, FrozenModel, FrozenWeights, TensorGrid
from tfmpq.quantizers.learned_step import activation_levels

INPUTS, WIDE = 1024, 16


def grid(scale: float, signed: bool = True, bits: int = 16) -> TensorGrid:
    return TensorGrid(float(np.float32(scale)), bits, signed, 16)


def network(weight: int, kind: str = "conv2d") -> FrozenModel:
    """A layer whose weights are all the same, so that an image of the largest codes reaches the bound."""
    shapes = {"conv2d": (INPUTS, 4), "conv2d_transpose": (4, INPUTS), "depthwise_conv2d": (INPUTS, 1)}
    shape = (1, 1, *shapes[kind])
    channels = INPUTS if kind == "depthwise_conv2d" else 4
    integers = np.full(shape, weight, np.int8)
    step = np.float32(1e-4)
    bias = np.arange(channels, dtype=np.int64) * 1000 - 2000
    weights = FrozenWeights(integers, np.full(channels, step), bias, 8)
    attributes = {"strides": (1, 1), "padding": "valid", "dilation": (1, 1)}
    reach = abs(weight) * (1 if kind == "depthwise_conv2d" else INPUTS) * float(step)
    layers = (
        FrozenLayer("image", "input", (), grid(1.0 / 32767)),
        FrozenLayer("sums", kind, ("image",), grid(1.01 * reach / 32767), "linear", weights, attributes),
    )
    return FrozenModel("sums", (1, 2, INPUTS), layers, {})


def extreme_images() -> np.ndarray:
    images = np.ones((2, 1, 2, INPUTS), np.float32)
    images[1, :, :, : INPUTS // 2] = -1
    return images


@pytest.mark.parametrize(("weight", "kind", "dtype"), [
    (1, "conv2d", np.int32),
    (63, "conv2d", np.int32),
    (64, "conv2d", np.int64),
    (-127, "conv2d", np.int64),
    (63, "conv2d_transpose", np.int32),
    (64, "conv2d_transpose", np.int64),
    (1, "depthwise_conv2d", np.int64),
])  # fmt: skip
def test_accumulators_have_32_bits_only_where_nothing_can_overflow(weight: int, kind: str, dtype) -> None:
    frozen = network(weight, kind)
    # 2^15 * 1024 * 64 is 2^31.
    assert bias_type(frozen, frozen.layers[1]) is dtype
    content = build_tflite(frozen, "litert")
    proof = verify(frozen, content, "litert", extreme_images())
    assert proof.failures == ()
    assert all(check.off_by_more == 0 for check in proof.operators)


def test_the_proof_notices_accumulators_that_wrap(monkeypatch) -> None:
    frozen = network(127)
    for module in (layout, readback, surgery):
        monkeypatch.setattr(module, "bias_type", lambda frozen, layer: np.int32)
    proof = verify(frozen, build_tflite(frozen, "litert"), "litert", extreme_images())
    assert "sums" in proof.failures[0]
    assert proof.operators[0].off_by_more > 0


def test_codes_of_16_bits() -> None:
    signed, unsigned, image = grid(0.5), grid(0.5, signed=False), grid(0.5, signed=False, bits=8)
    assert (signed.zero_point, unsigned.zero_point, image.zero_point) == (0, 0, 0)
    for made, levels in ((signed, activation_levels(WIDE, True)), (unsigned, activation_levels(WIDE, False))):
        assert made.code_range == (levels.low, levels.high)
    assert image.code_range == (0, 255)
    codes = unsigned.quantize(np.array([-1.0, 0.25, 0.75, 1e6]))
    assert codes.dtype == np.int16
    assert codes.tolist() == [0, 0, 2, 32767]  # ties to even
    assert unsigned.dequantize(codes).tolist() == [0.0, 0.0, 1.0, 16383.5]


def test_other_targets_and_mixed_containers_are_refused() -> None:
    frozen = network(1)
    with pytest.raises(UsageError, match="--target litert"):
        build_tflite(frozen, "storage")
    with pytest.raises(UsageError, match="Received: tflm"):
        wide_container("dense", "tflm")
    narrow = replace(frozen.layers[1], grid=TensorGrid(0.5))
    with pytest.raises(TfmpqError, match="codes of one size"):
        build_tflite(replace(frozen, layers=(frozen.layers[0], narrow)), "litert")


def test_a_file_is_rewritten_for_no_other_target(make_small, tmp_path, monkeypatch) -> None:
    source, out = tmp_path / "wide.tflite", tmp_path / "out.tflite"
    source.write_bytes(build_tflite(network(1), "litert"))
    for target in set(SPECIALIZED) - {"litert"}:
        with pytest.raises(UsageError, match=rf"written for --target litert. Received: {target}, for .*wide"):
            specialize(source, out, target)
    assert not out.exists()
    # A processor for which 8-bit networks are written otherwise.
    monkeypatch.setattr("tfmpq.api.specialize.target_for", lambda *_: "litert-int8")
    assert specialize(source, out, "auto").target == "litert"
    assert out.read_bytes() == source.read_bytes()
    assert not has_wide_activations(read_model(build_tflite(make_small(4), "litert")))
