"""How near to the middle between two codes XNNPACK may choose either: the bound, on all pairs of codes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.proof.reference import expected_value, steps_off, tie_width
from tfmpq.deploy.runtime.interpreter import tensor_values
from tfmpq.graph.frozen import FrozenLayer, FrozenModel, FrozenWeights, TensorGrid

# Steps of the inputs in steps of the output; next to halves and quarters, so that many sums are next to ties.
RATIOS = [
    (0.9, 0.6),
    (1 - 3e-7, 0.5 + 7e-7),
    (0.25 + 5e-7, 0.75 - 9e-7),
    (1.5 + 1e-6, 0.375 - 1e-6),
    (3.5 - 3e-6, 0.25 + 1e-6),
    (12.5 + 1e-5, 0.5 - 4e-7),
]


def pair_sum(ratios: tuple[float, float]) -> FrozenModel:
    """The sum of an image's two channels, each put on a grid of its own."""
    image, out = TensorGrid(float(np.float32(0.02))), TensorGrid(float(np.float32(0.0371)))
    layers = [FrozenLayer("image", "input", (), image, "linear", None, {})]
    attributes = {"strides": (1, 1), "padding": "same", "dilation": (1, 1)}
    for channel, ratio in enumerate(ratios):
        grid = TensorGrid(float(np.float32(ratio * out.scale)))
        kernel = np.zeros((1, 1, 2, 1), np.int8)
        kernel[0, 0, channel] = 127
        # Each code becomes itself.
        scales = np.array([grid.scale / (127 * image.scale)], np.float32)
        weights = FrozenWeights(kernel, scales, np.zeros(1, np.int32), 8)
        layers.append(FrozenLayer(f"c{channel}", "conv2d", ("image",), grid, "linear", weights, attributes))
    layers.append(FrozenLayer("sum", "add", ("c0", "c1"), out, "linear", None, {}))
    return FrozenModel("pairs", (256, 256, 2), tuple(layers), {})


def all_pairs() -> np.ndarray:
    codes = np.arange(-128, 128, dtype=np.int8)
    return np.stack(np.meshgrid(codes, codes), axis=-1)[None]


@pytest.mark.parametrize("ratios", RATIOS, ids=str)
def test_every_sum_is_right_but_for_ties(ratios: tuple[float, float]) -> None:
    frozen = pair_sum(ratios)
    found = tensor_values(build_tflite(frozen, "litert"), ["c0", "c1", "sum"], all_pairs(), "default")
    for channel in (0, 1):
        np.testing.assert_array_equal(found[f"c{channel}"][..., 0], all_pairs()[..., channel])
    layer = frozen.layer("sum")
    expected = expected_value(frozen, layer, [found["c0"], found["c1"]])
    tie = tie_width(frozen, layer)
    assert tie < 2.0**-11 * max(1.0, *ratios)
    assert not steps_off(expected, found["sum"], tie).any()
    assert steps_off(expected, found["sum"], 1e-7).any()  # and some sums do need the bound


def test_the_bound_is_no_larger_than_it_has_to_be() -> None:
    """Multipliers as XNNPACK computes them: the worst pair of codes comes near the bound."""
    generator = np.random.default_rng(0)
    left, right = (codes[..., None].astype(np.float64) for codes in np.moveaxis(all_pairs()[0], -1, 0))
    worst = 0.0
    for ratios in np.exp(generator.uniform(np.log(0.01), np.log(60), (40, 2))):
        frozen = pair_sum((float(ratios[0]), float(ratios[1])))
        grids = [frozen.layer(name).grid for name in ("c0", "c1", "sum")]
        scales = [np.float32(grid.scale) for grid in grids]
        exact = sum(x * float(s) for x, s in zip((left, right), scales[:2], strict=True)) / float(scales[2])
        ratio = [s / scales[2] for s in scales[:2]]
        shift = 20 - int(np.floor(np.log2(max(ratio))))
        multipliers = [np.rint(np.ldexp(r, shift)).astype(np.int64) for r in ratio]
        value = (left * multipliers[0] + right * multipliers[1]) / 2.0**shift
        share = np.abs(value - exact).max() / tie_width(frozen, frozen.layer("sum"))
        assert share <= 1
        worst = max(worst, float(share))
    assert worst > 0.3  # codes are at most 128 from 0; with a zero point of -128 they are 255


@pytest.mark.parametrize("ratio", [0.5 + 2.0**-22, 0.5 - 2.0**-22, 1.5 - 2.0**-20, 0.75 + 2.0**-21])
def test_every_scaled_code_is_right_but_for_ties(ratio: float) -> None:
    frozen = pair_sum((0.5, 0.5))
    layers = list(frozen.layers)
    layer = layers[1]
    assert layer.weights is not None
    scales = (layer.weights.scales * np.float32(ratio)).astype(np.float32)
    layers[1] = replace(layer, weights=replace(layer.weights, scales=scales))
    frozen = replace(frozen, layers=tuple(layers))
    found = tensor_values(build_tflite(frozen, "litert"), ["c0", "sum"], all_pairs(), "default")
    expected = expected_value(frozen, layers[1], [all_pairs()])
    tie = tie_width(frozen, layers[1])
    assert tie == 255 * 2.0**-22
    assert not steps_off(expected, found["c0"], tie).any()
