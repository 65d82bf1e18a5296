"""The matrix of the runtime at hand, and what is said where it is not as counted on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import signal

from tfmpq.deploy.runtime import probe as probing
from tfmpq.deploy.runtime.convolution_models import unfolded_cases
from tfmpq.deploy.runtime.interpreter import open_interpreter
from tfmpq.deploy.runtime.known_kernels import Activations
from tfmpq.deploy.runtime.probe import ProbedCase, ProbeReport, contradiction, probe
from tfmpq.deploy.runtime.probe_models import STRIDE, Case, all_cases, make_probe
from tfmpq.deploy.tflite.flatbuffer import TYPE_OF_BITS, contents, quantization, read_model, write_model
from tfmpq.deploy.tflite.layout import stored_layers
from tfmpq.errors import TfmpqError
from tfmpq.graph.containers import Builtin


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> ProbeReport:
    out = tmp_path_factory.mktemp("probe") / "matrix.json"
    report = probe(out)
    assert json.loads(out.read_text()) == json.loads(json.dumps(report.to_json()))
    return report


def test_every_case_is_there_under_both_kernels(report: ProbeReport) -> None:
    assert len(report.cases) == 2 * (len(all_cases()) + len(unfolded_cases()))
    assert (len(all_cases()), len(unfolded_cases())) == (4 * 3 * 3 * 2 + 3 + 4, 3 * 2 * 3)
    assert sum(report.counts.values()) == len(report.cases)


def test_what_exports_rely_on_holds_on_this_runtime(report: ProbeReport) -> None:
    relied_on = [case for case in report.cases if case.activations == "int8" and case.per_channel]
    assert all(case.answer in ("exact", "off by one", "refused") for case in relied_on)
    fast = [case for case in relied_on if case.expected == "delegated"]
    assert len(fast) == 7 + len(unfolded_cases())
    assert all(case.delegated and case.answer == "exact" for case in fast)


def test_runtime_is_the_one_that_was_measured(report: ProbeReport) -> None:
    if report.runtime["version"].startswith("2.3."):
        assert report.contradictions == ()


@pytest.mark.parametrize("operator", ["CONV_2D", "TRANSPOSE_CONV"])
@pytest.mark.parametrize(("activations", "top"), [("int8", 127), ("int16", 32767)])
def test_answer_is_what_scipy_computes(operator: Builtin, activations: Activations, top: int) -> None:
    """An independent implementation agrees with the answers that the runtime is compared with."""
    model = make_probe(Case(operator, 4, activations))
    graph = read_model(model.content)
    (layer,) = stored_layers(graph)
    assert layer.integers is not None
    assert layer.bias is not None
    channel = 5
    total = sum(
        _plane(operator, model.source[0, :, :, c].astype(int), layer.integers[channel, :, :, c].astype(int))
        for c in range(model.source.shape[-1])
    )
    tensors = graph.subgraphs[0].tensors
    step, out_step = (float(tensors[i].quantization.scale[0]) for i in (0, len(tensors) - 1))
    real = (total + layer.bias[channel]) * step * float(layer.scales[channel]) / out_step
    np.testing.assert_allclose(np.clip(real, -top - 1, top), model.expected[0, :, :, channel], rtol=1e-9)
    assert tuple(tensors[-1].shape) == model.expected.shape


def _plane(operator: Builtin, image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """One channel of the input with its part of the kernel; a transposed one has zeros between pixels."""
    if operator == "CONV_2D":
        return signal.correlate2d(image, kernel, "valid")
    spread = np.zeros([(side - 1) * STRIDE + 1 for side in image.shape], int)
    spread[::STRIDE, ::STRIDE] = image
    return signal.convolve2d(spread, kernel, "full")


def test_what_the_operators_of_a_transposed_convolution_read() -> None:
    """The shape of the output comes first; weights of few bits are widened as an exporter writes it."""
    for case in (case for case in all_cases() if case.operator == "TRANSPOSE_CONV"):
        model = read_model(make_probe(case).content)
        graph = model.subgraphs[0]
        *casts, operator = graph.operators
        assert len(casts) == (2 if case.cast else 0)
        shape, weights, source, _ = (graph.tensors[index] for index in operator.inputs)
        answer = graph.tensors[operator.outputs[0]]
        assert contents(model, shape).view(np.int32).tolist() == answer.shape.tolist()
        assert int(operator.inputs[2]) == int(graph.inputs[0])
        assert source.type == answer.type
        assert weights.type == TYPE_OF_BITS[8 if case.cast else case.weight_bits]
        if case.cast:
            (stored,) = stored_layers(model)
            assert (stored.container_bits, stored.decode) == (case.weight_bits, "cast")


def test_biases_of_more_scales_than_the_weights_make_the_delegate_fail() -> None:
    """For transposed convolutions; one scale for both is exact, as the matrix says."""
    model = read_model(make_probe(Case("TRANSPOSE_CONV", 8, "int8", per_channel=False)).content)
    graph = model.subgraphs[0]
    bias = graph.tensors[graph.operators[0].inputs[3]]
    bias.quantization = quantization(np.repeat(bias.quantization.scale, bias.shape[0]))
    with pytest.raises(TfmpqError, match="failed to delegate TRANSPOSE_CONV"):
        open_interpreter(write_model(model), "default")


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
    monkeypatch.setattr(probing, "unfolded_cases", tuple)
    monkeypatch.setattr(probing.Sandbox, "call", lambda self, function, *rest: _crash())
    report = probe()
    assert [case.answer for case in report.cases] == ["crashed", "crashed"]
    assert len(report.contradictions) == 2


def _crash() -> None:
    raise TfmpqError("The runtime has to bear the file. Received: x, on which it crashed with SIGSEGV.")
