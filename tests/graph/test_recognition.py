"""Layers, functions and operations are recognised by identity: what only has Keras' name is another thing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfmpq.errors import TfmpqError
from tfmpq.graph.fusion import analyse
from tfmpq.graph.lowering import lower
from tfmpq.graph.recognition import known_function


def network(*parts: Any, shape: tuple[int, ...] = (8, 8, 3)) -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input(shape, name="image"), *parts])


def functional(model: keras.Sequential) -> keras.Model:
    return keras.Model(model.inputs[0], model.outputs[0])


def difference(model: keras.Model) -> float:
    """How far the lowered model is from the user's, relative to what that gives."""
    model = functional(model)
    shape = model.inputs[0].shape[1:]
    images = np.random.default_rng(0).normal(0, 4, (4, *shape)).astype("float32")
    wanted = np.asarray(model(images, training=False))
    lowered = lower(model)
    analyse(lowered)
    given = np.asarray(lowered(images.reshape((4, *lowered.inputs[0].shape[1:])), training=False))
    return float(np.abs(given.reshape(wanted.shape) - wanted).max() / np.abs(wanted).max())


def refused(model: keras.Model) -> str:
    with pytest.raises(TfmpqError) as error:
        analyse(lower(functional(model)))
    return str(error.value)


PRELU = {"alpha_initializer": keras.initializers.Constant(0.3), "shared_axes": [1, 2]}


@pytest.mark.parametrize(
    "activation",
    [
        layers.ReLU,
        lambda: layers.ReLU(6.0),
        lambda: layers.ReLU(negative_slope=0.2),
        lambda: layers.LeakyReLU(negative_slope=0.1),
        lambda: layers.PReLU(**PRELU),
        lambda: layers.Activation("silu"),
        lambda: layers.ReLU(1.0),
        lambda: layers.ELU(0.5),
        lambda: layers.Activation("selu"),
        lambda: layers.Activation(layers.LeakyReLU(negative_slope=0.3)),
        lambda: layers.Activation(layers.Activation("hard_silu")),
    ],
)
@pytest.mark.parametrize(
    "layer",
    [
        lambda a: layers.Conv2D(4, 3, activation=a),
        lambda a: layers.DepthwiseConv2D(3, activation=a),
        lambda a: layers.SeparableConv2D(4, 3, activation=a),
        lambda a: layers.Conv2DTranspose(4, 3, activation=a),
        lambda a: layers.Dense(4, activation=a),
        layers.Activation,
    ],
)
def test_activations_that_are_given_as_layers_are_computed(layer: Any, activation: Any) -> None:
    assert difference(network(layer(activation()), layers.Flatten(), layers.Dense(3))) < 1e-5


@pytest.mark.parametrize("layer", [layers.Conv1D, layers.SeparableConv1D, layers.Conv1DTranspose])
def test_activations_that_are_given_as_layers_are_computed_in_sequences(layer: Any) -> None:
    part = layer(4, 3, activation=layers.LeakyReLU(negative_slope=0.1))
    model = network(part, layers.Flatten(), layers.Dense(3, activation=layers.ReLU()), shape=(12, 3))
    assert difference(model) < 1e-5


def relu(x: Any) -> Any:
    """Not Keras' function of this name."""
    return ops.relu(x) * 0.5 + 1.0


def swish(x: Any) -> Any:
    return x * ops.sigmoid(4.0 * x)


def sigmoid(x: Any) -> Any:
    return ops.clip(x, 0.0, 1.0)


def linear(x: Any) -> Any:
    return ops.sin(x)


def gelu(x: Any) -> Any:
    return ops.convert_to_tensor(np.asarray(x))


@pytest.mark.parametrize("function", [relu, swish, sigmoid])
@pytest.mark.parametrize(
    "layer",
    [
        lambda f: layers.Conv2D(4, 3, activation=f),
        lambda f: layers.SeparableConv2D(4, 3, activation=f),
        layers.Activation,
    ],
)
def test_a_function_with_the_name_of_one_of_keras_is_written_as_what_it_computes(
    layer: Any, function: Any
) -> None:
    assert difference(network(layer(function), layers.Flatten(), layers.Dense(3))) < 1e-5


@pytest.mark.parametrize("function", [linear, gelu])
def test_a_function_of_the_users_that_no_operators_compute_is_refused(function: Any) -> None:
    for layer in (layers.Conv2D(4, 3, activation=function), layers.Activation(function)):
        model = network(layer, layers.Flatten(), layers.Dense(3))
        assert f"{function.__name__}, a function that is not Keras' own" in refused(model)


