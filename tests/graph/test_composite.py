"""Composite layers: networks of the user's own layers become layers that are known, and compute the same."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfmpq.errors import TfmpqError
from tfmpq.graph.equivalence import noise
from tfmpq.graph.fusion import analyse
from tfmpq.graph.lowering import lower
from tfmpq.graph.operations import expand
from tfmpq.quantization.fused_float import run_fused

from .. import composite_networks


def _outputs(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return np.asarray(model(images, training=False), np.float64)


@pytest.mark.parametrize("name", composite_networks.NETWORKS)
def test_expansion_lowering_and_fusion_compute_what_the_network_computes(name: str) -> None:
    model = composite_networks.build(name)
    images = noise((16, 16, 3))
    wanted = _outputs(model, images)
    scale = np.abs(wanted).max()
    # Attention is summed in another order than the fused operation of Keras does; nothing else changes.
    assert np.abs(_outputs(expand(model), images) - wanted).max() <= 1e-6 * scale
    lowered = lower(model)
    assert np.abs(_outputs(lowered, images) - wanted).max() <= 1e-6 * scale
    network = analyse(lowered, dynamic=True)
    assert np.abs(run_fused(network, images)[0] - wanted).max() <= 1e-5 * scale


def test_parts_are_named_after_the_layer_and_its_attributes_in_every_session() -> None:
    names = []
    for _ in range(2):  # Keras numbers on
        network = analyse(lower(composite_networks.build("fused")), dynamic=True)
        names.append([node.name for node in network.weighted])
    assert names[0] == names[1]
    assert names[0][1:-1] == [
        "block_attention_qkv",
        "block_attention_out",
        "block_mlp_expand",
        "block_mlp_project",
    ]


@pytest.mark.parametrize(
    ("groups", "scale", "center"), [(2, True, True), (-1, False, True), (1, True, False)]
)
def test_groups_are_normalized_as_rows(groups: int, scale: bool, center: bool) -> None:
    image = keras.Input((6, 4, 3))
    x = layers.Conv2D(8, 3, padding="same", name="conv")(image)
    x = layers.GroupNormalization(groups, scale=scale, center=center, name="norm")(x)
    model = keras.Model(image, layers.Dense(5, name="logits")(layers.Flatten()(x)))
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(size=w.shape) for w in model.get_weights()])
    images = noise((6, 4, 3))
    wanted, lowered = _outputs(model, images), lower(model)
    scale_of = np.abs(wanted).max()
    assert lowered.count_params() == model.count_params()
    assert np.abs(_outputs(lowered, images) - wanted).max() <= 2e-6 * scale_of
    network = analyse(lowered, dynamic=True)
    assert np.abs(run_fused(network, images)[0] - wanted).max() <= 1e-5 * scale_of
    with pytest.raises(TfmpqError, match="--activation-bits dynamic"):
        analyse(lowered)


def test_a_network_of_layer_normalization_is_refused_with_integer_activations_and_told_what_to_do() -> None:
    lowered = lower(composite_networks.build("convnext"))
    with pytest.raises(TfmpqError, match="--activation-bits dynamic"):
        analyse(lowered)


class _Counting(layers.Layer):
    def build(self, shape: Any) -> None:
        self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x: Any) -> Any:
        self.seen.assign_add(1.0)
        return x * self.seen


class _Numbers(layers.Layer):
    def call(self, x: Any) -> Any:
        return x if float(ops.max(x)) > 0 else -x

    def compute_output_spec(self, x: Any) -> Any:
        return keras.KerasTensor(x.shape, x.dtype)


class _Mixing(layers.Layer):
    """Puts rows in the place of images for a convolution."""

    def build(self, shape: Any) -> None:
        self.conv = layers.Conv1D(3, 3, padding="same")
        self.conv.build((None, shape[2], shape[3]))

    def call(self, x: Any) -> Any:
        rows = ops.reshape(x, (-1, *x.shape[2:]))
        return ops.reshape(self.conv(rows), (-1, *x.shape[1:]))

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (_Counting, r"changes_state \(_Counting\).*changes its variables"),
        (_Numbers, r"changes_state \(_Numbers\), which fails with"),
        (_Mixing, "changes_state, whose Conv1D has"),
    ],
)
def test_a_layer_that_cannot_be_traced_is_named_with_the_reason(kind: Any, message: str) -> None:
    image = keras.Input((4, 4, 3))
    model = keras.Model(image, kind(name="changes_state")(image))
    with pytest.raises(TfmpqError, match=message):
        expand(model)


def test_a_layer_that_hands_its_input_on_disappears() -> None:
    class Path(layers.Layer):
        def call(self, x: Any, training: bool = True) -> Any:
            return x * 2 if training else x

    image = keras.Input((4, 4, 3))
    model = keras.Model(image, layers.ReLU()(Path()(image)))
    assert not any(isinstance(layer, Path) for layer in expand(model).layers)


@pytest.mark.parametrize(
    ("equation", "shape", "arguments"),
    [
        ("abc,cde->abde", (5, 6), {"output_shape": (5, 2, 3), "bias_axes": "de"}),
        ("abcd,cde->abe", (5, 2, 3), {"output_shape": (5, 4), "bias_axes": "e"}),
        ("...x,xy->...y", (5, 6), {"output_shape": (5, 4), "bias_axes": "y"}),
        ("abc,dc->adb", (5, 6), {"output_shape": (4, 5)}),
        ("abc,ced->adeb", (5, 6), {"output_shape": (3, 2, 5)}),
    ],
)
def test_an_einsum_dense_layer_is_a_dense_layer_between_reshapes(
    equation: str, shape: tuple[int, ...], arguments: dict[str, Any]
) -> None:
    keras.utils.set_random_seed(0)
    source = keras.Input(shape)
    layer = layers.EinsumDense(equation, bias_initializer="normal", name="product", **arguments)
    model = keras.Model(source, layer(source))
    expanded = expand(model)
    assert {type(layer) for layer in expanded.layers} <= {
        layers.InputLayer,
        layers.Dense,
        layers.Permute,
        layers.Reshape,
    }
    images = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    np.testing.assert_allclose(_outputs(expanded, images), _outputs(model, images), atol=1e-5)


@pytest.mark.parametrize(
    ("equation", "one", "other"),
    [
        ("aecd,abcd->acbe", (5, 2, 3), (4, 2, 3)),  # scores of Keras' attention
        ("acbe,aecd->abcd", (2, 4, 5), (5, 2, 3)),
        ("abc,abd->acd", (5, 2), (5, 3)),
        ("a...c,a...d->a...cd", (5, 2), (5, 3)),  # no sum: left alone
    ],
)
def test_an_einsum_of_two_tensors_is_a_product_of_matrices(
    equation: str, one: tuple[int, ...], other: tuple[int, ...]
) -> None:
    class Product(layers.Layer):
        def call(self, x: Any) -> Any:
            size = int(np.prod(one))
            first, second = ops.split(x, [size], axis=1)
            batch = ops.shape(x)[0]
            return ops.einsum(
                equation, ops.reshape(first, (batch, *one)), ops.reshape(second, (batch, *other))
            )

    source = keras.Input((int(np.prod(one) + np.prod(other)),))
    layer = Product()
    model = keras.Model(source, layer(source))
    expanded = expand(model)
    images = np.random.default_rng(0).normal(size=(3, *source.shape[1:])).astype(np.float32)
    np.testing.assert_allclose(_outputs(expanded, images), _outputs(model, images), atol=1e-5)
