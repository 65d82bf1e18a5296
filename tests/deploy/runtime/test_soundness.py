"""Files that the runtime would answer with wrong numbers are refused, not run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tfmpq.api.deploy import deploy
from tfmpq.deploy.conversion.specialize import specialize
from tfmpq.deploy.latency.measure import measure
from tfmpq.deploy.runtime.inspect_file import inspect_file
from tfmpq.deploy.runtime.interpreter import load, open_interpreter
from tfmpq.deploy.runtime.known_kernels import kernel_for
from tfmpq.deploy.runtime.probe_models import Case, all_cases, make_probe
from tfmpq.deploy.runtime.soundness import wrong_operators
from tfmpq.deploy.tflite.flatbuffer import read_model, write_model
from tfmpq.errors import TfmpqError
from tfmpq.graph.containers import Builtin


@pytest.mark.parametrize("case", all_cases(), ids=str)
def test_wrong_ones_are_found_and_right_ones_are_not(case: Case) -> None:
    found = list(wrong_operators(read_model(make_probe(case).content)))
    bits = 8 if case.cast else case.weight_bits
    wrong = kernel_for(case.operator, bits, case.activations, case.per_channel) == "wrong"
    assert bool(found) == wrong
    assert not found or found[0].startswith(f"layer y: {case.operator} with ")


def test_they_are_refused_everywhere(tmp_path: Path) -> None:
    case = Case("DEPTHWISE_CONV_2D", 4, "int16")
    path = tmp_path / "wrong.tflite"
    path.write_bytes(make_probe(case).content)
    works = (
        load,
        lambda source: specialize(source.read_bytes(), "litert", source),
        measure,
        lambda source: deploy(source, "digits", out=tmp_path / "out.tflite"),
    )
    for work in works:
        with pytest.raises(TfmpqError, match=r"wrong\.tflite, where it gives wrong numbers .*INT4 .*int16"):
            work(path)
    assert len(inspect_file(path).problems) == 1
    assert not (tmp_path / "out.tflite").exists()


def test_zero_points_of_packed_weights() -> None:
    model = read_model(make_probe(Case("DEPTHWISE_CONV_2D", 4, "int8")).content)
    grid = model.subgraphs[0].tensors[1].quantization
    grid.zeroPoint = grid.zeroPoint + 1
    (line,) = wrong_operators(read_model(write_model(model)))
    assert "zero points are not 0" in line


@pytest.mark.parametrize("operator", ["CONV_2D", "TRANSPOSE_CONV"])
def test_biases_that_are_left_out_are_not_read(operator: Builtin) -> None:
    model = read_model(make_probe(Case(operator, 8, "int16")).content)
    graph = model.subgraphs[0]
    (only,) = graph.operators
    only.builtinOptions.quantizedBiasType = schema.TensorType.FLOAT32
    graph.tensors.append(graph.tensors[int(only.inputs[-1])])
    assert list(wrong_operators(model))
    only.inputs = np.append(only.inputs[:-1], -1).astype(np.int32)
    assert not list(wrong_operators(model))


@pytest.mark.parametrize("operator", ["CONV_2D", "TRANSPOSE_CONV"])
def test_biases_that_are_read_as_wider_ones(operator: Builtin) -> None:
    probe = make_probe(Case(operator, 8, "int16"))
    model = read_model(probe.content)
    assert not list(wrong_operators(model))
    model.subgraphs[0].operators[0].builtinOptions.quantizedBiasType = schema.TensorType.FLOAT32
    (line,) = wrong_operators(model)
    assert "read as 64-bit" in line
    # The runtime at hand does that, and says nothing.
    interpreter = open_interpreter(write_model(model), "default")
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], probe.source)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert np.abs(found - probe.expected).max() > 100