def test_sequences_keep_the_users_function() -> None:
    assert difference(network(layers.Conv1D(4, 3, activation=relu), layers.Flatten(), shape=(12, 3))) < 1e-5
    model = network(layers.Conv1D(4, 3, activation=linear), layers.Flatten(), shape=(12, 3))
    assert "linear, a function that is not Keras' own" in refused(model)


def of_the_users(kind: type, change: Callable[[Any], Any]) -> type:
    """A class with the name of one of Keras' that computes something else."""

    def call(self: Any, inputs: Any, **options: Any) -> Any:
        return change(kind.call(self, inputs, **options))

    return type(kind.__name__, (kind,), {"call": call})


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (layers.Dense, (4,)),
        (layers.Conv2D, (4, 3)),
        (layers.DepthwiseConv2D, (3,)),
        (layers.BatchNormalization, ()),
        (layers.ReLU, ()),
        (layers.PReLU, ("normal", None, None, [1, 2])),
        (layers.Activation, ("relu",)),
        (layers.Dropout, (0.1,)),
        (layers.Identity, ()),
        (layers.MaxPooling2D, ()),
        (layers.GlobalMaxPooling2D, ()),
        (layers.ZeroPadding2D, ()),
        (layers.Flatten, ()),
    ],
)
def test_a_class_with_the_name_of_one_of_keras_is_written_as_what_it_computes(
    kind: type, arguments: tuple[Any, ...]
) -> None:
    mine = of_the_users(kind, lambda x: 2.0 * x + 1.0)(*arguments, name="mine")
    assert difference(network(mine, layers.Flatten(), layers.Dense(3))) < 1e-5


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (layers.Rescaling, (2.0,)),
        (layers.Normalization, ()),
        (layers.SeparableConv2D, (4, 3)),
    ],
)
def test_a_class_that_is_made_of_other_things_than_operations_is_refused_by_name(
    kind: type, arguments: tuple[Any, ...]
) -> None:
    mine = of_the_users(kind, lambda x: 2.0 * x)(*arguments, name="mine")
    assert "mine" in refused(network(mine, layers.Flatten()))


def test_merging_layers_of_the_users_are_written_as_what_they_compute() -> None:
    image = keras.Input((8, 8, 3))
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    for kind in (layers.Add, layers.Multiply, layers.Concatenate):
        mine = of_the_users(kind, ops.negative)(name="mine")
        model = keras.Model(image, mine([layers.Conv2D(3, 1)(image), layers.Conv2D(3, 1)(image)]))
        lowered = lower(model)
        analyse(lowered)
        np.testing.assert_allclose(lowered(images), model(images), rtol=1e-5, atol=1e-5)


def test_an_operation_of_the_users_is_refused() -> None:
    class Add(keras.Operation):
        def call(self, x: Any, y: Any) -> Any:
            return x - y

        def compute_output_spec(self, x: Any, y: Any) -> Any:
            return keras.KerasTensor(x.shape)

    image = keras.Input((8, 8, 3))
    model = keras.Model(image, Add()(layers.Conv2D(3, 1)(image), image))
    with pytest.raises(TfmpqError, match="an operation that is not a layer"):
        analyse(lower(model))


def test_functions_of_keras_and_tensorflow_are_known_as_what_they_compute() -> None:
    tf = pytest.importorskip("tensorflow")
    known = {
        "linear": (None, keras.activations.linear, tf.identity),
        "relu": (keras.activations.relu, ops.relu, tf.nn.relu),
        "relu6": (keras.activations.relu6, ops.relu6, tf.nn.relu6),
        "silu": (keras.activations.swish, ops.silu, tf.nn.swish, tf.nn.silu),
        "sigmoid": (keras.activations.sigmoid, ops.sigmoid, tf.nn.sigmoid, tf.sigmoid),
        "gelu": (keras.activations.gelu, tf.nn.gelu),
        "gelu_tanh": (ops.gelu,),
    }
    for name, functions in known.items():
        assert [known_function(function) for function in functions] == [name] * len(functions)
    assert known_function(relu) is known_function(lambda x: x) is known_function("relu") is None


@pytest.mark.parametrize("function", ["nn.relu", "nn.relu6", "nn.silu", "nn.leaky_relu", "nn.gelu"])
def test_functions_of_tensorflow_are_computed(function: str) -> None:
    tf = pytest.importorskip("tensorflow")
    found = getattr(tf.nn, function.removeprefix("nn."))
    model = network(layers.Conv2D(4, 3, activation=found), layers.Flatten(), layers.Dense(3))
    assert difference(model) < 1e-5


def test_functions_of_keras_with_other_defaults_are_told_apart() -> None:
    for function in (ops.gelu, keras.activations.gelu):
        assert difference(network(layers.Conv2D(4, 3, activation=function), layers.Flatten())) < 1e-6
