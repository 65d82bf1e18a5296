"""The matrix of the runtime at hand, and what is said where it is not as counted on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tfmpq.deploy import probe as probing
from tfmpq.deploy.probe import ProbedCase, ProbeReport, contradiction, probe
from tfmpq.deploy.probe_models import all_cases, make_probe


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> ProbeReport:
    out = tmp_path_factory.mktemp("probe") / "matrix.json"
    report = probe(out)
    assert json.loads(out.read_text()) == json.loads(json.dumps(report.to_json()))
    return report


def test_every_case_is_there_under_both_kernels(report: ProbeReport) -> None:
    assert len(report.cases) == 2 * len(all_cases()) == 2 * (3 * 3 * 3 * 2 + 5)
    assert sum(report.counts.values()) == len(report.cases)


def test_what_exports_rely_on_holds_on_this_runtime(report: ProbeReport) -> None:
    relied_on = [case for case in report.cases if case.activations == "int8" and case.per_channel]
    assert all(case.answer in ("exact", "off by one", "refused") for case in relied_on)
    fast = [case for case in relied_on if case.expected == "delegated"]
    assert len(fast) == 6
    assert all(case.delegated and case.answer == "exact" for case in fast)


def test_runtime_is_the_one_that_was_measured(report: ProbeReport) -> None:
    if report.runtime["version"].startswith("2.3."):
        assert report.contradictions == ()


def test_conv_answer_is_what_scipy_computes() -> None:
    """An independent implementation agrees with the answers that the runtime is compared with."""
    from scipy.signal import correlate2d

    from tfmpq.deploy.flatbuffer import read_model
    from tfmpq.deploy.layout import stored_layers

    case = next(case for case in all_cases() if (case.operator, case.weight_bits) == ("CONV_2D", 4))
    model = make_probe(case)
    (layer,) = stored_layers(read_model(model.content))
    assert layer.integers is not None
    assert layer.bias is not None
    channel = 5
    total = sum(
        correlate2d(
            model.source[0, :, :, c].astype(int), layer.integers[channel, :, :, c].astype(int), "valid"
        )
        for c in range(model.source.shape[-1])
    )
    graph = read_model(model.content).subgraphs[0]
    step, out_step = (float(graph.tensors[i].quantization.scale[0]) for i in (0, len(graph.tensors) - 1))
    real = (total + layer.bias[channel]) * step * float(layer.scales[channel]) / out_step
    np.testing.assert_allclose(np.clip(real, -128, 127), model.expected[0, :, :, channel], rtol=1e-9)


FINE = ProbedCase("CONV_2D", 8, "int8", True, None, "default", "exact", 0.0, True, 0.01, "delegated")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({}, None),
        ({"answer": "off by one", "off_share": 1e-4}, None),
        ({"answer": "off by one", "off_share": 0.3}, "though exactness is counted on"),
        ({"delegated": False}, "left to slow kernels"),
        ({"answer": "wrong"}, "is counted on, but is wrong"),
        ({"answer": "crashed", "delegated": None}, "is counted on, but is crashed"),
        ({"expected": "wrong"}, "it could be used"),
        ({"expected": "wrong", "answer": "wrong"}, None),
        ({"expected": "wrong", "answer": "refused"}, None),
        ({"expected": "refused", "answer": "wrong"}, "wrong numbers where an error is known"),
        ({"expected": "builtin", "answer": "off by one", "off_share": 0.3, "delegated": False}, None),
    ],
)
def test_contradictions_are_named(change, line) -> None:
    found = contradiction(replace(FINE, **change))
    assert found is None if line is None else found is not None and line in found


def test_a_crash_is_a_row(monkeypatch) -> None:
    monkeypatch.setattr(probing, "all_cases", lambda: all_cases()[:1])
    monkeypatch.setattr(probing.Sandbox, "call", lambda self, function, *rest: _crash())
    report = probe()
    assert [case.answer for case in report.cases] == ["crashed", "crashed"]
    assert len(report.contradictions) == 2


def _crash() -> None:
    from tfmpq.errors import TfmpqError

    raise TfmpqError("The runtime has to bear the file. Received: x, on which it crashed with SIGSEGV.")
