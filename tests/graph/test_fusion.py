"""Fused operators, tensors and counts of small networks; what cannot be deployed is refused."""

from __future__ import annotations

import keras
import pytest
from keras import layers

from tfmpq.errors import TfmpqError
from tfmpq.graph.fusion import analyse
from tfmpq.graph.network import operator_of, shortcut_channels
from tfmpq.graph.shortcut import PadShortcut
from tfmpq.policy.network_cost import cost_model


def model_of(build, shape=(8, 8, 3)) -> keras.Model:
    image = keras.Input(shape, name="image")
    return keras.Model(image, build(image), name="net")


def conv(name: str = "conv", **options) -> layers.Conv2D:
    return layers.Conv2D(4, 3, padding="same", name=name, **options)


def test_fused_nodes_of_a_residual_network(searchable) -> None:
    network = searchable().network
    found = {node.name: (node.kind, node.inputs, node.tensor, node.activation) for node in network.nodes}
    assert found == {
        "image": ("input", (), "image", "linear"),
        "stem": ("conv2d", ("image",), "stem_relu", "relu"),
        "dw": ("depthwise_conv2d", ("stem",), "dw_relu", "relu6"),
        "pw": ("conv2d", ("dw",), "pw", "linear"),
        "add": ("add", ("stem", "pw"), "add", "linear"),
        "pool": ("max_pooling2d", ("add",), "pool", "linear"),
        "down": ("conv2d", ("pool",), "down", "relu"),
        "gap": ("global_average_pooling2d", ("down",), "gap", "linear"),
        "logits": ("dense", ("gap",), "logits", "linear"),
    }
    assert [layer.name for layer in network.node("stem").layers] == ["stem", "stem_bn", "stem_relu"]
    assert network.node("stem").batch_norm.name == "stem_bn"
    assert network.node("pw").batch_norm is None
    assert network.input_shape == (8, 8, 3)


def test_grids_and_signs(searchable) -> None:
    network = searchable().network
    assert network.node("pool").grid_of == "add"
    assert network.tensors == ("image", "stem_relu", "dw_relu", "pw", "add", "down", "gap", "logits")
    signed = {node.name: node.signed for node in network.nodes}
    assert [name for name, value in signed.items() if not value] == ["stem", "dw", "down", "gap"]


def test_the_wrapped_model_has_the_same_analysis(searchable) -> None:
    made = searchable()
    wrapped = analyse(made.quantized)
    for plain, node in zip(made.network.nodes, wrapped.nodes, strict=True):
        for field in ("name", "kind", "inputs", "activation", "tensor", "grid_of", "signed", "output_shape"):
            assert getattr(node, field) == getattr(plain, field)
    assert cost_model(wrapped) == cost_model(made.network)


def test_macs_and_weights_by_hand(searchable) -> None:
    costs = cost_model(searchable().network)
    by_name = {layer.name: layer for layer in costs.layers}
    assert {name: layer.macs for name, layer in by_name.items()} == {
        "stem": 8 * 8 * 3 * 3 * 3 * 6,
        "dw": 8 * 8 * 3 * 3 * 6,
        "pw": 8 * 8 * 6 * 6,
        "down": 1 * 1 * 3 * 3 * 6 * 5,  # a 4x4 map, 3x3 without padding, stride 2
        "logits": 5 * 4,
    }
    assert {name: layer.weights for name, layer in by_name.items()} == {
        "stem": 162,
        "dw": 54,
        "pw": 36,
        "down": 270,
        "logits": 20,
    }
    assert {name: (layer.channels, layer.fan_in) for name, layer in by_name.items()} == {
        "stem": (6, 27),
        "dw": (6, 9),
        "pw": (6, 6),
        "down": (5, 54),
        "logits": (4, 5),
    }
    assert {name: layer.reads for name, layer in by_name.items()} == {
        "stem": "image",
        "dw": "stem_relu",
        "pw": "dw_relu",
        "down": "add",
        "logits": "gap",
    }
    assert by_name["pw"].operator == "pointwise"
    assert by_name["down"].operator == "conv2d"
    assert costs.fixed_bytes == 0


