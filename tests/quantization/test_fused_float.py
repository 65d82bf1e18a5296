"""The fused float network is the model, and an analysis that misreads a layer is an error."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from tfmpq.errors import TfmpqError
from tfmpq.graph.fusion import analyse
from tfmpq.graph.network import Network
from tfmpq.quantization.fused_float import require_fused, run_fused

IMAGES = np.random.default_rng(0).normal(0, 20, (4, 8, 8, 4)).astype("float32")


def model_of() -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 4), name="image")
    x = layers.Conv2D(8, 3, padding="same", name="conv")(image)
    x = layers.ReLU(6.0, name="clip")(layers.BatchNormalization(name="norm")(x))
    y = layers.DepthwiseConv2D(3, strides=2, padding="same", name="deep")(x)
    y = layers.LeakyReLU(name="bent")(layers.Add(name="sum")([y, layers.AveragePooling2D(2, name="pool")(x)]))
    y = layers.ZeroPadding2D(1, name="pad")(layers.UpSampling2D(2, name="large")(y))
    y = layers.Concatenate(name="joined")([layers.Cropping2D(1, name="cut")(y), x])
    return keras.Model(image, [layers.Dense(3, name="out")(layers.Flatten(name="flat")(y)), x])


def changed(network: Network, name: str, **changes: Any) -> Network:
    nodes = tuple(replace(node, **changes) if node.name == name else node for node in network.nodes)
    return replace(network, nodes=nodes)


def test_nodes_compute_what_the_layers_compute() -> None:
    model = model_of()
    network = analyse(model)
    assert max(found.relative for found in require_fused(model, network, IMAGES)) < 1e-5
    assert [x.shape for x in run_fused(network, IMAGES)] == [(4, 3), (4, 8, 8, 8)]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("conv", {"activation": "linear"}),
        ("conv", {"activation": "relu"}),
        ("bent", {"kind": "sigmoid"}),
        ("pool", {"kind": "max_pooling2d"}),
        ("sum", {"activation": "relu"}),
        ("sum", {"inputs": ("deep", "deep")}),
        ("joined", {"inputs": ("conv", "cut")}),
    ],
)
def test_a_misread_layer_is_an_error(name: str, changes: dict[str, Any]) -> None:
    model = model_of()
    with pytest.raises(TfmpqError, match="has to compute what the model computes"):
        require_fused(model, changed(analyse(model), name, **changes), IMAGES)
