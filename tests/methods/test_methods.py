"""Search methods: what they choose, what options they have, and the rules that decide."""

from __future__ import annotations

import ast
import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tfmpq.methods
from tfmpq.errors import UsageError
from tfmpq.methods import METHODS, load_method, selection
from tfmpq.methods.options import KNOBS, SearchOptions
from tfmpq.methods.selection import Learned, decide
from tfmpq.methods.sensitivity import measure
from tfmpq.policy.budget import Budget, exceeded
from tfmpq.policy.cost import CostModel, LayerCost
from tfmpq.progress import SilentReporter
from tfmpq.quantizers.choices import quantize_wrappers
from tfmpq.tasks.objective import CLASSES

NAMES, BITS = ("first", "a", "b", "c"), (2, 3, 4, 8)
MODEL = CostModel(
    tuple(
        LayerCost(name, "conv2d", count * 16, count, 4, count // 4, f"in_{name}")
        for name, count in zip(NAMES, (32, 256, 64, 512), strict=True)
    )
)
WEIGHTS = {name: BITS for name in NAMES} | {"first": (8,)}
ACTIVATIONS = {name: (4, 8) for name in MODEL.tensors} | {"in_first": (8,)}


def options(**changes: Any) -> SearchOptions:
    """Those of a call without any."""
    return SearchOptions(**{"weight_bits": BITS} | changes)


def problem(**changes: Any) -> Any:
    return SimpleNamespace(
        costs=MODEL,
        weights=WEIGHTS,
        activations=ACTIVATIONS,
        space=(WEIGHTS, ACTIVATIONS),
        options=options(activation_bits=(4, 8), **changes),
        reporter=SilentReporter(),
        searchable=lambda: None,
    )


def budgets(size: float, bops: float = 1.0) -> list[Budget]:
    return [
        Budget("size", size * MODEL.reference("size"), ""),
        Budget("bops", bops * MODEL.reference("bops"), ""),
    ]


def learned(seed: int = 0, scale: float = 2.0) -> Learned:
    generator = np.random.default_rng(seed)
    logits = [
        {n: generator.normal(0, scale, len(bits)) for n, bits in space.items() if len(bits) > 1}
        for space in (WEIGHTS, ACTIVATIONS)
    ]
    return Learned(None, *logits, None)


# -- the registry and the options ----------------------------------------------------------------------------


def test_all_methods_are_in_the_table_and_take_their_defaults() -> None:
    known = {"asga", "fisher", "sagm", "gsam", "sam", "sgd", "fracbits", "sensitivity", "random", "uniform"}
    assert set(METHODS) == known
    for name in METHODS:
        load_method(name).check(options(method=name))


def test_the_registry_imports_nothing_heavy() -> None:
    for module in (tfmpq.methods, inspect.getmodule(SearchOptions)):
        tree = ast.parse(inspect.getsource(module))
        names = {n.module for n in tree.body if isinstance(n, ast.ImportFrom)} | {
            alias.name for n in tree.body if isinstance(n, ast.Import) for alias in n.names
        }
        assert not names & {"keras", "numpy", "tensorflow", "scipy"}


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UsageError, match="Received: adam"):
        load_method("adam")


def test_knobs_are_options_of_a_search_that_it_records_where_they_are_given() -> None:
    specs = SearchOptions.specs()
    assert {name: SearchOptions.defaults()[name] for name in KNOBS} == dict(KNOBS)
    assert {name for name in KNOBS if specs[name].recorded != "given"} == {"perturb"}


@pytest.mark.parametrize(
    ("method", "knob"),
    [
        ("asga", {"radius": "direct", "rho_max": 0.1, "alpha": 0.0, "second_gradient_every": 5}),
        ("asga", {"phi": 0.01, "perturb": "latent", "norm": "layer", "adaptive": True, "select": "argmax"}),
        ("sagm", {"alpha": 0.01}),
        ("gsam", {"alpha": 0.1, "rho_max": 0.1}),
        ("sam", {"rho_max": 0.1, "prune_below": 0.01}),
        ("sgd", {"select": "least-sharp", "prune_below": 0.01}),
        ("fracbits", {"select": "argmax", "precision": "bfloat16"}),
    ],
)
def test_knobs_of_a_method(method: str, knob: dict[str, Any]) -> None:
    asked = options(method=method, **knob)
    load_method(method).check(asked)
    assert asked.knobs == knob
    assert asked.description.startswith(f"{method} (")


