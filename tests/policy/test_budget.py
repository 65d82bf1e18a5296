"""Budgets: units, refusals, and the smallest that can be met."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfmpq.errors import UsageError
from tfmpq.policy.budget import Budget, check_each_feasible, exceeded, parse_budgets
from tfmpq.policy.cost import CostModel, LayerCost

MODEL = CostModel(
    (
        LayerCost("a", "conv2d", 70_123, 1337, 16, 27, "x"),
        LayerCost("b", "dense", 4099, 4099, 10, 409, "y"),
    ),
    fixed_bytes=5,
)
CANDIDATES = {"a": (2, 4, 8), "b": (3, 8)}, {"x": (8,), "y": (4, 8)}


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("size=900B", 900),
        ("size=350kB", 350_000),
        ("size=1.2MB", 1_200_000),
        ("size=2KiB", 2048),
        ("size = 1.5 MiB", 1.5 * 2**20),
        ("bops=3.2G", 3.2e9),
        ("bops=120M", 1.2e8),
        ("weight-bits=4.0", 4),
        ("weight-bits=0.5x", 4),
        ("size=.5x", 0.5 * MODEL.reference("size")),
        ("bops=0.25x", 0.25 * (70_123 + 4099) * 64),
    ],
)
def test_units(text, limit):
    (budget,) = parse_budgets([text], MODEL)
    assert budget == Budget(text.split("=")[0].strip(), limit, text)


def test_default_is_half_the_size():
    assert parse_budgets([], MODEL) == (Budget("size", MODEL.reference("size") / 2, "size=0.5x"),)


@pytest.mark.parametrize(
    "text",
    [
        "", "size", "size=", "size=0.5", "size=12", "size=-1MB", "size=0x", "size=0kB", "size=nanx",
        "size=infMB", "size=1e3B", "size=1.2.3MB", "size=1,2MB", "size=1Mb/s", "speed=2x", "weight_bits=4",
        "bops=3", "bops=3GB", "weight-bits=4B", "size=1MB size=2MB", "size==1MB", f"size={'9' * 400}MB",
    ],
)  # fmt: skip
def test_nonsense_is_refused_in_one_line(text):
    with pytest.raises(UsageError, match="Received: ") as caught:
        parse_budgets([text], MODEL)
    assert "\n" not in str(caught.value)


def test_a_key_has_one_budget():
    with pytest.raises(UsageError, match=r"size=0\.5x and size=1MB"):
        parse_budgets(["size=0.5x", "weight-bits=4", "size=1MB"], MODEL)


def test_each_budget_that_is_exceeded_is_returned():
    budgets = parse_budgets(["size=1x", "weight-bits=7.9", "bops=1x"], MODEL)
    assert [b.key for b in exceeded(budgets, MODEL, *MODEL.uniform())] == ["weight-bits"]


def test_the_smallest_assignment_is_feasible():
    smallest = {"a": 2, "b": 3}, {"x": 8, "y": 4}
    for key in ("size", "bops", "weight-bits"):
        value = MODEL.value(key, *smallest)
        check_each_feasible([Budget(key, value, f"{key}=1x")], MODEL, *CANDIDATES)
        with pytest.raises(UsageError):
            check_each_feasible([Budget(key, value * (1 - 1e-9), f"{key}=1x")], MODEL, *CANDIDATES)


@pytest.mark.parametrize(
    "text", ["size=1B", "size=.0001MB", "size=0.1x", "size=1KiB", "bops=1k", "bops=0.01x"]
)
def test_the_smallest_that_is_named_can_be_asked_for(text):
    with pytest.raises(UsageError) as caught:
        check_each_feasible(parse_budgets([text, "weight-bits=1"], MODEL), MODEL, *CANDIDATES)
    key, unit = text.split("=")[0], re.sub(r"[\d.]", "", text.split("=")[1])
    named = re.findall(r"(?:size|bops|weight-bits)=[\d.]+[A-Za-z]*", str(caught.value).split("can be met")[1])
    assert named[0].startswith(f"{key}=")
    assert named[0].endswith(unit)
    budgets = parse_budgets(named, MODEL)
    check_each_feasible(budgets, MODEL, *CANDIDATES)
    # It is the smallest to four digits: a thousandth less is refused.
    less = [Budget(b.key, b.limit * 0.9985, b.text) for b in budgets]
    for budget in less:
        with pytest.raises(UsageError):
            check_each_feasible([budget], MODEL, *CANDIDATES)


@given(st.integers(1, 10**9), st.sampled_from(["B", "kB", "MB", "KiB"]))
def test_whole_numbers_of_a_unit_are_exact(number, unit):
    factor = {"B": 1, "kB": 1000, "MB": 10**6, "KiB": 1024}[unit]
    assert parse_budgets([f"size={number}{unit}"], MODEL)[0].limit == number * factor


def test_kernels_alone_are_what_other_tools_count():
    bits = {"a": 4, "b": 8}
    # 1337 weights of 4 bits, 4099 of 8, and neither scales, biases nor helpers
    assert MODEL.value("kernel-size", bits, {"x": 8, "y": 8}) == (1337 * 4 + 7) // 8 + 4099
    assert MODEL.size(bits) - MODEL.kernel_size(bits) == 8 * (16 + 10) + MODEL.fixed_bytes
    (budget,) = parse_budgets(["kernel-size=0.5x"], MODEL)
    assert budget.limit == (1337 + 4099) / 2
