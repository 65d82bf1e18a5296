"""Faults planted into a written file are found, named, and not left behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tfmpq.deploy import export
from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.proof import assembly
from tfmpq.deploy.proof.verify import verify
from tfmpq.deploy.tflite.flatbuffer import builtin_name, contents, quantization, read_model, write_model
from tfmpq.deploy.tflite.layout import tensor_name
from tfmpq.errors import TfmpqError, UsageError

Fault = Callable[[Any], None]


def operator_of(model: Any, layer: str) -> Any:
    graph = model.subgraphs[0]
    return next(op for op in graph.operators if tensor_name(graph.tensors[op.outputs[0]]) == layer)


def tensor_of(model: Any, layer: str, slot: int) -> Any:
    return model.subgraphs[0].tensors[operator_of(model, layer).inputs[slot]]


def change_buffer(model: Any, tensor: Any, position: int, value: int) -> None:
    data = contents(model, tensor).copy()
    data[position] ^= value
    model.buffers[tensor.buffer].data = data


def flip_integer(model: Any) -> None:
    change_buffer(model, tensor_of(model, "conv", 1), 5, 0x01)


def flip_packed_integer(model: Any) -> None:
    change_buffer(model, tensor_of(model, "pointwise", 1), 2, 0x30)


def change_scale(model: Any) -> None:
    grid = tensor_of(model, "logits", 1).quantization
    grid.scale = np.nextafter(grid.scale, np.float32(1.0), dtype=np.float32)


def change_bias(model: Any) -> None:
    change_buffer(model, tensor_of(model, "depthwise", 2), 4 * 3, 0x01)


def change_bias_scale(model: Any) -> None:
    tensor_of(model, "depthwise", 2).quantization.scale = np.full(8, 0.5, np.float32)


def change_activation_scale(model: Any) -> None:
    graph = model.subgraphs[0]
    graph.tensors[operator_of(model, "pointwise").outputs[0]].quantization = quantization(0.05700001, 0)


def clamp_at_one(model: Any) -> None:
    operator_of(
        model, "conv"
    ).builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.RELU_N1_TO_1


def dilate(model: Any) -> None:
    operator_of(model, "depthwise").builtinOptions.dilationHFactor = 2
    operator_of(model, "depthwise").builtinOptions.dilationWFactor = 2


def reroute(model: Any) -> None:
    graph = model.subgraphs[0]
    operator = operator_of(model, "pointwise")
    source = next(i for i, t in enumerate(graph.tensors) if t.name == b"conv")
    operator.inputs = np.array([source, *operator.inputs[1:]], np.int32)


def rename(model: Any) -> None:
    tensor_of(model, "conv", 1).name = b"other/weights"


FAULTS: list[tuple[Fault, str]] = [
    (flip_integer, r"layer conv: integer \[0, 0, 1, 2\] is -?\d+, not -?\d+ \(1 differ\)"),
    (flip_packed_integer, r"layer pointwise: integer \[0, 5\] is"),
    (change_scale, r"layer logits: scale \[0\] is .* \(4 differ\)"),
    (change_bias, r"layer depthwise: bias \[3\] is"),
    (change_bias_scale, r"layer depthwise: bias scale \[0\] is 0\.5"),
    (change_activation_scale, r"the output of layer pointwise has scale"),
    (clamp_at_one, r"layer conv \(conv2d\) under xnnpack kernels: of \d+ elements"),
    (dilate, r"layer depthwise \(depthwise_conv2d\) under xnnpack"),
    (reroute, r"layer pointwise \(conv2d\) under xnnpack"),
    (rename, r"layer conv is there 0 times"),
]


@pytest.fixture(scope="module")
def built(make_small) -> bytes:
    return build_tflite(make_small(4), "litert")


@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_fault_is_named_and_nothing_is_left(fault, message, built, make_small, tmp_path, monkeypatch) -> None:
    model = read_model(built)
    fault(model)
    monkeypatch.setattr(assembly, "build_tflite", lambda *given: write_model(model))
    path = tmp_path / "net.tflite"
    path.write_bytes(b"earlier")
    with pytest.raises(TfmpqError, match=message) as caught:
        export.export_tflite(make_small(4), path)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["net.tflite"]
    assert path.read_bytes() == b"earlier"


def test_other_network_is_refused(built, make_small) -> None:
    frozen = make_small(4)
    layers = [replace(layer, grid=replace(layer.grid, scale=2 * layer.grid.scale)) for layer in frozen.layers]
    verification = verify(replace(frozen, layers=tuple(layers)), built, "litert")
    assert not verification.passed
    assert verification.to_json()["passed"] is False


def test_float_operator_is_refused(make_small) -> None:
    from tfmpq.deploy.conversion.topology import deployable
    from tfmpq.deploy.proof.readback import mismatches

    frozen = deployable(make_small(2))
    model = read_model(build_tflite(frozen, "storage"))
    assert not list(mismatches(frozen, model, "storage"))
    model.subgraphs[0].tensors[-1].type = 0
    lines = list(mismatches(frozen, model, "storage"))
    assert any("computes with FLOAT32" in line for line in lines), [
        builtin_name(model, operator) for operator in model.subgraphs[0].operators
    ]


def test_agreement_with_the_trained_model(make_small, tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(0, 1, (40, 8, 8, 3)).astype(np.float32)
    report = export.export_tflite(make_small(4), tmp_path / "net.tflite")
    from tfmpq.deploy.runtime.interpreter import load

    logits = load(tmp_path / "net.tflite").run(images)
    report = export.export_tflite(make_small(4), tmp_path / "net.tflite", agreement=(images, logits))
    assert report.agreement is not None
    assert report.to_json()["agreement"] == {"images": 40, "top1": 1.0, "unspecialized_top1": None}
    with pytest.raises(TfmpqError, match="at least 95% of the images"):
        export.export_tflite(make_small(4), tmp_path / "other.tflite", agreement=(images, -logits))
    assert not (tmp_path / "other.tflite").exists()
    stored = export.export_tflite(
        make_small(4), tmp_path / "net.storage.tflite", "storage", agreement=(images, logits)
    ).agreement
    assert stored is not None
    assert stored.top1 == 1.0
    assert stored.unspecialized_top1 is not None
    assert 0.8 < stored.unspecialized_top1 <= 1.0


def test_unknown_target(make_small, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Received: fast"):
        export.export_tflite(make_small(4), tmp_path / "net.tflite", "fast")  # type: ignore[arg-type]


def test_unwritable_folder(make_small, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TfmpqError, match=r"Received: .*file/net\.tflite \("):
        export.export_tflite(make_small(4), tmp_path / "file" / "net.tflite")


def test_folder_is_refused_before_any_work(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(assembly, "build_tflite", None)
    with pytest.raises(UsageError, match="which is a folder"):
        export.export_tflite(None, tmp_path)  # type: ignore[arg-type]