@pytest.mark.parametrize(
    ("method", "knob"),
    [
        ("sagm", {"radius": "inverse"}),
        ("sagm", {"phi": 0.01}),
        ("sam", {"alpha": 0.01}),
        ("sgd", {"perturb": "latent"}),
        ("sgd", {"rho_max": 0.1}),
        ("fracbits", {"prune_below": 0.01}),
        ("fracbits", {"alpha": 0.01}),
        ("uniform", {"select": "argmax"}),
        ("random", {"prune_below": 0.01}),
        ("sensitivity", {"second_gradient_every": 2}),
        ("asga", {"radius": "direct", "phi": 0.01}),
        ("asga", {"rho_max": -1.0}),
    ],
)
def test_what_a_method_does_not_have_is_refused(method: str, knob: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="Received"):
        load_method(method).check(options(method=method, **knob))


@pytest.mark.parametrize("wrong", [{"select": "best"}, {"norm": "none"}, {"prune_below": 0.7}])
def test_values_that_do_not_exist_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="Received"):
        options(**wrong)


def test_knobs_reach_the_step() -> None:
    asked = options(radius="direct", rho_max=0.2, alpha=0.5, norm="layer", second_gradient_every=3)
    step = load_method("asga").configured(asked)
    assert (step.radius.kind, step.radius.rho_max, step.alpha) == ("direct", 0.2, 0.5)
    assert (step.norm, step.second_gradient_every, step.update) == ("layer", 3, "mean")
    assert load_method("asga").configured(options(adaptive=True)).radius.rho_max == 0.5
    assert load_method("gsam").configured(options()).update == "gap-guided"
    assert load_method("sam").configured(options()).alpha == 0.0
    assert load_method("sgd").configured(options()) is None


# -- controls ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "bits"), [(1.0, 8), (0.9, 4), (0.59, 4), (0.57, 2), (0.4, 2)])
def test_uniform_is_the_widest_that_fits(size: float, bits: int) -> None:
    limits = budgets(size)
    choice = load_method("uniform").run(problem()).choose(limits)
    assert choice.weight_bits == dict.fromkeys(NAMES, bits) | {"first": 8}
    assert set(choice.activation_bits.values()) == {8}
    assert not exceeded(limits, MODEL, choice.weight_bits, choice.activation_bits)


def test_uniform_narrows_activations_where_bops_are_limited() -> None:
    choice = load_method("uniform").run(problem()).choose(budgets(1.0, 0.6))
    # 8 x 4 bits count as 4 x 8; of equals the wider activations.
    assert choice.weight_bits["a"] == 4
    assert choice.activation_bits["in_a"] == 8


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.floats(0.4, 1.0), bops=st.floats(0.25, 1.0))
def test_random_policies_use_their_budgets(seed: int, size: float, bops: float) -> None:
    limits = budgets(size, bops)
    choose = load_method("random").run(problem(seed=seed)).choose
    choice = choose(limits)
    assert choice == choose(limits)  # the same seed, the same policy
    bits = (choice.weight_bits, choice.activation_bits)
    assert not exceeded(limits, MODEL, *bits)
    for kind, space in enumerate((WEIGHTS, ACTIVATIONS)):
        for name, widths in space.items():
            for wider in (b for b in widths if b > bits[kind][name]):
                attempt = [*bits]
                attempt[kind] = bits[kind] | {name: wider}
                if wider == min(b for b in widths if b > bits[kind][name]):
                    assert exceeded(limits, MODEL, *attempt)


def test_random_policies_differ_between_seeds() -> None:
    found = {
        tuple(load_method("random").run(problem(seed=s)).choose(budgets(0.6)).weight_bits.values())
        for s in range(8)
    }
    assert len(found) > 2


# -- rules that decide ---------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    size=st.floats(0.4, 1.0),
    bops=st.floats(0.25, 1.0),
    rule=st.sampled_from(["argmax", "knapsack"]),
)
def test_every_rule_meets_the_budgets(seed: int, size: float, bops: float, rule: str) -> None:
    limits = budgets(size, bops)
    choice = decide(problem(select=rule), learned(seed), limits)
    assert not exceeded(limits, MODEL, choice.weight_bits, choice.activation_bits)


