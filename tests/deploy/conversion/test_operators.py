"""Every kind of layer at every weight width through the runtime, in both forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tfmpq.deploy.conversion.topology import deployable, output_shapes
from tfmpq.deploy.export import ExportReport, export_tflite
from tfmpq.deploy.proof.reference import expected_value
from tfmpq.deploy.runtime.interpreter import execution_plan, load
from tfmpq.deploy.tflite.flatbuffer import builtin_name, read_model
from tfmpq.deploy.tflite.layout import stored_layers
from tfmpq.graph.containers import container_for
from tfmpq.graph.frozen import FrozenModel

CASES = [(2, 8), (3, 8), (4, 8), (8, 8), (5, 2), (6, 4), (7, 7)]


def compute(frozen: FrozenModel, image: np.ndarray) -> np.ndarray:
    """The whole network in float64, from its own rounded values."""
    codes = {frozen.layers[0].name: frozen.layers[0].grid.quantize(image[None])}
    for layer in frozen.layers[1:]:
        value = expected_value(frozen, layer, [codes[name] for name in layer.inputs])
        codes[layer.name] = np.round(value).astype(np.int8)
    return codes[frozen.layers[-1].name]


@pytest.fixture(
    scope="module", params=[(*case, target) for case in CASES for target in ("litert", "storage")], ids=str
)
def exported(request, make_every_layer, images, tmp_path_factory) -> tuple[FrozenModel, ExportReport]:
    bits, activation_bits, target = request.param
    frozen = make_every_layer(bits, activation_bits)
    path = tmp_path_factory.mktemp("export") / "net.tflite"
    return frozen, export_tflite(frozen, path, target, images=images)


def test_runtime_computes_what_was_frozen(exported, images) -> None:
    frozen, report = exported
    assert report.verification.passed
    fast = [check for check in report.verification.operators if check.kernels == "xnnpack"]
    assert {check.kind for check in fast} == {layer.kind for layer in deployable(frozen).layers} - {"input"}
    assert sum(check.off_by_one for check in fast) <= 1
    assert all(check.off_by_more == 0 for check in report.verification.operators)


def test_fast_form_computes_the_whole_network(exported, images) -> None:
    frozen, report = exported
    if report.target == "litert":
        logits = load(report.path).run(images)
        grid = frozen.layers[-1].grid
        expected = [grid.dequantize(compute(frozen, image))[0] for image in images]
        assert np.abs(logits - expected).max() <= 1.01 * grid.scale
        assert np.mean(logits != expected) < 0.1


def test_containers_are_those_of_the_rule_table(exported) -> None:
    frozen, report = exported
    with open(report.path, "rb") as file:
        held = {layer.name: layer for layer in stored_layers(read_model(file.read()))}
    assert len(report.layers) == len(frozen.weighted)
    for layer, written in zip(frozen.weighted, report.layers, strict=True):
        rule = container_for(layer.operator, layer.weights.bits, layer.fan_in, report.target)
        stored = held[layer.name]
        assert (stored.builtin, stored.container_bits, stored.decode) == (
            rule.builtin,
            rule.bits,
            rule.decode,
        )
        assert written.bytes == stored.stored_bytes
        assert written.container_bits == stored.container_bits
    assert report.size == sum(layer.bytes for layer in report.layers)


def test_fast_form_is_one_partition(exported) -> None:
    _, report = exported
    if report.target == "litert":
        with open(report.path, "rb") as file:
            plan = execution_plan(file.read())
        assert (plan.partitions, plan.complete) == (1, True)
    assert report.verification.delegate_partitions == 1


def test_shapes_are_those_of_the_file(exported) -> None:
    frozen, report = exported
    with open(report.path, "rb") as file:
        graph = read_model(file.read()).subgraphs[0]
    held = {tensor.name: tuple(tensor.shape)[1:] for tensor in graph.tensors if tensor.name}
    shapes = output_shapes(frozen)
    for layer in deployable(frozen).layers:
        assert held[layer.name.encode()] == shapes[layer.name]


def test_report_is_json(exported) -> None:
    import json

    _, report = exported
    document: dict[str, Any] = json.loads(json.dumps(report.to_json()))
    assert {"path", "bytes", "layers", "size", "verification"} <= set(document)
    fields = {"name", "operator", "weight_bits", "container", "bytes", "reason", "scratch"}
    assert set(document["layers"][0]) == fields
    assert document["verification"]["passed"] is True


def test_int2_convolutions_are_widened_by_casts(make_small, tmp_path) -> None:
    report = export_tflite(make_small(2), tmp_path / "net.tflite", "storage")
    model = read_model((tmp_path / "net.tflite").read_bytes())
    names = [builtin_name(model, operator) for operator in model.subgraphs[0].operators]
    assert names == [
        *("CAST", "CAST", "CONV_2D"),
        *("CAST", "CAST", "DEPTHWISE_CONV_2D"),
        *("FULLY_CONNECTED", "MEAN", "FULLY_CONNECTED"),
    ]
    assert [layer.container_bits for layer in report.layers] == [2, 2, 2, 2]


@pytest.mark.parametrize("keepdims", [True, False])
def test_global_average_of_one_pixel(builder, make_grid, tmp_path, keepdims) -> None:
    net = builder(4)
    net.add("image", "input", (), make_grid(0.02))
    net.weighted("conv", "conv2d", "image", (3, 3, 3, 8), make_grid(0.03), strides=(3, 3), padding="valid")
    net.add("global", "global_average_pooling2d", ("conv",), make_grid(0.0217), keepdims=keepdims)
    if keepdims:
        net.add("flat", "reshape", ("global",), make_grid(0.0217), shape=(8,))
    net.weighted("logits", "dense", "flat" if keepdims else "global", (8, 4), make_grid(0.05))
    report = export_tflite(net.model((3, 3, 3)), tmp_path / "net.tflite")
    assert report.verification.passed
