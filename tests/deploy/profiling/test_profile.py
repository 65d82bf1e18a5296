"""A latency table of a small network on this machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tfmpq.api.search import search
from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.latency import profilers
from tfmpq.deploy.profiling import session
from tfmpq.deploy.profiling.parts import padding
from tfmpq.deploy.profiling.profile import _disagreement, profile
from tfmpq.deploy.profiling.random_network import stand_in
from tfmpq.deploy.profiling.single_operators import Cutter
from tfmpq.deploy.proof.verify import verify
from tfmpq.deploy.runtime.interpreter import tensor_values
from tfmpq.errors import UsageError
from tfmpq.graph.containers import alternatives, container_for
from tfmpq.policy.latency_table import ALONE, ProfiledNetwork, conditions, load_table
from tfmpq.policy.network_cost import cost_model
from tfmpq.policy.policy import load_policy

NETWORK = "user_networks:small"


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    short = replace(session.PLAN, runs=20, seconds=0.02, warmup_seconds=0.01)
    monkeypatch.setattr(session, "PLAN", short)


@pytest.fixture(scope="module")
def subject():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2])
        return stand_in(NETWORK, (16, 16, 3), 10)


def test_a_stand_in_is_a_network_that_can_be_deployed(subject) -> None:
    weights = {"stem": 8, "depthwise": 4, "pointwise": 2, "down": 3, "logits": 5}
    tensors = {name: 4 for name in subject.network.tensors[1:-1]}
    frozen = subject.with_bits(weights, tensors)
    assert {layer.name: layer.weights.bits for layer in frozen.weighted} == weights
    assert {layer.grid.bits for layer in frozen.layers[1:-1]} == {4}
    assert verify(frozen, build_tflite(frozen, "litert"), "litert").passed


@pytest.mark.parametrize("form", ["litert", "storage"])
def test_a_table_holds_every_layer_in_every_container(subject, form, tmp_path) -> None:
    out = tmp_path / "t.json"
    found = profile(
        NETWORK, input_shape=(16, 16, 3), classes=10, target=form, activation_bits=(4, 8), repeats=2, out=out
    )
    table = load_table(out)
    assert table == found.table
    for layer, node in zip(table.layers, cost_model(subject.network).layers, strict=True):
        assert (layer.name, layer.macs, layer.weights) == (node.name, node.macs, node.weights)
        rows = [(node.operator, bits, node.fan_in, form) for bits in (8, 4, 2)]
        containers = [container_for(*row) for row in rows] + [c for row in rows for c in alternatives(*row)]
        held = [(t.bits, t.decode) for t in layer.times]
        assert set(held) == {(c.bits, c.decode) for c in containers}
        assert len(held) == len(set(held))
        assert all(t.ms >= 0 and t.samples >= 40 and t.kernel for t in layer.times)
    assert [tensor.name for tensor in table.tensors] == list(subject.network.tensors)
    # All tensors that can be narrowed are those of a ReLU here, which saturation clamps.
    assert all(tensor.ms == 0 for tensor in table.tensors)
    assert sum(t.ms for layer in table.layers for t in layer.times) > 0
    # A width that adds no container adds no network.
    assert len(table.networks) == 4
    assert (table.networks[0].weight_bits, table.networks[0].activation_bits) == (8, 8)
    # An unfolded convolution is there in the form of its table, which a balanced export may not take.
    for network in table.networks if form == "storage" else table.networks[:1]:
        assert network.predicted_ms == pytest.approx(
            table.predicted_ms(
                dict.fromkeys((layer.name for layer in table.layers), network.weight_bits),
                dict.fromkeys(subject.network.tensors, network.activation_bits),
            )
        )
    # The whole 8-bit network is never said to take longer than it was measured to take.
    assert table.networks[0].predicted_ms <= table.networks[0].median_ms * 1.25
    shown = json.loads(json.dumps(found.to_json()))
    assert shown["operators"] == sum(len(layer.times) for layer in table.layers)
    assert [row["name"] for row in shown["layers"]] == [layer.name for layer in table.layers]
    assert shown["resolution_ms"] == (None if table.source == ALONE else 1e-3)


@pytest.mark.parametrize("method", ["sgd", "uniform"])
def test_a_search_keeps_a_latency(method, tmp_path) -> None:
    out = tmp_path / "t.json"
    table = profile(
        NETWORK, input_shape=(16, 16, 3), classes=10, target="storage", repeats=1, out=out, threads=1
    ).table
    names = [layer.name for layer in table.layers]
    slow = max((2, 4), key=lambda bits: table.predicted_ms(dict.fromkeys(names, bits), {}))
    fast, worst = (table.predicted_ms(dict.fromkeys(names, bits), {}) for bits in (8, slow))
    limit = max(fast, (fast + worst) / 2)
    found = search(
        NETWORK, "digits", out=tmp_path / "run", method=method, epochs=1, steps_per_epoch=2, batch_size=16,
        budgets=(f"latency={limit:.6f}ms",), latency_table=out, threads=1,
    )  # fmt: skip
    assert found.latency["int8"] == pytest.approx(fast)
    assert found.latency["policy"] <= limit + 1e-6
    assert found.latency["policy"] == pytest.approx(table.predicted_ms(found.bits, found.activation_bits))
    assert found.latency_conditions == conditions(table.device, table.target, table.runtime, 1)
    (record,) = found.budget
    assert (record["key"], record["reached"]) == ("latency", pytest.approx(found.latency["policy"]))
    assert load_policy(tmp_path / "run" / "policy.yaml").budget[0].key == "latency"
    if method == "sgd":
        assert "expected_latency" in (tmp_path / "run" / "search.csv").read_text().splitlines()[0]
    with pytest.raises(UsageError, match="input 16x16x3 instead of 32x32x3"):
        search(NETWORK, "digits", out=tmp_path / "other", target_input=32, latency_table=out)
    with pytest.raises(UsageError, match=r"The smallest that can be met: latency=[\d.]+x \(of 8-bit\)"):
        search(NETWORK, "digits", out=tmp_path / "other", latency_table=out, budgets=("latency=0.01x",))


def test_each_policy_of_a_front_has_a_predicted_latency(tmp_path) -> None:
    out = tmp_path / "t.json"
    table = profile(NETWORK, input_shape=(16, 16, 3), classes=10, repeats=1, out=out).table
    found = search(NETWORK, "digits", out=tmp_path / "run", method="uniform", pareto=("0.6x", "1x"), epochs=0,
                   latency_table=out)  # fmt: skip
    for row in found.pareto:
        policy = load_policy(Path(row["policy"]))
        assert row["latency"] == pytest.approx(table.predicted_ms(policy.weight_bits, {}))


def test_without_a_profiler_operators_are_timed_by_themselves(monkeypatch, tmp_path) -> None:
    program = tmp_path / "program.py"
    program.write_text('print(\'TFMPQ_ERROR {"kind": "no_profiler", "message": "none here"}\')')
    monkeypatch.setattr(profilers, "PROGRAM", program)
    monkeypatch.setattr(session, "SINGLE_PLAN", replace(session.SINGLE_PLAN, runs=5, seconds=0.0))
    monkeypatch.setattr(session, "SINGLE_REPEATS", 1)
    table = profile(
        NETWORK, input_shape=(16, 16, 3), classes=10, target="storage", activation_bits=(4, 8), repeats=1,
        out=tmp_path / "t.json",
    ).table  # fmt: skip
    assert table.source == "single operators"
    assert any("by themselves" in warning for warning in table.warnings)
    assert all(time.ms > 0 for layer in table.layers for time in layer.times)
    assert {len(layer.times) for layer in table.layers} == {3}
    assert table.networks[0].predicted_ms == pytest.approx(table.networks[0].median_ms, rel=1e-3)


def test_an_operator_alone_computes_what_it_does_in_its_network(subject) -> None:
    frozen = subject.with_bits({layer.name: 2 for layer in subject.frozen.weighted})
    content = build_tflite(frozen, "storage")
    cutter = Cutter(content, padding(frozen))
    codes = np.random.default_rng(0).integers(-128, 128, (1, 16, 16, 3)).astype(np.int8)
    names = [layer.name for layer in frozen.layers if layer.kind != "reshape"]
    values = {}
    for name in names[1:]:
        values |= tensor_values(content, [name], codes, "builtin")
    source = codes
    for name in names[1:4]:
        model = cutter.cut(cutter.layers[name])
        found = next(iter(tensor_values(model, None, source, "builtin").values()))
        np.testing.assert_array_equal(found, values[name])
        source = values[name]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"input_shape": None}, "without an input size"),
        ({"classes": None}, "without a number of classes"),
        ({"target": "phone"}, "phone"),
        ({"repeats": 0}, "repeats=0"),
        ({"threads": 0}, "threads=0"),
        ({"benchmark_model": "b"}, "benchmark_model measures on Android"),
    ],
)
def test_bad_calls_are_refused_at_once(options, said, tmp_path) -> None:
    arguments = {"input_shape": (16, 16, 3), "classes": 10, "out": tmp_path / "t.json"} | options
    with pytest.raises(UsageError, match=said):
        profile(NETWORK, **arguments)


def test_a_table_of_zeros_is_warned_of(monkeypatch, tmp_path) -> None:
    told = profilers.LiteRtProfiler.profile

    def instant(*given):
        found = told(*given)
        events = tuple(replace(event, microseconds=0 * event.microseconds) for event in found.events)
        return replace(found, events=events)

    monkeypatch.setattr(profilers.LiteRtProfiler, "profile", instant)
    out = tmp_path / "t.json"
    table = profile(NETWORK, input_shape=(16, 16, 3), classes=10, repeats=1, out=out).table
    assert any("cannot tell their widths apart; use --alone" in warning for warning in table.warnings)
    with pytest.raises(UsageError, match="Run tfmpq profile with --alone"):
        search(NETWORK, "digits", out=tmp_path / "run", latency_table=out, budgets=("latency=0.9x",))


def test_the_base_is_what_is_left_where_nothing_outside_operators_is_told(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(profilers, "typical", lambda runs: float("nan"))
    table = profile(
        NETWORK, input_shape=(16, 16, 3), classes=10, weight_bits=(8,), repeats=1, out=tmp_path / "t.json"
    ).table
    layers = sum(time.ms for layer in table.layers for time in layer.times)
    assert table.base_ms == pytest.approx(table.networks[0].median_ms - layers)


@pytest.mark.parametrize(
    ("predicted", "spread", "warned"),
    [(1.05, 0.0, False), (1.3, 0.25, False), (1.3, 0.1, True), (0.8, 0.0, True)],
)
def test_a_table_that_misses_whole_networks_says_so(predicted, spread, warned) -> None:
    check = ProfiledNetwork(
        weight_bits=4, activation_bits=8, median_ms=1.0, p10_ms=None, spread=spread, predicted_ms=predicted
    )
    assert bool(_disagreement([check])) == warned