def test_argmax_is_the_most_probable_where_it_fits() -> None:
    known = learned(3)
    choice = decide(problem(select="argmax"), known, budgets(1.0))
    assert not choice.repaired
    for name, logits in known.weight_logits.items():
        assert choice.weight_bits[name] == BITS[int(np.argmax(logits))]
    narrowed = decide(problem(select="argmax"), known, budgets(0.4))
    assert narrowed.repaired
    assert all(narrowed.weight_bits[n] <= b for n, b in choice.weight_bits.items())


def test_the_least_sharp_of_what_was_drawn_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    limits, seen = budgets(0.8, 0.5), []

    def gaps(problem: Any, model: Any, sharpness: Any, choices: list[Any]) -> list[float]:
        seen.extend(choices)
        return [float(choice.weight_bits["a"]) for choice in choices]

    monkeypatch.setattr(selection, "surrogate_gaps", gaps)
    choice = decide(problem(select="least-sharp"), learned(scale=0.1), limits)
    assert choice.weight_bits["a"] == min(c.weight_bits["a"] for c in seen)
    assert 2 < len(seen) <= selection.SAMPLES + 1
    assert len({tuple(c.weight_bits.values()) + tuple(c.activation_bits.values()) for c in seen}) == len(seen)
    for one in seen:
        assert not exceeded(limits, MODEL, one.weight_bits, one.activation_bits)


# -- sensitivity ---------------------------------------------------------------------------------------------


def test_sensitivity_is_the_divergence_with_one_tensor_quantized(searchable) -> None:
    made = searchable((2, 4, 8), (4, 8))
    task = SimpleNamespace(calibration_images=lambda: made.images, objective=CLASSES)
    before = [np.array(v) for v in made.quantized.variables]
    weights, activations = measure(SimpleNamespace(task=task, reporter=SilentReporter()), made.quantized)
    for variable, value in zip(made.quantized.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    for wrapper in quantize_wrappers(made.quantized):
        for _, quantizer, _ in wrapper.quantizers:
            assert quantizer.kept == tuple(range(len(quantizer.bits)))
    assert set(weights) == {node.name for node in made.network.weighted}
    assert set(activations) == {n for n in made.network.tensors if n != "image"}
    for rises in (*weights.values(), *activations.values()):
        assert np.all(np.diff(rises) <= 0)  # a wider grid is never predicted to be worse
        assert np.all(rises >= 0)
    assert all(rises[-1] < rises[0] for rises in weights.values())

    def log_probabilities(logits: Any) -> np.ndarray:
        logits = np.asarray(logits, np.float64)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    # By hand, in the float network: one kernel on its grid of 2 bits.
    wanted = log_probabilities(made.model(made.images, training=False))
    wrapper, layer = made.quantized.get_layer("pw"), made.model.get_layer("pw")
    steps = np.exp(np.asarray(wrapper.weight_variables["log_step"])[0])
    kernel, *rest = layer.get_weights()
    layer.set_weights([np.clip(np.round(kernel / steps), -1, 1) * steps, *rest])
    try:
        got = log_probabilities(made.model(made.images, training=False))
    finally:
        layer.set_weights([kernel, *rest])
    divergence = np.mean(np.sum(np.exp(wanted) * (wanted - got), axis=-1))
    assert weights["pw"][0] == pytest.approx(divergence, rel=1e-3)


def test_sensitivity_takes_the_smallest_sum_within_the_budget() -> None:
    import itertools

    from tfmpq.methods.sensitivity import least_sum

    generator = np.random.default_rng(0)
    rises = [
        {n: np.sort(generator.exponential(0.01, len(b)))[::-1] for n, b in space.items() if len(b) > 1}
        for space in (WEIGHTS, ACTIVATIONS)
    ]
    for limits in (budgets(0.5), budgets(0.45, 0.4), budgets(1.0)):
        found = least_sum(problem(), *rises, limits)
        best, chosen = np.inf, None
        for widths in itertools.product(*WEIGHTS.values(), *ACTIVATIONS.values()):
            bits = dict(zip((*WEIGHTS, *ACTIVATIONS), widths, strict=True))
            if not exceeded(limits, MODEL, bits, bits):
                parts = zip(rises, (WEIGHTS, ACTIVATIONS), strict=True)
                total = sum(v[space[n].index(bits[n])] for part, space in parts for n, v in part.items())
                best, chosen = min((best, chosen), (total, bits), key=lambda pair: pair[0])
        assert {**found.weight_bits, **found.activation_bits} == chosen
