"""Inputs on the grid of what is there: the formula of XNNPACK's kernels, in float32, and its gradient."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from tfmpq.quantizers.config import MixedPrecisionQuantizeConfig
from tfmpq.quantizers.dynamic import InputGrid, quantize_input
from tfmpq.quantizers.wrapper import QuantizeWrapper

F = np.float32


def row_by_row(row: np.ndarray) -> np.ndarray:
    """The formula for one row, number by number."""
    low, high = min(F(0), row.min()), max(F(0), row.max())
    if low == high:
        return np.zeros_like(row)
    k = F(255) / F(high - low)
    below, above = F(low * k), F(high * k)
    near_low = F(F(-128) + below) + F(F(127) + above) > 0
    zero = np.rint(np.clip(F(-128) - below if near_low else F(127) - above, -128, 127))
    codes = np.clip(np.rint(F(row * k)) + zero, -128, 127)
    return ((codes - zero) * F(F(1) / k)).astype(F)


def rows(seed: int) -> np.ndarray:
    """Rows of many sizes: ordinary, of one sign, of one value, of zeros, tiny, large, with an outlier."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(9, 17))
    x[1], x[2], x[3], x[4] = np.abs(x[1]) + 1, -np.abs(x[2]), 3.0, 0.0
    x[5] *= 1e-30
    x[6] *= 1e30
    x[7, 3] = 1e4
    x[8] = np.round(x[8] * 100)
    return x.astype(F)


@given(st.integers(0, 2**32 - 1))
def test_each_row_is_on_the_grid_of_its_smallest_and_largest_value(seed: int) -> None:
    x = rows(seed)
    found = ops.convert_to_numpy(quantize_input(x, "row"))
    np.testing.assert_array_equal(found, [row_by_row(row) for row in x])
    span = np.maximum(x.max(1), 0) - np.minimum(x.min(1), 0)
    # A value is at most half a level off, and one more half at an end of the span, where codes are cut.
    assert (np.abs(found - x) <= (1.001 * span / 255)[:, None] + 1e-38).all()


@pytest.mark.parametrize(("what", "patch"), [("image", (1, 1)), ("patch", (2, 3))])
def test_an_image_and_a_patch_have_one_grid_each(what: InputGrid, patch: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(F)
    found = ops.convert_to_numpy(quantize_input(x, what, patch))
    high, wide = patch if what == "patch" else (4, 6)
    for image in range(2):
        for top in range(0, 4, high):
            for left in range(0, 6, wide):
                place = (image, slice(top, top + high), slice(left, left + wide))
                np.testing.assert_array_equal(found[place].ravel(), row_by_row(x[place].ravel()))


def test_the_gradient_to_the_input_is_the_identity() -> None:
    import tensorflow as tf

    x = tf.constant(rows(0)[:5])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(quantize_input(x, "row") * tf.cast(tf.range(17), tf.float32))
    np.testing.assert_array_equal(tape.gradient(y, x), np.tile(np.arange(17, dtype=F), (5, 1)))


def test_a_wrapper_quantizes_what_its_layer_reads_and_is_saved_with_it() -> None:
    config = MixedPrecisionQuantizeConfig(weight_bits=(8,), input_grid="row")
    source = keras.Input((17,))
    wrapper = QuantizeWrapper(keras.layers.Dense(3, name="dense"), config)
    model = keras.Model(source, wrapper(source))
    x = rows(0)[:5]
    wanted = np.stack([row_by_row(row) for row in x]) @ ops.convert_to_numpy(wrapper.quantized_kernel())
    np.testing.assert_allclose(model(x), wanted, rtol=1e-5, atol=1e-5)
    again = keras.Model.from_config(model.get_config()).layers[1].quantize_config
    assert (again.input_grid, again.patch) == ("row", (1, 1))