def test_the_grid_goes_through_pooling_padding_reshape_and_dropout() -> None:
    def build(x):
        x = layers.ReLU(name="relu")(conv()(x))
        x = layers.ZeroPadding2D(1, name="pad")(x)
        x = layers.MaxPooling2D(2, name="max")(x)
        x = layers.Dropout(0.5, name="drop")(x)
        x = layers.Activation("linear", name="nothing")(x)
        x = layers.Flatten(name="flat")(x)
        return layers.Dense(2, name="logits")(x)

    network = analyse(model_of(build), input_signed=False)
    for name in ("pad", "max", "drop", "nothing", "flat"):
        assert network.node(name).grid_of == "relu"
        assert not network.node(name).signed
    assert not network.node("image").signed
    assert network.tensors == ("image", "relu", "logits")
    assert cost_model(network).layers[1].reads == "relu"


def test_averages_have_a_grid_of_their_own() -> None:
    def build(x):
        x = layers.ReLU(name="relu")(conv()(x))
        x = layers.AveragePooling2D(2, name="average")(x)
        return layers.Dense(2, name="logits")(layers.Flatten(name="flat")(x))

    network = analyse(model_of(build))
    assert network.tensors == ("image", "relu", "average", "logits")
    assert network.node("flat").grid_of == "average"
    assert not network.node("average").signed


def test_padded_shortcuts_cost_a_depthwise_operator_of_ones_where_they_subsample() -> None:
    def build(x):
        x = conv()(x)
        y = layers.Conv2D(8, 3, strides=2, padding="same", name="down")(x)
        y = layers.Add(name="add")([PadShortcut(8, 2, name="short")(x), y])
        return layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D(name="gap")(y))

    network = analyse(model_of(build))
    assert network.node("short").kind == "zero_padding"
    assert shortcut_channels(network.node("short")) == 4
    assert shortcut_channels(network.node("add")) == 0
    assert cost_model(network).fixed_bytes == 9 * 4  # one int8 weight, one scale, one bias each


def test_activation_inside_the_layer_and_activation_layers() -> None:
    def build(x):
        x = conv("a", activation="relu6")(x)
        x = layers.Activation("relu", name="act")(conv("b")(x))
        x = layers.ReLU(name="after_add")(layers.Add(name="add")([x, conv("c")(x)]))
        return layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D(name="gap")(x))

    network = analyse(model_of(build))
    assert [(n.name, n.activation) for n in network.nodes][1:5] == [
        ("a", "relu6"),
        ("b", "relu"),
        ("c", "linear"),
        ("add", "relu"),
    ]
    assert network.node("add").tensor == "after_add"


def test_pointwise_is_a_1x1_of_stride_1() -> None:
    def build(x):
        x = layers.Conv2D(4, 1, name="one")(x)
        x = layers.Conv2D(4, 1, strides=2, name="two")(x)
        return layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D(name="gap")(x))

    network = analyse(model_of(build))
    assert [operator_of(node) for node in network.weighted] == ["pointwise", "conv2d", "dense"]


