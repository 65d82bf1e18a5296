"""Budgets of latency: times that rise when bits fall, against brute force; and tables that do not belong."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from tfmpq.deploy.devices import facts
from tfmpq.errors import UsageError
from tfmpq.methods import latency_budget
from tfmpq.methods.latency_budget import latencies, with_latency
from tfmpq.policy.allocation import check_feasible_together, select
from tfmpq.policy.budget import Budget, exceeded, parse_budgets
from tfmpq.policy.cost import COST_KEYS, CostModel, LayerCost
from tfmpq.policy.expected_cost import ExpectedCost
from tfmpq.policy.greedy import drawn, narrow, spend
from tfmpq.policy.latency_cost import LatencyCosts
from tfmpq.policy.latency_table import FORMAT
from tfmpq.training.budget_term import BudgetTerm

BITS = (2, 4, 8)
NAMES = ("l0", "l1", "l2")
TENSORS = ("t0", "t1")
CANDIDATES = dict.fromkeys(NAMES, BITS), {"t0": (4, 8), "t1": (8,)}
LAYERS = tuple(
    LayerCost(name, operator, 900 * weights, weights, 4, 16, tensor)
    for name, operator, weights, tensor in zip(
        NAMES, ("conv2d", "pointwise", "dense"), (700, 300, 1500), ("t0", "t1", "t0"), strict=True
    )
)


def model(times: list[int], clamp: int, base: int) -> CostModel:
    """Nanoseconds of each layer at each width, in any order."""
    rows = np.array(times).reshape(3, 3).tolist()
    weights = {name: dict(zip(BITS, row, strict=True)) for name, row in zip(NAMES, rows, strict=True)}
    return CostModel(LAYERS, 7, LatencyCosts(base, weights, {"t0": {4: clamp, 8: 0}}))


def assignments():
    for weights in itertools.product(BITS, repeat=3):
        for first in CANDIDATES[1]["t0"]:
            yield dict(zip(NAMES, weights, strict=True)), {"t0": first, "t1": 8}


@st.composite
def problems(draw):
    """A network with times, budgets of latency and others, and logits."""
    costs = model(
        draw(st.lists(st.integers(1, 10**6), min_size=9, max_size=9)),
        draw(st.integers(0, 10**5)),
        draw(st.integers(0, 10**6)),
    )
    keys = ["latency", *draw(st.sets(st.sampled_from(COST_KEYS)))]
    budgets = [
        Budget(key, costs.reference(key) * draw(st.floats(0.25, 1.2)), f"{key}=1x") for key in sorted(keys)
    ]
    number = st.floats(-6, 6).map(lambda value: round(value, 3))
    logits = (
        {name: np.array(draw(st.lists(number, min_size=3, max_size=3))) for name in NAMES},
        {"t0": np.array(draw(st.lists(number, min_size=2, max_size=2)))},
    )
    return costs, budgets, logits


def _score(logits, weights, tensors) -> float:
    total = 0.0
    for part, bits, candidates in zip(logits, (weights, tensors), CANDIDATES, strict=True):
        for name, values in part.items():
            log_probs = values - np.log(np.exp(values - values.max()).sum()) - values.max()
            total += log_probs[candidates[name].index(bits[name])]
    return total


def test_a_latency_is_a_sum_in_milliseconds() -> None:
    costs = model([1, 2, 4, 10, 20, 40, 100, 200, 400], 7000, 10**6)
    weights = {"l0": 2, "l1": 4, "l2": 8}
    assert costs.value("latency", weights, {"t0": 8, "t1": 8}) == pytest.approx(1.000421, abs=1e-12)
    assert costs.value("latency", weights, {"t0": 4, "t1": 8}) == pytest.approx(1.007421, abs=1e-12)
    assert latencies(costs, weights, {"t0": 4}) == {
        "int8": costs.reference("latency"),
        "policy": pytest.approx(1.007421),
    }
    assert latencies(replace(costs, latency=None), weights, {}) == {}
    with pytest.raises(UsageError, match="none for l2"):
        costs.value("latency", {"l0": 2, "l1": 2}, {})


@settings(max_examples=60)
@given(problems())
def test_the_choice_equals_brute_force(problem) -> None:
    costs, budgets, logits = problem
    fitting = [bits for bits in assignments() if not exceeded(budgets, costs, *bits)]
    if not fitting:
        with pytest.raises(UsageError):
            check_feasible_together(budgets, costs, *CANDIDATES)
        return
    check_feasible_together(budgets, costs, *CANDIDATES)
    found = select(costs, budgets, CANDIDATES[0], logits[0], CANDIDATES[1], logits[1])
    bits = (found.weight_bits, found.activation_bits)
    assert not exceeded(budgets, costs, *bits)
    assert _score(logits, *bits) >= max(_score(logits, *other) for other in fitting) - 1e-3
    # Every other way to a policy meets the budgets, too.
    for way in (
        spend(costs, budgets, CANDIDATES, logits, bits),
        narrow(costs, budgets, CANDIDATES, logits, costs.uniform()),
        narrow(costs, budgets, CANDIDATES, logits, ({n: 2 for n in NAMES}, {"t0": 4, "t1": 8})),
        drawn(costs, budgets, CANDIDATES, logits, np.random.default_rng(1)),
    ):
        assert not exceeded(budgets, costs, *way)


@settings(max_examples=60)
@given(problems())
def test_what_cannot_be_met_is_refused_with_the_nearest_that_can(problem) -> None:
    costs, budgets, _ = problem
    others = [budget for budget in budgets if budget.key != "latency"]
    within = [bits for bits in assignments() if not exceeded(others, costs, *bits)]
    if not within:
        return
    least = min(costs.value("latency", *bits) for bits in within)
    text = f"latency={least * 0.97:.9f}ms"
    with pytest.raises(UsageError) as caught:
        check_feasible_together([*others, *parse_budgets([text], costs)], costs, *CANDIDATES)
    said = str(caught.value)
    if "beside" in said:
        nearest = said.split("beside these: ")[1].split(";")[0]
    else:  # not even alone
        nearest = said.split("can be met: ")[1].split(";")[0]
        others, least = [], min(costs.value("latency", *bits) for bits in assignments())
    named = parse_budgets([nearest], costs)[0].limit
    assert least <= named <= least * 1.0011
    check_feasible_together([*others, Budget("latency", named, nearest)], costs, *CANDIDATES)


@pytest.mark.parametrize(
    ("text", "limit"), [("latency=2.5ms", 2.5), ("latency=900us", 0.9), ("latency=0.1s", 100.0)]
)
def test_units(text, limit) -> None:
    assert parse_budgets([text], model([1] * 9, 0, 10**6))[0].limit == limit


def test_relative_to_eight_bits() -> None:
    costs = model([5, 5, 10**6] * 3, 0, 10**6)
    assert parse_budgets(["latency=0.5x"], costs)[0].limit == 2.0


def test_without_a_table_there_is_no_budget_of_latency() -> None:
    for text in ("latency=2ms", "latency=0.9x"):
        with pytest.raises(UsageError, match="--latency-table"):
            parse_budgets([text], CostModel(LAYERS))


@settings(max_examples=20, deadline=None)
@given(problems(), st.lists(st.floats(0.01, 1), min_size=11, max_size=11))
def test_expected_latency_is_the_mean_over_all_assignments(problem, numbers) -> None:
    costs, _, _ = problem
    rows = [np.array(numbers[i : i + 3]) / sum(numbers[i : i + 3]) for i in (0, 3, 6)]
    probs = dict(zip(NAMES, rows, strict=True)), {"t0": np.array(numbers[9:]) / sum(numbers[9:])}
    mean = 0.0
    for weights, tensors in assignments():
        p = np.prod([probs[0][n][BITS.index(b)] for n, b in weights.items()])
        p *= probs[1]["t0"][CANDIDATES[1]["t0"].index(tensors["t0"])]
        mean += p * costs.value("latency", weights, tensors)
    expected = ExpectedCost(costs, *CANDIDATES)
    assert expected.keys == (*COST_KEYS, "latency")
    found = float(expected("latency", probs[0], probs[1]))
    assert found == pytest.approx(mean / costs.reference("latency"), rel=1e-5)


def _pressure(limits: dict[str, float]):
    slow = model([4 * 10**6, 2 * 10**6, 10**6] * 3, 0, 0)  # narrow is slow
    term = BudgetTerm(ExpectedCost(slow, *CANDIDATES), limits, rate=1.0)
    choices = dict.fromkeys([*(f"weight:{name}" for name in NAMES), "activation:t0"], ops.softmax)
    logits = [ops.zeros(3), ops.zeros(3), ops.zeros(3), ops.zeros(2)]
    return term.pressure(choices, logits, ops.zeros(len(limits)))


def test_time_that_is_left_unused_is_not_to_be_spent() -> None:
    unused, over = _pressure({"latency": 10.0}), _pressure({"latency": 1.5})
    assert float(unused.metrics["expected_latency"]) == pytest.approx(7 / 3, rel=1e-5)
    for gradient in unused.gradients:
        np.testing.assert_allclose(ops.convert_to_numpy(gradient), 0, atol=1e-7)
    # Above the limit the loss falls as the fast, wide kernels become likelier.
    gradient = ops.convert_to_numpy(over.gradients[0])
    assert gradient[2] < 0 < gradient[0]
    assert float(over.multipliers[0]) > 0
    # Unused bytes still are: narrow widths become less likely although latency is unused as well.
    both = _pressure({"size": 1.5, "latency": 10.0})
    assert ops.convert_to_numpy(both.gradients[2])[0] > 0


# -- the table in a search -----------------------------------------------------------------------------------


def _table(**changes) -> dict:
    times = [{"bits": 8, "decode": "native", "kernel": "k", "ms": 1.0, "spread": 0.0, "samples": 1}]
    layers = [
        {k: getattr(layer, k) for k in ("name", "operator", "macs", "weights", "fan_in")} | {"times": times}
        for layer in LAYERS
    ]
    content = {
        "format": FORMAT, "model": "net", "input_shape": (8, 8, 3), "classes": 4, "form": "litert-int8",
        "runtime": {"name": "ai-edge-litert", "version": "2.3.0"}, "device": {"cpu": "C"},
        "target": {"kind": "local", "address": None}, "emulated": False, "threads": 2, "affinity": None,
        "source": "s", "created": "2026-01-01T00:00:00", "versions": {}, "base_ms": 0.5, "layers": layers,
        "tensors": [], "networks": [], "warnings": [],
    }  # fmt: skip
    return content | changes


@pytest.fixture
def attach(tmp_path):
    """Costs with a table of these contents, for these options; and what was said."""

    def present(on, ssh):
        return {"name": "ai-edge-litert", "version": "2.3.0"}, {"cpu": "C"}

    def call(changes=None, present=present, **given):
        path = tmp_path / "t.json"
        path.write_text(json.dumps(_table(**(changes or {}))))
        said: list[str] = []
        options = SimpleNamespace(
            **(
                {"latency_table": path, "on": None, "threads": None, "ssh_config": None, "budgets": ()}
                | given
            )
        )
        network = SimpleNamespace(input_shape=(8, 8, 3))
        costs = with_latency(
            CostModel(LAYERS), network, "net", 4, options, present, SimpleNamespace(log=said.append)
        )
        return costs, said

    return call


def test_a_table_becomes_part_of_the_costs(attach) -> None:
    costs, said = attach(threads=2, on="local")
    assert costs.value("latency", dict.fromkeys(NAMES, 2), {}) == 3.5
    assert said == [
        "Latency is that of the litert-int8 form on C, ai-edge-litert 2.3.0, 2 thread(s), "
        "measured 2026-01-01."
    ]


@pytest.mark.parametrize(
    ("changes", "given", "said"),
    [
        ({"model": "other"}, {}, "model other instead of net"),
        ({"input_shape": (9, 9, 3)}, {}, "input 9x9x3 instead of 8x8x3"),
        ({"runtime": {"name": "ai-edge-litert", "version": "2.4.0"}}, {}, r"2\.4\.0 instead of .* 2\.3\.0"),
        ({"device": {"cpu": "D"}}, {}, "cpu D instead of C"),
        ({"device": {"cpu": "D"}, "target": {"kind": "ssh", "address": "pi"}}, {"on": "ssh:pi"}, "cpu D"),
        ({}, {"threads": 4}, "2 threads instead of 4"),
        ({"emulated": True}, {}, "emulated"),
        ({}, {"latency_table": None, "on": "local"}, "without --latency-table"),
        ({}, {"latency_table": None, "threads": 1}, "without --latency-table"),
    ],
)
def test_a_table_of_something_else_is_refused(attach, changes, given, said) -> None:
    with pytest.raises(UsageError, match=said):
        attach(changes, **given)


def test_a_table_that_cannot_tell_widths_apart_answers_no_budget(attach) -> None:
    layers = _table()["layers"]
    times = [layers[0]["times"][0] | {"bits": bits, "ms": 0.0} for bits in BITS]
    changes = {"layers": [layer | {"times": times} for layer in layers]}
    with pytest.raises(UsageError, match=r"tells widths apart.*--alone"):
        attach(changes, budgets=("size=0.5x", " latency = 0.9x"))
    _, said = attach(changes, budgets=("size=0.5x",))
    assert "cannot tell their widths apart" in said[0]
    _, said = attach(budgets=("latency=0.9x",))
    assert len(said) == 1


def test_a_device_is_not_asked_unless_it_is_named(attach) -> None:
    changes = {"target": {"kind": "ssh", "address": "pi"}, "device": {"cpu": "D"}}
    _, said = attach(changes, present=lambda *given: pytest.fail("asked"))
    assert "with --on its processor and runtime are asked" in said[0]


def test_this_machine_is_what_the_runner_says() -> None:
    runtime, device = facts.present("local")
    assert runtime is None or set(runtime) == {"name", "version"}
    assert device["machine"]
    with pytest.raises(UsageError, match="--on is local"):
        facts.present("nowhere")


def test_nothing_changes_without_a_table(attach) -> None:
    costs, said = attach(latency_table=None)
    assert (costs, said) == (CostModel(LAYERS), [])
    assert latency_budget.latency_record(SimpleNamespace(latency_table=None)) == {}
    assert keras.backend.backend() in ("tensorflow", "jax")
