"""Times of single operators: which event belongs to which operator, and what the real profiler tells."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.devices.protocol import Protocol
from tfmpq.deploy.devices.transports import transport
from tfmpq.deploy.latency import profilers
from tfmpq.deploy.latency.operator_times import MERGED, ProfiledProcess, layers_of, operator_profile, typical
from tfmpq.deploy.latency.partitions import Event, _is_kernel_of, _matched, owners, partitions
from tfmpq.deploy.latency.profilers import LiteRtProfiler, NoProfiler, parse_operators
from tfmpq.deploy.runtime.interpreter import execution_plan
from tfmpq.deploy.tflite.flatbuffer import builtin_name, read_model

PLAN = Protocol("test", runs=10, seconds=0.01)
CONV, DEPTHWISE = "Convolution (NHWC, QC8) IGEMM", "Convolution (NHWC, QC8) DWConv"
BUILTINS = {"CONV_2D": CONV, "FULLY_CONNECTED": "Fully Connected (NC, QS8)",
            "ADD": "Add (ND)", "PAD": "Constant Pad (ND, X8)"}  # fmt: skip

_TITLE = "============================== {} =============================="
_COLUMNS = "[node type] [first] [avg ms] [%] [cdf%] [mem KB] [times called] [Name]"


def _rows(*rows: str) -> str:
    """Rows as benchmark_model prints them: fields between tabs and spaces."""
    return "".join("\t     " + "\t    ".join(row.split(";")) + "\n" for row in rows)


_QUANTIZE = "QUANTIZE;0.199;0.203;1.328%;1.328%;0.000;1;[tfl.quantize]:0"
LOG = (
    "INFO: Profiling Info for Benchmark Initialization:\n"
    + _TITLE.format("Run Order")
    + _rows(_COLUMNS, "AllocateTensors;5.061;5.061;44.360%;100.000%;10292.000;1;AllocateTensors/0")
    + "INFO: Operator-wise Profiling Info for Regular Benchmark Runs:\n"
    + _TITLE.format("Run Order")
    + "\n"
    + _rows(
        _COLUMNS,
        _QUANTIZE,
        f"{CONV};0.398;0.407;2.658%;3.986%;0.000;1;Delegate/{CONV}:0",
        f"{DEPTHWISE};0.428;0.051;4.317%;8.304%;0.000;13;Delegate/{DEPTHWISE}:1",
    )
    + _TITLE.format("Top by Computation Time")
    + _rows(_QUANTIZE)
)
OLD_ROW = _rows("CONV_2D;0.066;87.754;60.957;2.066%;2.066%;0.000;1;[Mobilenet/Relu6]:3")


def _longest(builtins: list[str], tags: list[str]) -> int:
    """Brute force over all ways to match in order."""
    best = 0
    for size in range(1, min(len(builtins), len(tags)) + 1):
        for ops in itertools.combinations(builtins, size):
            for kernels in itertools.combinations(tags, size):
                if all(_is_kernel_of(t, b) for t, b in zip(kernels, ops, strict=True)):
                    best = size
    return best


@given(
    st.lists(st.sampled_from(sorted(BUILTINS)), max_size=5),
    st.lists(st.sampled_from([*BUILTINS.values(), "Copy (NC, X8)"]), max_size=5),
)
def test_kernels_are_matched_in_order_and_as_many_as_possible(builtins, tags) -> None:
    found = _matched(builtins, tags)
    firsts = {}
    for position, owner in enumerate(found):
        if owner is not None:
            firsts.setdefault(owner, position)
    assert [owner for owner in found if owner is not None] == sorted(o for o in found if o is not None)
    assert all(_is_kernel_of(tags[position], builtins[owner]) for owner, position in firsts.items())
    assert len(firsts) == _longest(builtins, tags)


def test_kernels_that_are_named_otherwise_than_their_operators() -> None:
    builtins = ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "LEAKY_RELU", "QUANTIZE", "MEAN", "CONCATENATION"]
    tags = [
        *("Fully Connected (NC, F32) GEMM", DEPTHWISE, CONV, "LeakyReLU (NC)", "Invalid Unary Op"),
        *("Mean (ND) Reduce2", "Static Reshape (NC)", "Copy (NC, X32)"),
    ]
    assert _matched(builtins, tags) == [0, 1, 2, 3, 4, 5, 5, 6]


def _graph(*edges: tuple[list[int], int]) -> SimpleNamespace:
    operators = [SimpleNamespace(inputs=inputs, outputs=[output]) for inputs, output in edges]
    return SimpleNamespace(subgraphs=[SimpleNamespace(operators=operators)])


def test_partitions_take_what_is_ready() -> None:
    # Two branches: 1 is not delegated, so 2, which needs only 0, joins the first partition, and 3 is after.
    graph = _graph(([0], 1), ([1], 2), ([1], 3), ([2, 3], 4))
    assert partitions(graph, {1}) == [[0, 2], [3]]
    assert partitions(graph, ()) == [[0, 1, 2, 3]]
    assert partitions(graph, {0, 1, 2, 3}) == []
    assert partitions(_graph(([2], 1), ([1], 2)), ()) == []  # a cycle


def test_the_middle_half() -> None:
    assert typical(np.array([9000, 1, 2, 2, 3, 1, 2, 1])) == pytest.approx((1 + 2 + 2 + 2) / 4)
    assert typical(np.array([7.0])) == 7
    assert typical(np.array([1.0, 2.0])) == 1.5


@pytest.fixture(scope="module")
def profiled(make_every_layer, tmp_path_factory):
    """Contents and profiles of one network in two forms, with narrow activations."""
    folder: Path = tmp_path_factory.mktemp("profiled")
    found = {}
    with transport("local") as device:
        profiler = LiteRtProfiler(device)
        for target in ("litert", "storage"):
            path = folder / f"{target}.tflite"
            path.write_bytes(build_tflite(make_every_layer(2, 4), target))
            try:
                processes = [profiler.profile(device.push(path), 1, PLAN, None) for _ in range(2)]
            except NoProfiler as error:
                pytest.skip(str(error))
            found[target] = (path.read_bytes(), processes)
    return found


@pytest.mark.parametrize("target", ["litert", "storage"])
def test_every_operator_has_its_kernel(profiled, target) -> None:
    content, processes = profiled[target]
    model, plan = read_model(content), execution_plan(content)
    for process in processes:
        events = process.events
        found = owners(model, events)
        assert None not in found
        names = [builtin_name(model, model.subgraphs[0].operators[owner]) for owner in found]
        for event, owner, name in zip(events, found, names, strict=True):
            assert event.delegated == plan.delegated[owner]
            assert event.delegated or event.tag == name
            if name in ("CONV_2D", "DEPTHWISE_CONV_2D") and event.delegated:
                assert "Convolution" in event.tag or "Copy" in event.tag or "Pad" in event.tag
        # Every operator with weights ran by itself.
        weighted = {
            number
            for number, operator in enumerate(model.subgraphs[0].operators)
            if builtin_name(model, operator) in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
        }
        assert weighted <= set(found)


def test_a_profile_says_what_each_layer_takes(profiled) -> None:
    content, processes = profiled["storage"]
    found = operator_profile(content, processes, "test")
    layers = {layer.name: layer for layer in found.layers}
    assert layers["conv"].operator == "CAST + CONV_2D"
    assert (layers["conv"].weight_bits, layers["conv"].container) == (2, 2)
    assert layers["pad"].weight_bits is None
    assert layers["hidden"].kernel.startswith("Fully Connected")
    assert sum(layer.ms for layer in found.layers) == pytest.approx(sum(o.ms for o in found.operators))
    assert sum(layer.ms for layer in found.layers) <= found.total_ms * 1.1
    assert found.unattributed == {}
    shown = found.to_json(found.total_ms)
    assert shown["runs"] == sum(process.runs for process in processes) >= 20
    assert [row["name"] for row in shown["layers"]] == list(layers)
    # The clamp of a narrow signed tensor belongs to the layer before it.
    assert "QUANTIZE" in layers["pointwise"].operator
    assert {name for name in layers_of(read_model(content)) if not name} == set()


def test_operators_without_kernels_are_merged(make_small) -> None:
    content = build_tflite(make_small(8), "litert")
    event = Event(CONV, True, 0, np.array([5.0, 7.0]))
    found = operator_profile(content, [ProfiledProcess((event,), math.nan, math.nan, 2)], "test")
    assert found.operators[0].ms == pytest.approx(0.006)
    assert {item.kernel for item in found.operators[1:]} == {MERGED}


def _timed(content: bytes, *runs: float, total_ms: float = math.nan):
    """A profile whose first operators took these microseconds."""
    plan, model = execution_plan(content), read_model(content)
    weighted = [
        name
        for number, operator in enumerate(model.subgraphs[0].operators)
        if (name := builtin_name(model, operator)) in BUILTINS and plan.delegated[number]
    ]
    assert len(weighted) >= len(runs)
    events = tuple(
        Event(BUILTINS[name], True, number, np.array([microseconds]))
        for number, (name, microseconds) in enumerate(zip(weighted, runs, strict=False))
    )
    return operator_profile(content, [ProfiledProcess(events, total_ms, math.nan, 1)], "test")


def test_the_time_of_a_profiler_is_not_that_of_the_network(make_small) -> None:
    found = _timed(build_tflite(make_small(8), "litert"), 1.0, 0.0, total_ms=0.016)
    shown = found.to_json(median_ms=0.00189)
    assert shown["operators_ms"] == pytest.approx(0.001)
    assert shown["outside_ms"] == pytest.approx(0.00089)
    assert shown["profiler_ms"] == pytest.approx(0.016 - 0.00189)
    # Operators that the profiler lengthens leave nothing outside.
    shown = found.to_json(median_ms=0.0005)
    assert (shown["outside_ms"], shown["profiler_ms"]) == (0, pytest.approx(0.015))
    assert found.to_json(math.nan)["outside_ms"] is None
    unknown = _timed(build_tflite(make_small(8), "litert"), 1.0).to_json(0.002)
    assert (unknown["profiled_total_ms"], unknown["profiler_ms"]) == (None, None)
    assert unknown["outside_ms"] == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("runs", "told"), [((1.0, 0.0, 0.0), False), ((3.0, 1.0, 2.0), True), ((90.0, 0.0, 0.0), True)]
)
def test_shares_are_told_where_operators_are_long_enough(make_small, runs, told) -> None:
    found = _timed(build_tflite(make_small(8), "litert"), *runs)
    assert found.too_short is not told
    shares = [layer.share for layer in found.layers]
    if told:
        assert sum(shares) == pytest.approx(1)
    else:
        assert set(shares) == {None}


def test_kernels_that_share_a_row_belong_to_none(make_small) -> None:
    content = build_tflite(make_small(8), "litert")
    event = Event(DEPTHWISE, True, 1, np.array([50.0]), calls=13)
    found = operator_profile(content, [ProfiledProcess((event,), math.nan, math.nan, 2)], "test")
    assert found.unattributed == {DEPTHWISE: pytest.approx(0.65)}
    assert sum(item.ms for item in found.operators) == 0


def test_a_log_of_benchmark_model_is_read() -> None:
    events = parse_operators(LOG)
    assert [(e.tag, e.delegated, e.index, e.calls) for e in events] == [
        ("QUANTIZE", False, 0, 1),
        (CONV, True, 0, 1),
        (DEPTHWISE, True, 1, 13),
    ]
    assert [float(e.microseconds[0]) for e in events] == pytest.approx([203, 407, 51])
    first = parse_operators(LOG.replace(_rows(_QUANTIZE), OLD_ROW))[0]
    assert (first.tag, first.index, float(first.microseconds[0])) == ("CONV_2D", 3, pytest.approx(60957))
    assert parse_operators("count=50 first=1 curr=1") == ()


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import os; os.abort()", "SIGABRT under the profiler"),
        ('print(\'TFMPQ_ERROR {"kind": "no_profiler", "message": "no such library"}\')', "no such library"),
        ("raise SystemExit(3)", "exit code 3"),
    ],
)
def test_a_profiler_that_fails_says_why(monkeypatch, tmp_path, program, said) -> None:
    (tmp_path / "program.py").write_text(program)
    monkeypatch.setattr(profilers, "PROGRAM", tmp_path / "program.py")
    with transport("local") as device, pytest.raises(NoProfiler, match=said):
        LiteRtProfiler(device).profile("m.tflite", 1, PLAN, None)


def test_another_file_is_no_model_to_the_profiler(tmp_path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(b"nothing")
    with (
        transport("local", python=sys.executable) as device,
        pytest.raises(NoProfiler, match="LiteRT status"),
    ):
        LiteRtProfiler(device).profile(device.push(path), 1, PLAN, None)


def test_operators_without_tensors_have_no_layer() -> None:
    model = _graph(([], 1))
    model.subgraphs[0].operators[0].inputs = None
    model.subgraphs[0].operators.append(SimpleNamespace(inputs=[1, -1], outputs=None))
    model.subgraphs[0].tensors = [None, SimpleNamespace(name=b"a")]
    assert layers_of(model) == ["a", ""]
    assert partitions(model, ()) == [[0, 1]]
