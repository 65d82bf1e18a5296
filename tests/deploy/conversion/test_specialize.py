"""One network in every form: same integers, same answers, whatever form it is rewritten from."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tfmpq.api.specialize import specialize as specialize_file
from tfmpq.deploy.conversion.specialize import specialize
from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.runtime.interpreter import load
from tfmpq.deploy.tflite.flatbuffer import builtin_name, read_model, write_model
from tfmpq.deploy.tflite.layout import stored_layers
from tfmpq.deploy.tflite.metadata import read_metadata, write_record
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.graph.containers import SPECIALIZED
from tfmpq.graph.forms import FormRequest


@pytest.fixture(scope="module", params=[2, 3, 8])
def forms(request, make_every_layer) -> dict[str, bytes]:
    frozen = make_every_layer(request.param)
    return {target: build_tflite(frozen, target) for target in ("storage", *SPECIALIZED)}


@pytest.mark.parametrize("target", SPECIALIZED)
def test_rewritten_file_holds_what_an_export_for_the_target_holds(forms, target) -> None:
    for source in forms.values():
        rewritten = specialize(source, target)
        held, direct = (stored_layers(read_model(content)) for content in (rewritten, forms[target]))
        for ours, theirs in zip(held, direct, strict=True):
            for what in ("name", "builtin", "operator", "shape", "container_bits", "decode", "stored_bytes"):
                assert getattr(ours, what) == getattr(theirs, what)
            for what in ("integers", "scales", "bias", "bias_scales"):
                np.testing.assert_array_equal(getattr(ours, what), getattr(theirs, what))
        names = {
            builtin_name(read_model(rewritten), op) for op in read_model(rewritten).subgraphs[0].operators
        }
        assert "CAST" not in names
        assert read_metadata(rewritten) == {"preprocessing": "unit", "classes": 10}


def test_every_form_computes_the_same(forms, images) -> None:
    expected = load(forms["litert"]).run(images)
    for target in ("litert", "litert-int8", "tflite-runtime"):
        np.testing.assert_array_equal(load(specialize(forms["storage"], target)).run(images), expected)
        np.testing.assert_array_equal(load(forms[target]).run(images), expected)
    builtin = load(forms["tflm"], kernels="builtin").run(images)
    np.testing.assert_array_equal(
        load(specialize(forms["storage"], "tflm"), kernels="builtin").run(images), builtin
    )


def test_form_comes_back_as_it_is(forms) -> None:
    for target in SPECIALIZED:
        assert specialize(forms[target], target) == forms[target]


def test_file_is_read_back_and_compared(make_every_layer, tmp_path, monkeypatch) -> None:
    path, out = tmp_path / "stored.tflite", tmp_path / "fast.tflite"
    path.write_bytes(build_tflite(make_every_layer(2), "storage"))
    forms = FormRequest("balanced", "x86-vnni")  # where no form but that of the rule table pays
    report = json.loads(json.dumps(specialize_file(path, out, forms=forms).to_json()))
    assert (report["source_bytes"], report["bytes"]) == (path.stat().st_size, out.stat().st_size)
    frozen = make_every_layer(2)
    assert report["layers"] >= len(frozen.weighted)
    assert report["integers"] >= sum(layer.weights.integers.size for layer in frozen.weighted)
    assert report["rewritten"] == 8  # seven convolutions, and the 1x1 one from INT2 to INT4

    def damage(content: bytes, target: str, *given: object) -> bytes:
        model = read_model(specialize(content, target))
        layer = next(op for op in model.subgraphs[0].operators if builtin_name(model, op) == "CONV_2D")
        buffer = model.buffers[model.subgraphs[0].tensors[layer.inputs[1]].buffer]
        buffer.data = buffer.data ^ np.uint8(1)
        return write_model(model)

    monkeypatch.setattr("tfmpq.api.specialize.rewrite", damage)
    before = out.read_bytes()
    with pytest.raises(TfmpqError, match="integers of layer conv differ"):
        specialize_file(path, out)
    assert out.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["fast.tflite", "stored.tflite"]


def test_storage_is_no_target(forms) -> None:
    with pytest.raises(UsageError, match="Received: storage"):
        specialize(forms["litert"], "storage")


def test_record_that_promises_fewer_bits_than_there_are(make_small) -> None:
    model = read_model(build_tflite(make_small(8), "litert"))
    write_record(model, {}, {"pointwise": 4})
    with pytest.raises(TfmpqError, match="layer pointwise, whose integers"):
        specialize(write_model(model), "tflm")


def test_files_of_others_keep_their_operators(make_small) -> None:
    model = read_model(build_tflite(make_small(8), "tflm"))
    model.metadata = None
    content = write_model(model)
    assert specialize(content, "litert") == content
    model.subgraphs[0].tensors[0].type = schema.TensorType.INT16
    assert specialize(write_model(model), "litert") == write_model(model)


def test_no_tensorflow_no_keras_and_fast(tmp_path) -> None:
    """A device has LiteRT and NumPy; ten million weights take well under a second."""
    script = """
import sys, time
from ai_edge_litert import schema_py_generated as schema
import numpy as np
from tfmpq.deploy.tflite import flatbuffer as fb
from tfmpq.deploy.conversion.specialize import specialize
import tfmpq.api.specialize
model = schema.ModelT()
model.version, model.operatorCodes, model.buffers = 3, [], [schema.BufferT()]
graph = schema.SubGraphT()
graph.tensors, graph.operators, model.subgraphs = [], [], [graph]
grid = fb.quantization(0.1)
source = fb.add_tensor(model, "x", (1, 4, 4, 512), schema.TensorType.INT8, grid)
graph.inputs = np.array([source], np.int32)
generator = np.random.default_rng(0)
for number in range(9):
    scales = fb.quantization(np.full(512, 0.01, np.float32))
    shape = (512, 3, 3, 512)
    packed = generator.integers(0, 256, 512 * 9 * 512 // 2, np.uint8)  # equal contents are written once
    weights = fb.add_tensor(model, f"c{number}/weights", shape, schema.TensorType.INT4, scales, packed)
    bias = fb.add_tensor(model, "", (512,), schema.TensorType.INT32, scales, np.zeros(512, np.int32))
    target = fb.add_tensor(model, f"c{number}", (1, 4, 4, 512), schema.TensorType.INT8, grid)
    operator = schema.OperatorT()
    operator.inputs = np.array([source, weights, bias], np.int32)
    operator.outputs = np.array([target], np.int32)
    operator.opcodeIndex = fb.operator_code(model, "CONV_2D", 7)
    operator.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
    operator.builtinOptions = schema.Conv2DOptionsT()
    operator.builtinOptions.strideH = operator.builtinOptions.strideW = 1
    graph.operators.append(operator)
    source = target
graph.outputs = np.array([source], np.int32)
content = fb.write_model(model)
seconds = []
for _ in range(3):
    begin = time.process_time()
    fast = specialize(content)
    seconds.append(time.process_time() - begin)
print(sorted({"tensorflow", "keras", "tf_keras", "pydantic", "scipy"} & set(sys.modules)), len(content),
      len(fast), min(seconds))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    heavy, *numbers = done.stdout.strip().split("] ")
    assert heavy == "["
    stored, written, seconds = (float(number) for number in numbers[0].split())
    assert stored > 10e6
    assert written > 20e6
    assert seconds < 1.0 * stored / 10e6
