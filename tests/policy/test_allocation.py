"""Selection within budgets against brute force over every assignment."""

import ctypes
import itertools
import math

import numpy as np
import pytest
import scipy.optimize
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tfmpq.errors import TfmpqError, UsageError
from tfmpq.policy.allocation import select
from tfmpq.policy.budget import Budget, exceeded, parse_budgets
from tfmpq.policy.cost import COST_KEYS, CostModel, LayerCost

OPERATORS = ("conv2d", "pointwise", "depthwise_conv2d", "dense")


def network(numbers, shared):
    """Layers of the given (macs per weight, weights); the last `shared` ones read one tensor."""
    layers = []
    for i, (macs, weights) in enumerate(numbers):
        reads = "shared" if i >= len(numbers) - shared else f"t{i}"
        layers.append(LayerCost(f"l{i}", OPERATORS[i % 4], macs * weights, weights, 1 + i, 4 + i % 3, reads))
    return CostModel(tuple(layers), fixed_bytes=7)


def bits(names, most):
    """A strategy of candidates by name."""
    subset = st.sets(st.integers(2, 8), min_size=1, max_size=most).map(lambda chosen: tuple(sorted(chosen)))
    return st.fixed_dictionaries({name: subset for name in names})


def logits(draw, candidates):
    number = st.floats(-6, 6).map(lambda value: round(value, 3))
    return {
        n: np.array(draw(st.lists(number, min_size=len(c), max_size=len(c)))) for n, c in candidates.items()
    }


@st.composite
def problems(draw):
    count = draw(st.integers(1, 5))
    numbers = draw(
        st.lists(st.tuples(st.integers(1, 50), st.integers(1, 4000)), min_size=count, max_size=count)
    )
    model = network(numbers, draw(st.integers(0, 2)))
    weights = draw(bits([layer.name for layer in model.layers], 3))
    tensors = draw(bits(model.tensors, 2))
    keys = draw(st.sets(st.sampled_from(COST_KEYS), min_size=1))
    fractions = {key: draw(st.floats(0.2, 1.0)) for key in sorted(keys)}
    budgets = [Budget(key, f * model.reference(key), f"{key}={f}x") for key, f in fractions.items()]
    return model, budgets, weights, logits(draw, weights), tensors, logits(draw, tensors)


def log_softmax(values):
    return values - values.max() - math.log(np.exp(values - values.max()).sum())


def brute_force(model, budgets, weights, weight_logits, tensors, tensor_logits):
    """The best score within the budgets, or None."""
    groups = [(n, c, log_softmax(weight_logits[n])) for n, c in weights.items()]
    groups += [(n, c, log_softmax(tensor_logits[n])) for n, c in tensors.items()]
    best = None
    for picks in itertools.product(*(range(len(c)) for _, c, _ in groups)):
        chosen = {n: c[i] for (n, c, _), i in zip(groups, picks, strict=True)}
        if not exceeded(budgets, model, chosen, chosen):
            score = sum(p[i] for (_, _, p), i in zip(groups, picks, strict=True))
            best = score if best is None else max(best, score)
    return best


@settings(max_examples=60, deadline=None)
@given(problems())
def test_the_selection_equals_brute_force_within_budgets(problem):
    model, budgets, weights, _, tensors, _ = problem
    best = brute_force(*problem)
    smallest = {n: min(c) for n, c in (weights | tensors).items()}
    assert (best is not None) == (not exceeded(budgets, model, smallest, smallest))
    if best is None:
        with pytest.raises(UsageError, match="smallest"):
            select(*problem)
        return
    selection = select(*problem)
    assert not exceeded(budgets, model, selection.weight_bits, selection.activation_bits)
    assert selection.score == pytest.approx(best, abs=1e-5 * 6 * len(smallest) + 1e-5)
    assert all(selection.weight_bits[n] in c for n, c in weights.items())
    assert all(selection.activation_bits[n] in c for n, c in tensors.items())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(problems())
def test_the_selection_is_the_argmax_if_that_fits(problem):
    model, budgets, weights, weight_logits, tensors, tensor_logits = problem
    assume(all(len(set(v)) == len(v) for v in (weight_logits | tensor_logits).values()))
    weight_bits = {n: c[int(np.argmax(weight_logits[n]))] for n, c in weights.items()}
    activation_bits = {n: c[int(np.argmax(tensor_logits[n]))] for n, c in tensors.items()}
    fits = not exceeded(budgets, model, weight_bits, activation_bits)
    smallest = {n: min(c) for n, c in (weights | tensors).items()}
    assume(not exceeded(budgets, model, smallest, smallest))
    selection = select(*problem)
    assert selection.repaired == (not fits)
    assert ((selection.weight_bits, selection.activation_bits) == (weight_bits, activation_bits)) == fits


