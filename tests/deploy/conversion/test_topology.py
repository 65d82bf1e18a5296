from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.conversion.topology import deployable, output_shapes
from tfmpq.deploy.proof.verify import verify
from tfmpq.errors import TfmpqError


def test_layers_that_change_nothing_are_left_out(builder, make_grid) -> None:
    net = builder(4)
    net.add("image", "input", (), make_grid(0.02))
    net.add("no_pad", "zero_padding", ("image",), make_grid(0.02), paddings=((0, 0), (0, 0), (0, 0)))
    net.add(
        "no_pool",
        "max_pooling2d",
        ("no_pad",),
        make_grid(0.02),
        pool_size=(1, 1),
        strides=(1, 1),
        padding="same",
    )
    net.add("global", "global_average_pooling2d", ("no_pool",), make_grid(0.03), keepdims=False)
    net.add("flat", "reshape", ("global",), make_grid(0.03), shape=(3,))
    net.weighted("logits", "dense", "flat", (3, 4), make_grid(0.05))
    kept = deployable(net.model((8, 8, 3)))
    assert [layer.name for layer in kept.layers] == ["image", "global", "logits"]
    assert kept.layer("global").inputs == ("image",)
    assert kept.layer("logits").inputs == ("global",)


def test_shapes(make_every_layer) -> None:
    shapes = output_shapes(make_every_layer(4))
    assert shapes["strided"] == (8, 8, 8)
    assert shapes["max"] == (4, 4, 8)
    assert shapes["channels"] == (4, 4, 16)
    assert shapes["mean"] == (3, 3, 8)
    assert shapes["multiplied"] == (3, 3, 32)
    assert shapes["global"] == (1, 1, 16)
    assert shapes["global2"] == (16,)


def refused(builder, make_grid, case: str):
    net, grid = builder(4), make_grid(0.02)
    net.add("image", "input", (), make_grid(0.02, 4) if case == "input" else grid)
    if case == "grid":
        net.add("bad", "zero_padding", ("image",), make_grid(0.03), paddings=((1, 1), (1, 1), (0, 0)))
    elif case == "activation":
        window = {"pool_size": (2, 2), "strides": (2, 2), "padding": "valid"}
        net.add("bad", "max_pooling2d", ("image",), grid, activation="relu", **window)
    elif case == "average":
        window = {"pool_size": (3, 3), "strides": (2, 2), "padding": "same"}
        net.add("bad", "average_pooling2d", ("image",), make_grid(0.03), **window)
    elif case == "dense":
        net.weighted("bad", "dense", "image", (3, 4), grid)
    elif case == "add":
        net.add("small", "cropping2d", ("image",), grid, croppings=((1, 0), (0, 0)))
        net.add("bad", "add", ("image", "small"), grid)
    elif case == "sigmoid":
        net.add("bad", "sigmoid", ("image",), make_grid(1 / 255, 8, False))
    elif case == "concatenate":
        net.add("other", "global_average_pooling2d", ("image",), make_grid(0.03), keepdims=True)
        net.add("same", "global_average_pooling2d", ("image",), grid, keepdims=True)
        net.add("bad", "concatenate", ("same", "other"), grid, axis=2)
    else:
        net.weighted("bad", "conv2d", "image", (3, 3, 3, 4), grid)
    return net


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("input", "8 bits"),
        ("grid", "grid of its input"),
        ("activation", "cannot be fused"),
        ("average", "grid of its input"),
        ("dense", "reads a vector"),
        ("add", "two tensors of one shape"),
        ("sigmoid", "step 1/256"),
        ("concatenate", "grid of its input"),
    ],
)
def test_what_has_no_form_is_refused(builder, make_grid, case, reason) -> None:
    name = "image" if case == "input" else "bad"
    with pytest.raises(TfmpqError, match=rf"layer {name} .*{reason}"):
        deployable(refused(builder, make_grid, case).model((8, 8, 3)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"integers": np.full((3, 3, 3, 4), 8, np.int8)}, "do not fit into 4 bits"),
        ({"scales": np.zeros(4, np.float32)}, "positive and finite"),
        ({"scales": np.full(4, np.inf, np.float32)}, "positive and finite"),
        ({"bias": np.zeros(3, np.int32)}, "as many scales and biases"),
    ],
)
def test_bad_weights_are_refused(builder, make_grid, change, reason) -> None:
    net = refused(builder, make_grid, "weights")
    layer = net.layers[-1]
    net.layers[-1] = replace(layer, weights=replace(layer.weights, **change))
    with pytest.raises(TfmpqError, match=reason):
        deployable(net.model((8, 8, 3)))


def test_two_layers_that_compute_the_same_are_one(builder, make_grid) -> None:
    net, grid = builder(4), make_grid(0.02)
    net.add("image", "input", (), grid)
    window = {"pool_size": (2, 2), "strides": (2, 2), "padding": "valid"}
    net.add("one", "max_pooling2d", ("image",), grid, **window)
    net.add("two", "max_pooling2d", ("image",), grid, **window)
    net.add("sum", "add", ("one", "two"), make_grid(0.05))
    frozen = net.model((8, 8, 3))
    assert deployable(frozen).layer("sum").inputs == ("one", "one")
    assert verify(frozen, build_tflite(frozen, "litert"), "litert").passed


def test_layers_that_compute_the_same_on_other_grids_are_named(builder, make_grid) -> None:
    net = builder(4)
    net.add("image", "input", (), make_grid(0.02))
    for name, scale in (("one", 0.02), ("two", 0.03)):
        net.add(name, "global_average_pooling2d", ("image",), make_grid(scale), keepdims=True)
    net.add("sum", "add", ("one", "two"), make_grid(0.05))
    with pytest.raises(TfmpqError, match="A global_average_pooling2d becomes MEAN"):
        build_tflite(net.model((8, 8, 3)), "litert")


def test_shapes_of_layers_without_weights(builder, make_grid) -> None:
    net, grid = builder(4), make_grid(0.02)
    net.add("image", "input", (), grid)
    net.add("cropped", "cropping2d", ("image",), grid, croppings=((1, 2), (0, 3)))
    net.add("beside", "concatenate", ("cropped", "cropped"), grid, axis=1)
    net.add("pixel", "global_average_pooling2d", ("beside",), grid, keepdims=True)
    net.add("product", "multiply", ("pixel", "beside"), grid)
    net.add(
        "averaged", "average_pooling2d", ("product",), grid, pool_size=(3, 3), strides=(2, 2), padding="same"
    )
    shapes = output_shapes(net.model((8, 8, 3)))
    assert [shapes[name] for name in ("cropped", "beside", "product", "averaged")] == [
        (5, 5, 3),
        (5, 10, 3),
        (5, 10, 3),
        (3, 5, 3),
    ]
