"""Widths that are given beforehand, and classifiers that are spared the narrow ones."""

from __future__ import annotations

from typing import Any

import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from tfmpq.errors import UsageError
from tfmpq.graph.fusion import analyse
from tfmpq.policy.budget import exceeded, parse_budgets
from tfmpq.policy.network_cost import cost_model
from tfmpq.policy.pins import NO_PINS, Pins
from tfmpq.policy.search_space import classifiers
from tfmpq.policy.searched_widths import searched_widths
from tfmpq.progress import SilentReporter

LAYERS = ("stem", "block_1_expand", "block_2_expand", "logits")


class Said(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, message: str) -> None:
        self.lines.append(message)


def network(heads: int = 1) -> Any:
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, activation="relu", name="stem")(image)
    x = layers.Conv2D(16, 3, activation="relu", name="body")(x)
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    outputs = [layers.Dense(10 + i, name=f"head_{i}")(x) for i in range(heads - 1)]
    last = layers.Activation("sigmoid", name="probability")(layers.Dense(9, name="last")(x))
    return analyse(keras.Model(image, [*outputs, last]))


def widths(budget: str, pins: Pins = NO_PINS, heads: int = 1, bits: tuple[int, ...] = (2, 4, 8)) -> Any:
    found, said = network(heads), Said()
    costs = cost_model(found)
    budgets = parse_budgets([budget], costs)
    weights, activations = searched_widths(found, costs, [budgets], (bits, (8,)), pins, said)
    return weights, said.lines, (budgets, costs, activations)


# -- pins ----------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(LAYERS), unique=True), st.integers(2, 8))
def test_a_pinned_layer_has_one_width_and_others_keep_theirs(pinned: list[str], bits: int) -> None:
    pins = Pins.of([f"{name}={bits}" for name in pinned], (), LAYERS)
    found = pins.applied(dict.fromkeys(LAYERS, (2, 4, 8)))
    assert found == {name: (bits,) if name in pinned else (2, 4, 8) for name in LAYERS}


def test_a_pattern_names_several_layers_and_the_last_text_counts() -> None:
    pins = Pins.of(["block_?_expand=8", "block_2*=3"], ["log[i]ts=4"], LAYERS)
    assert pins.pinned == {"block_1_expand": 8, "block_2_expand": 3}
    found = pins.applied(dict.fromkeys(LAYERS, (2, 4, 8)))
    assert found["logits"] == (4, 8)
    assert found["stem"] == (2, 4, 8)


@pytest.mark.parametrize(
    ("pin", "at_least", "said"),
    [
        (["logits"], [], "LAYER=BITS"),
        (["logits=9"], [], "2 to 8 bits"),
        (["=4"], [], "LAYER=BITS"),
        ([], ["logits=four"], "--at-least is LAYER=BITS"),
        (["logit=4"], [], "Did you mean logits"),
        (["*=4"], ["stem=4"], "--pin and --at-least for stem"),
    ],
)
def test_what_names_no_layer_or_no_width_is_refused(pin: list[str], at_least: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Pins.of(pin, at_least, LAYERS)


def test_a_least_width_that_leaves_none_is_refused() -> None:
    with pytest.raises(UsageError, match="--at-least logits=8, where the search has 2, 4"):
        Pins.of((), ["logits=8"], LAYERS).applied(dict.fromkeys(LAYERS, (2, 4)))


# -- classifiers ---------------------------------------------------------------------------------------------


def test_every_output_has_a_classifier_whatever_lies_behind_it() -> None:
    assert classifiers(network()) == ["last"]
    assert set(classifiers(network(heads=3))) == {"head_0", "head_1", "last"}


@pytest.mark.parametrize("heads", [1, 3])
def test_classifiers_are_spared_where_the_budget_allows_it(heads: int) -> None:
    weights, said, _ = widths("size=0.9x", heads=heads)
    assert {name for name, bits in weights.items() if bits == (4, 8)} == set(classifiers(network(heads)))
    assert weights["body"] == (2, 4, 8)
    assert len(said) == 1
    assert "--at-least last=2" in said[0]


def test_a_budget_that_needs_narrow_classifiers_gets_them() -> None:
    weights, _, (_, costs, activations) = widths("size=0.9x")
    narrowest = {name: min(bits) for name, bits in weights.items()}
    least = costs.size(narrowest) - 1
    weights, said, (budgets, _, _) = widths(f"size={least}B")
    assert weights["last"] == (2, 4, 8)
    assert "cannot be met with 4 bits in last" in said[0]
    assert not exceeded(
        budgets, costs, narrowest | {"last": 2}, {name: min(bits) for name, bits in activations.items()}
    )


@pytest.mark.parametrize("pins", [Pins({"last": 2}, {}), Pins({}, {"last": 2})])
def test_the_user_decides_about_classifiers(pins: Pins) -> None:
    weights, said, _ = widths("size=0.9x", pins)
    assert min(weights["last"]) == 2
    assert not said


def test_nothing_is_said_where_nothing_is_narrow() -> None:
    weights, said, _ = widths("size=0.9x", bits=(4, 8))
    assert weights["last"] == (4, 8)
    assert not said


def test_the_first_layer_can_be_pinned_to_fewer_bits() -> None:
    weights, _, _ = widths("size=0.9x", Pins({"stem": 4}, {}))
    assert weights["stem"] == (4,)


def test_a_budget_out_of_reach_is_refused() -> None:
    with pytest.raises(UsageError, match="smallest that can be met"):
        widths("size=0.01x")