def test_all_unsupported_layers_are_listed_with_their_reasons() -> None:
    def build(x):
        x = conv("elu", activation="elu")(x)
        x = layers.BatchNormalization(axis=1, name="norm")(layers.MaxPooling2D(2, name="pool")(x))
        x = layers.LayerNormalization(name="layer_norm")(x)
        x = layers.ReLU(max_value=4.0, name="relu4")(conv("a")(x))
        x = layers.PReLU(name="pixels")(x)
        x = layers.UpSampling2D(2, interpolation="bicubic", name="larger")(x)
        x = layers.UpSampling2D(6, interpolation="bilinear", name="largest")(layers.MaxPooling2D(6)(x))
        x = layers.Multiply(name="rows")([x, layers.Cropping2D(((11, 0), (0, 0)), name="row")(x)])
        return layers.Dense(3, name="dense")(x) * 2.0

    with pytest.raises(TfmpqError) as caught:
        analyse(model_of(build, (16, 16, 3)))
    message = str(caught.value)
    assert "Received: 10 that have none" in message
    for part in (
        "elu (Conv2D): activation 'elu'",
        "norm (BatchNormalization): axis 1; only the last one",
        "layer_norm (LayerNormalization): exists with float activations only; tfmpq export, search",
        "relu4 (ReLU): only relu and relu6",
        "pixels (PReLU): one slope per pixel",
        "larger (UpSampling2D): interpolation 'bicubic'",
        "largest (UpSampling2D): bilinear interpolation by more than 5",
        "rows (Multiply): only of two tensors of one shape",
        "dense (Dense): a dense layer on more than one axis",
        "an operation that is not a layer",
    ):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "build",
    [
        lambda x: layers.ReLU(6.0, name="r")(conv(activation="relu")(x)),
        lambda x: layers.BatchNormalization(name="r")(conv(activation="relu")(x)),
        lambda x: layers.ReLU(name="r")(layers.MaxPooling2D(2, name="p")(conv()(x))),
        lambda x: layers.Activation("hard_sigmoid", name="r")(conv()(x)),
        lambda x: layers.Rescaling(2.0, name="r")(conv()(x)),
    ],
)
def test_what_no_operator_absorbs_is_a_factor_and_an_offset_by_channel(build) -> None:
    network = analyse(model_of(build))
    node = network.node("r")
    assert (node.kind, node.tensor, node.grid_of) == ("affine", "r", "r")
    assert cost_model(network).fixed_bytes == 9 * 4


def test_batch_norm_and_activations_of_tensors_that_are_read_elsewhere() -> None:
    def build(x):
        x = conv()(x)
        y = layers.BatchNormalization(name="bn")(x)
        z = layers.ReLU(name="relu")(y)
        return layers.Add(name="add")([layers.Add(name="inner_add")([x, y]), z])

    nodes = {
        node.name: (node.kind, node.activation, len(node.layers)) for node in analyse(model_of(build)).nodes
    }
    assert nodes["conv"] == ("conv2d", "linear", 1)
    assert nodes["bn"] == ("affine", "linear", 1)
    assert nodes["relu"] == ("affine", "relu", 1)


def test_concatenated_tensors_share_a_grid_through_pooling_and_further_concatenations() -> None:
    def build(x):
        a = layers.ReLU(name="relu")(conv("a")(x))
        b = conv("b")(a)
        first = layers.Concatenate(name="first")([a, b])
        c = conv("c")(first)
        second = layers.Concatenate(name="second")([layers.MaxPooling2D(3, 1, padding="same")(first), c])
        third = layers.Concatenate(name="third")([conv("d", activation="relu")(second), conv("e")(second)])
        return conv("last")(third)

    network = analyse(model_of(build))
    for name in ("a", "b", "first", "c", "second"):
        assert network.node(name).grid_of == "first_grid"
        assert network.node(name).signed
    for name in ("d", "e", "third"):
        assert network.node(name).grid_of == "third_grid"
    assert network.tensors == ("image", "first_grid", "third_grid", "last")
    assert [node.name for node in network.on_grid("first_grid")] == ["a", "b", "c"]
    reads = {layer.name: layer.reads for layer in cost_model(network).layers}
    assert reads == {"a": "image", "b": "first_grid", "c": "first_grid"} | {
        "d": "first_grid",
        "e": "first_grid",
        "last": "third_grid",
    }


def test_two_groups_that_meet_later_are_one() -> None:
    def build(x):
        left = layers.Concatenate(name="left")(
            [conv("a", activation="relu")(x), conv("b", activation="relu")(x)]
        )
        right = layers.Concatenate(name="right")(
            [conv("c", activation="relu")(x), conv("d", activation="relu")(x)]
        )
        return layers.Concatenate(name="all")([left, right])

    network = analyse(model_of(build))
    assert network.tensors == ("image", "left_grid")
    assert not any(node.signed for node in network.nodes[1:])


def test_averages_over_the_border_have_the_grid_of_their_input() -> None:
    def build(x):
        x = layers.AveragePooling2D(3, 1, padding="same", name="over")(conv(activation="relu")(x))
        return layers.AveragePooling2D(2, padding="same", name="inside")(x)

    network = analyse(model_of(build))
    assert network.node("over").grid_of == network.node("conv").grid_of == "over_grid"
    assert network.node("inside").grid_of == "inside"