MODEL = network([(9, 400), (5, 900), (2, 130)], 0)
WEIGHTS, TENSORS = dict.fromkeys(("l0", "l1", "l2"), (2, 4, 8)), dict.fromkeys(("t0", "t1", "t2"), (8,))


def test_a_budget_that_is_met_exactly_is_no_excess():
    bits = {"l0": 4, "l1": 2, "l2": 8}
    budgets = [
        Budget("size", MODEL.size(bits), "exact"),
        Budget("weight-bits", MODEL.mean_weight_bits(bits), "exact"),
    ]
    wanted = {name: [0.0 if b == bits[name] else -5.0 for b in (2, 4, 8)] for name in bits}
    greedy = wanted | {"l0": [0, 1, 2]}
    assert select(MODEL, budgets, WEIGHTS, wanted, TENSORS, {}).weight_bits == bits
    assert select(MODEL, budgets, WEIGHTS, greedy, TENSORS, {}).weight_bits == bits


def test_between_equals_the_budget_is_spent():
    level = {name: [0.0, 0.0, 0.0] for name in WEIGHTS}
    assert set(select(MODEL, [], WEIGHTS, level, TENSORS, {}).weight_bits.values()) == {8}
    budgets = parse_budgets(["size=0.6x"], MODEL)
    chosen = select(MODEL, budgets, WEIGHTS, level, TENSORS, {}).weight_bits
    most = max(
        sum(bits)
        for bits in itertools.product((2, 4, 8), repeat=3)
        if not exceeded(budgets, MODEL, dict(zip(WEIGHTS, bits, strict=True)), {})
    )
    assert sum(chosen.values()) == most


def test_a_probability_of_zero_is_chosen_only_if_nothing_else_fits():
    zero = {"l0": [-np.inf, -np.inf, 0.0], "l1": [0.0, 0.0, 0.0], "l2": [0.0, 0.0, 0.0]}
    loose, tight = parse_budgets(["weight-bits=4.0"], MODEL), parse_budgets(["weight-bits=3.0"], MODEL)
    assert select(MODEL, loose, WEIGHTS, zero, TENSORS, {}).weight_bits["l0"] == 8
    assert select(MODEL, tight, WEIGHTS, zero, TENSORS, {}).weight_bits["l0"] < 8


@pytest.mark.parametrize("logits", [[0.0, np.nan, 0.0], [0.0, 0.0], [], [-np.inf] * 3])
def test_logits_of_a_failed_search_are_refused(logits):
    with pytest.raises(TfmpqError, match="layer l1"):
        select(MODEL, [], WEIGHTS, {"l0": [0, 0, 0], "l1": logits, "l2": [0, 0, 0]}, TENSORS, {})


def test_output_of_the_solver_stays_off_stdout(capfd, monkeypatch):
    solve = scipy.optimize.milp

    def talkative(*args, **kwargs):
        ctypes.CDLL(None).puts(b"a line of native code")
        return solve(*args, **kwargs)

    monkeypatch.setattr(scipy.optimize, "milp", talkative)
    level = {name: [0.0, 1.0, 2.0] for name in WEIGHTS}
    assert select(MODEL, parse_budgets(["size=0.5x"], MODEL), WEIGHTS, level, TENSORS, {}).repaired
    print("a line of ours", flush=True)
    captured = capfd.readouterr()
    assert captured.out == "a line of ours\n"
    assert "native code" in captured.err


def test_mere_ties_come_to_an_end():
    # Equal profits on many layers: the budgets hold although the optimum cannot be proved in reasonable time.
    rng = np.random.default_rng(0)
    model = network([(1, int(n)) for n in rng.integers(100, 10**6, 30)], 0)
    candidates = {layer.name: tuple(range(2, 9)) for layer in model.layers}
    budgets = parse_budgets(["size=0.4x", "weight-bits=3.7"], model)
    level = {name: np.linspace(0, 2, 7) for name in candidates}
    selection = select(model, budgets, candidates, level, dict.fromkeys(model.tensors, (8,)), {})
    assert not exceeded(budgets, model, selection.weight_bits, selection.activation_bits)
