"""The latency table: its file, what it says, and what it is refused for."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tfmpq.errors import UsageError
from tfmpq.policy.cost import CostModel, LayerCost
from tfmpq.policy.latency_table import (
    ALONE,
    FORMAT,
    LatencyTable,
    check_device,
    check_network,
    load_table,
    too_short,
)

LAYERS = (
    LayerCost("a", "conv2d", 7000, 700, 4, 27, "x"),
    LayerCost("b", "dense", 400, 400, 10, 40, "y"),
)
MODEL = CostModel(LAYERS)


def _times(*rows: tuple[int, float]) -> list[dict]:
    return [
        {"bits": bits, "decode": "native", "kernel": "k", "ms": ms, "spread": 0.01, "samples": 9}
        for bits, ms in rows
    ]


def content(**changes: object) -> dict:
    """A table of two layers and two tensors, of which one is signed."""
    times = {"a": _times((8, 1.5)), "b": _times((8, 0.25), (4, 0.125), (2, 0.5))}
    table = {
        "format": FORMAT,
        "model": "net",
        "input_shape": [8, 8, 3],
        "classes": 10,
        "form": "litert",
        "runtime": {"name": "ai-edge-litert", "version": "2.3.0", "numpy": "2.0"},
        "device": {"machine": "x86_64", "cpu": "C", "board": None, "features": "avx2 fma", "cores": 2},
        "target": {"kind": "local"},
        "emulated": False,
        "threads": 1,
        "affinity": None,
        "source": "LiteRT profiler",
        "created": "2026-01-01T00:00:00+00:00",
        "versions": {},
        "base_ms": 0.0625,
        "layers": [
            {
                "name": layer.name,
                "operator": layer.operator,
                "macs": layer.macs,
                "weights": layer.weights,
                "fan_in": layer.fan_in,
                "times": times[layer.name],
            }
            for layer in LAYERS
        ],
        "tensors": [{"name": "x", "ms": 0.0, "spread": 0.0}, {"name": "y", "ms": 0.03125, "spread": 0.1}],
        "networks": [],
        "warnings": [],
    }
    return table | changes


def test_a_latency_is_the_sum_of_its_parts(tmp_path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(content()))
    table = load_table(path)
    # In the litert form a convolution is int8 whatever its width, a dense layer is packed.
    assert table.predicted_ms({"a": 2, "b": 8}, {"x": 8, "y": 8}) == 0.0625 + 1.5 + 0.25
    assert table.predicted_ms({"a": 8, "b": 3}, {"x": 4, "y": 8}) == 0.0625 + 1.5 + 0.125
    assert table.predicted_ms({"a": 8, "b": 2}, {"x": 8, "y": 6}) == 0.0625 + 1.5 + 0.5 + 0.03125
    assert load_table(path).model_dump(mode="json") == content()


def test_widths_that_were_not_profiled_are_named() -> None:
    layers = [{**layer, "times": _times((8, 1.0))} for layer in content()["layers"]]
    table = LatencyTable(**content(layers=layers, tensors=[]))
    with pytest.raises(UsageError, match=r"Received: 4-bit weights of layer b\. Profile again"):
        table.predicted_ms({"a": 8, "b": 4}, {})
    with pytest.raises(UsageError, match="Received: 4 bits of tensor y"):
        table.predicted_ms({"a": 8, "b": 8}, {"x": 8, "y": 4})
    assert table.predicted_ms({"a": 8, "b": 8}, {"x": 8, "y": 8}) == 2.0625


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("{", "Invalid JSON"),
        ("[]", "the file"),
        (json.dumps(content(threads="two")), "threads"),
        (json.dumps(content(format="tfmpq-latency/9")), "format"),
        (json.dumps({**content(), "extra": 1}), "extra"),
        (json.dumps(content(layers=[])), "layers"),
    ],
)
def test_other_files_are_refused(tmp_path, text, said) -> None:
    path = tmp_path / "t.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=said) as caught:
        load_table(path)
    assert str(path) in str(caught.value)


def test_the_same_network_passes() -> None:
    check_network(LatencyTable(**content()), "net", (8, 8, 3), 10, MODEL)


@pytest.mark.parametrize(
    ("name", "shape", "classes", "model", "difference"),
    [
        ("other", (8, 8, 3), 10, MODEL, "model net instead of other"),
        ("net", (16, 16, 3), 10, MODEL, "input 8x8x3 instead of 16x16x3"),
        ("net", (8, 8, 3), 100, MODEL, "10 classes instead of 100"),
        ("net", (8, 8, 3), 10, CostModel((LAYERS[0], replace(LAYERS[1], macs=9))), "another layer b"),
        ("net", (8, 8, 3), 10, CostModel((*LAYERS, replace(LAYERS[1], name="c"))), "no layer c"),
    ],
)
def test_another_network_is_refused(name, shape, classes, model, difference) -> None:
    with pytest.raises(UsageError, match=f"{difference}\\. Run tfmpq profile again"):
        check_network(LatencyTable(**content()), name, shape, classes, model)


def test_the_same_device_passes() -> None:
    table = LatencyTable(**content())
    same = {**table.device, "features": "fma avx2", "cores": 64}
    check_device(table, runtime=table.runtime | {"numpy": "1.9"}, device=same, threads=1)
    check_device(table)


@pytest.mark.parametrize(
    ("given", "difference"),
    [
        (
            {"runtime": {"name": "ai-edge-litert", "version": "2.4.0"}},
            r"runtime ai-edge-litert 2\.3\.0 instead",
        ),
        ({"device": content()["device"] | {"cpu": "D"}}, "cpu C instead of D"),
        ({"device": content()["device"] | {"features": "avx2"}}, "other CPU features"),
        ({"threads": 4}, "1 threads instead of 4"),
    ],
)
def test_another_device_is_refused(given, difference) -> None:
    with pytest.raises(UsageError, match=difference):
        check_device(LatencyTable(**content()), **given)


def test_a_table_of_an_emulation_is_refused() -> None:
    with pytest.raises(UsageError, match="emulated"):
        check_device(LatencyTable(**content(emulated=True)))


@pytest.mark.parametrize(
    ("times", "found"),
    [
        ([0.0, 0.0, 0.0009], True),
        ([0.0, 0.0, 0.001], True),
        ([0.0, 0.002, 0.001], False),
        ([0.0, 0.001], False),
        ([0.0, 0.0, 0.0, 0.1], False),  # these three are 3 % at most
        ([], False),
    ],
)
def test_times_below_the_resolution(times, found) -> None:
    assert too_short(times) == found


def _layers(first: list[dict], second: list[dict]) -> list[dict]:
    return [
        layer | {"times": times} for layer, times in zip(content()["layers"], (first, second), strict=True)
    ]


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        (_times((8, 0.0)), _times((8, 0.0), (4, 0.0), (2, 0.0)), True),
        # What has one container is the same at every width, whatever it takes.
        (_times((8, 0.05)), _times((8, 0.0), (4, 0.0005)), True),
        (_times((8, 0.0)), _times((8, 0.0), (4, 0.0), (2, 0.003)), False),
        (_times((8, 0.0)), _times((8, 0.0)), True),
        (_times((8, 0.5)), _times((8, 0.5)), False),
    ],
)
def test_a_table_whose_widths_cannot_be_told_apart(first, second, found) -> None:
    changes = {"layers": _layers(first, second)}
    assert LatencyTable(**content(**changes)).too_short is found
    assert not LatencyTable(**content(**changes, source=ALONE)).too_short