def test_grids_that_are_given_cannot_be_shared() -> None:
    def build(x):
        gate = layers.Activation("sigmoid", name="gate")(conv()(x))
        return layers.Concatenate(name="cat")([gate, x])

    with pytest.raises(TfmpqError, match=r"Received: gate, image, whose grid is given"):
        analyse(model_of(build))


def test_signs_of_products_and_given_grids() -> None:
    def build(x):
        x = conv(activation="relu")(x)
        gate = layers.Activation("sigmoid", name="gate")(conv("squeezed")(x))
        positive = layers.Multiply(name="positive")([x, gate])
        return layers.Multiply(name="signed")([conv("linear")(positive), gate])

    network = analyse(model_of(build))
    signed = {node.name: node.signed for node in network.nodes}
    assert (signed["gate"], signed["positive"], signed["signed"]) == (False, False, True)
    assert network.fixed_tensors == ("gate",)


def test_shared_layers_are_refused() -> None:
    shared = layers.Conv2D(3, 3, padding="same", name="shared")
    with pytest.raises(TfmpqError, match=r"shared \(Conv2D\): called more than once"):
        analyse(model_of(lambda x: shared(shared(x))))


def test_nested_models_are_refused() -> None:
    nested = keras.Sequential([keras.Input((8, 8, 3)), conv()], name="nested")
    with pytest.raises(TfmpqError, match=r"nested \(Sequential\): not supported"):
        analyse(model_of(lambda x: nested(x)))


def test_models_of_another_form_are_refused() -> None:
    image, other = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    two = keras.Model([image, other], layers.Add()([image, other]))
    with pytest.raises(TfmpqError, match="functional, with one image input"):
        analyse(two)
    with pytest.raises(TfmpqError, match="fixed size"):
        analyse(model_of(lambda x: conv()(x), (None, None, 3)))
    with pytest.raises(TfmpqError, match="fixed size"):
        analyse(model_of(lambda x: layers.Dense(2)(x), (7,)))


def test_a_model_that_is_part_of_another_one_is_analysed_alone() -> None:
    image = keras.Input((8, 8, 3), name="image")
    features = conv()(image)
    whole = keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(features)))
    part = keras.Model(image, features)
    assert [node.name for node in analyse(part).nodes] == ["image", "conv"]
    assert len(analyse(whole).nodes) == 4


def test_a_sequential_model_is_analysed_though_every_add_calls_its_layers_again() -> None:
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), conv("conv"), layers.ReLU(), layers.Flatten(), layers.Dense(2, name="dense")]
    )
    model = keras.Model(model.inputs[0], model.outputs[0])
    assert [node.name for node in analyse(model).weighted] == ["conv", "dense"]


def test_costs_of_a_transposed_convolution_by_hand() -> None:
    def build(x):
        x = layers.Conv2DTranspose(5, 3, strides=2, padding="same", activation="relu", name="up")(x)
        return layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D()(x))

    network = analyse(model_of(build))
    cost = cost_model(network).layers[0]
    assert network.node("up").output_shape == (16, 16, 5)
    assert (cost.operator, cost.weights, cost.channels) == ("conv2d_transpose", 3 * 3 * 5 * 3, 5)
    assert cost.macs == 8 * 8 * 3 * 3 * 5 * 3  # every pixel of the input meets every weight
    assert cost.fan_in == 3 * 3 * 3


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dilation_rate": 2}, "dilation"),
        ({"strides": 2, "output_padding": 1}, "output_padding"),
        ({"strides": (4, 1), "padding": "same"}, "smaller than its stride along one axis only"),
    ],
)
def test_transposed_convolutions_that_the_runtime_has_not(options, reason) -> None:
    def build(x):
        x = layers.Conv2DTranspose(5, 3, name="up", **options)(x)
        return layers.Dense(2)(layers.GlobalAveragePooling2D()(x))

    with pytest.raises(TfmpqError, match=rf"up \(Conv2DTranspose\): .*{reason}"):
        analyse(model_of(build))
