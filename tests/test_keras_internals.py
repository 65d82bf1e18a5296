"""Keras' private names: each still means what this toolchain takes it for, and they lie in one file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from tfmpq import keras_internals
from tfmpq.keras_internals import (
    call_of,
    calls_in_order,
    calls_of,
    functional_of,
    holds_graph,
    is_functional,
    operation_of,
    readers_of,
    takes_training,
    trained_by,
)

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model() -> keras.Model:
    image = keras.Input((4, 4, 2), name="image")
    shared = layers.Conv2D(2, 1, name="shared")
    nested = keras.Sequential([keras.Input((4, 4, 2)), layers.ReLU()], name="nested")
    return keras.Model(image, layers.Add(name="sum")([shared(shared(image)), nested(image)]))


def test_a_tensor_knows_what_made_it_and_by_which_call(model: keras.Model) -> None:
    total = model.outputs[0]
    assert operation_of(total) is model.get_layer("sum")
    assert [operation_of(t).name for t in call_of(total).input_tensors] == ["shared", "nested"]
    assert operation_of(np.zeros(3)) is None


def test_a_layer_knows_its_calls(model: keras.Model) -> None:
    first, second = calls_of(model.get_layer("shared"))
    assert operation_of(first.input_tensors[0]).name == "image"
    assert operation_of(second.input_tensors[0]).name == "shared"


def test_a_layer_knows_what_reads_it(model: keras.Model) -> None:
    assert {reader.name for reader in readers_of(model.get_layer("image"))} >= {"shared", "nested"}
    assert [reader.name for reader in readers_of(model.get_layer("nested"))] == ["sum"]


def test_calls_come_in_an_order_in_which_they_can_be_made(model: keras.Model) -> None:
    made: set[int] = set()
    for call in calls_in_order(model):
        assert all(id(tensor) in made for tensor in call.input_tensors)
        made |= {id(tensor) for tensor in call.outputs}
    assert len(calls_in_order(model)) == 5


def test_functional_models_and_built_sequential_ones_hold_a_graph(model: keras.Model) -> None:
    nested = model.get_layer("nested")
    assert is_functional(model)
    assert functional_of(model) is model
    assert holds_graph(nested)
    assert is_functional(functional_of(nested))
    assert not holds_graph(keras.Sequential([layers.ReLU()]))
    assert not holds_graph(model.get_layer("sum"))


def test_layers_that_behave_otherwise_in_training_are_told() -> None:
    assert takes_training(layers.Dropout(0.5))
    assert not takes_training(layers.ReLU())


def _private_names(model: keras.Model) -> set[str]:
    """Private attributes of Keras' own objects."""
    things = (
        model,
        model.get_layer("sum"),
        model.outputs[0],
        call_of(model.outputs[0]),
        keras.optimizers.SGD(),
    )
    return {name for thing in things for name in dir(thing) if name.startswith("_") and name[1] != "_"}


def _uses(file: Path) -> Iterator[str]:
    """Names read from other objects than `self` and `cls`, by `getattr` and `hasattr` too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) not in ("self", "cls"):
            yield node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", None) in ("getattr", "hasattr"):
            yield from (
                a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)
            )


def test_no_other_file_uses_the_private_names_of_keras(model: keras.Model) -> None:
    private = _private_names(model)
    assert {"_keras_history", "_inbound_nodes", "_nodes_by_depth", "_call_has_training_arg"} <= private
    files = [file for tree in ("tfmpq", "models", "deploy", "cli") for file in (ROOT / tree).rglob("*.py")]
    home = Path(keras_internals.__file__)
    found = {f"{file.relative_to(ROOT)}: {name}" for file in files if file != home for name in _uses(file)}
    assert {line for line in found if line.rpartition(" ")[2] in private} == set()


def test_an_optimizer_knows_the_variables_that_it_was_built_for(model: keras.Model) -> None:
    optimizer = keras.optimizers.SGD()
    optimizer.build(model.trainable_variables)
    assert all(a is b for a, b in zip(trained_by(optimizer), model.trainable_variables, strict=True))
