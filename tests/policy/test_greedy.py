"""What is left of a budget is spent, never more, and where the search was least sure."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tfmpq.policy.budget import Budget, exceeded
from tfmpq.policy.cost import CostModel, LayerCost
from tfmpq.policy.greedy import narrow, spend

BITS = (2, 3, 4, 8)
NAMES = ("a", "b", "c")


def costs(weights: tuple[int, ...] = (64, 256, 128)) -> CostModel:
    return CostModel(
        tuple(
            LayerCost(name, "conv2d", count * 16, count, 4, count // 4, f"in_{name}")
            for name, count in zip(NAMES, weights, strict=True)
        )
    )


def spent(model: CostModel, budgets: list[Budget], logits: dict[str, np.ndarray]) -> dict[str, int]:
    start = dict.fromkeys(NAMES, 2), dict.fromkeys(model.tensors, 8)
    candidates = dict.fromkeys(NAMES, BITS), dict.fromkeys(model.tensors, (8,))
    weights, activations = spend(model, budgets, candidates, (logits, {}), start)
    assert activations == start[1]
    return weights


@settings(max_examples=60, deadline=None)
@given(
    logits=st.lists(st.lists(st.floats(-5, 5), min_size=4, max_size=4), min_size=3, max_size=3),
    weight_bits=st.floats(2, 8),
    size=st.floats(0.3, 1),
)
def test_budgets_hold_and_nothing_that_fits_is_left(logits, weight_bits: float, size: float) -> None:
    model = costs()
    budgets = [
        Budget("weight-bits", weight_bits, ""),
        Budget("size", size * model.reference("size"), ""),
    ]
    activations = dict.fromkeys(model.tensors, 8)
    if exceeded(budgets, model, dict.fromkeys(NAMES, 2), activations):
        return
    vectors = {name: np.array(v) for name, v in zip(NAMES, logits, strict=True)}
    chosen = spent(model, budgets, vectors)
    assert not exceeded(budgets, model, chosen, activations)
    for name in NAMES:
        for wider in (b for b in BITS if b > chosen[name]):
            assert exceeded(budgets, model, chosen | {name: wider}, activations)


def test_the_least_sure_layer_goes_first() -> None:
    model = costs((128, 128, 128))
    logits = {"a": np.array([3.0, 0, 0, 0]), "b": np.array([0.1, 0, 0, 0]), "c": np.array([2.0, 0, 0, 0])}
    # Room for one layer of 8 bits among two of 2 bits.
    assert spent(model, [Budget("weight-bits", 4.0, "")], logits) == {"a": 2, "b": 8, "c": 2}


def test_layers_without_a_choice_stay() -> None:
    model = costs()
    only = {"b": np.zeros(4)}
    assert spent(model, [Budget("weight-bits", 8.0, "")], only) == {"a": 2, "b": 8, "c": 2}


def test_a_wider_trained_grid_in_the_same_container_is_free() -> None:
    """3 bits are stored in 4: the fourth bit costs no byte, so it is taken even against the logits."""
    model = costs()
    sized = model.size(dict.fromkeys(NAMES, 4))
    logits = {name: np.array([5.0, 4.0, 0.0, -9.0]) for name in NAMES}
    assert spent(model, [Budget("size", sized, "")], logits) == dict.fromkeys(NAMES, 4)


def test_activations_that_no_budget_counts_are_widened() -> None:
    model = costs()
    candidates = dict.fromkeys(NAMES, BITS), dict.fromkeys(model.tensors, (4, 8))
    logits = {}, dict.fromkeys(model.tensors, np.array([3.0, 0.0]))
    start = dict.fromkeys(NAMES, 2), dict.fromkeys(model.tensors, 4)
    for key, bits in (("size", 8), ("bops", 4)):
        budget = Budget(key, model.value(key, *start), "")
        assert spend(model, [budget], candidates, logits, start)[1] == dict.fromkeys(model.tensors, bits)


@settings(max_examples=60, deadline=None)
@given(
    logits=st.lists(st.lists(st.floats(-5, 5), min_size=4, max_size=4), min_size=6, max_size=6),
    fractions=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
)
def test_narrowing_meets_what_the_smallest_widths_meet(logits, fractions) -> None:
    model = costs()
    candidates = dict.fromkeys(NAMES, BITS), dict.fromkeys(model.tensors, BITS)
    learned = tuple(
        {name: np.array(v) for name, v in zip(names, part, strict=True)}
        for names, part in ((NAMES, logits[:3]), (model.tensors, logits[3:]))
    )
    likely = tuple({name: BITS[int(np.argmax(v))] for name, v in part.items()} for part in learned)
    smallest = model.uniform(2)
    budgets = [
        Budget(
            key, model.value(key, *smallest) + f * (model.reference(key) - model.value(key, *smallest)), ""
        )
        for key, f in zip(("size", "bops"), fractions, strict=True)
    ]
    found = narrow(model, budgets, candidates, learned, likely)
    assert not exceeded(budgets, model, *found)
    assert exceeded(budgets, model, *likely) or found == likely
    for before, after in zip(likely, found, strict=True):
        assert all(after[name] <= bits for name, bits in before.items())
