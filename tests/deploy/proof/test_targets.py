"""Every target through the proof, and on the runtimes that they are for, where these are installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tfmpq.deploy.conversion.topology import deployable
from tfmpq.deploy.export import ExportReport, export_tflite
from tfmpq.deploy.proof.verify import verify
from tfmpq.deploy.runtime.interpreter import load
from tfmpq.graph.containers import DELEGATED, TARGETS, container_for
from tfmpq.graph.frozen import FrozenModel

NEW = [target for target in TARGETS if target not in ("litert", "storage")]
"""The other two are exported at every width in test_operators."""


@pytest.fixture(scope="module", params=[(bits, target) for bits in (2, 4) for target in NEW], ids=str)
def exported(request, make_every_layer, images, tmp_path_factory) -> tuple[FrozenModel, ExportReport]:
    bits, target = request.param
    frozen = make_every_layer(bits)
    path = tmp_path_factory.mktemp("targets") / "net.tflite"
    return frozen, export_tflite(frozen, path, target, images=images)


def test_the_proof_is_passed_under_both_sets_of_kernels(exported) -> None:
    frozen, report = exported
    proof = report.verification
    assert proof.passed
    assert {(check.kernels, check.form) for check in proof.operators} == {
        ("xnnpack", report.target if report.target in DELEGATED else "litert"),
        ("builtin", report.target),
    }
    names = [layer.name for layer in deployable(frozen).layers[1:]]
    for kernels in ("xnnpack", "builtin"):
        rows = [check for check in proof.by_layer if check.kernels == kernels]
        assert [check.name for check in rows] == names
        kinds = [check for check in proof.operators if check.kernels == kernels]
        assert sum(row.off_by_one for row in rows) == sum(kind.off_by_one for kind in kinds)
    assert "by_layer" not in proof.to_json()


def test_layers_are_stored_as_the_table_says(exported) -> None:
    frozen, report = exported
    for layer, written in zip(frozen.weighted, report.layers, strict=True):
        rule = container_for(layer.operator, layer.weights.bits, layer.fan_in, report.target)
        assert (written.container_bits, written.reason) == (rule.bits, rule.reason)


def test_a_file_for_another_target_is_not_the_one_that_was_asked_for(exported) -> None:
    frozen, report = exported
    content = Path(report.path).read_bytes()
    assert not verify(frozen, content, "storage").passed


def own_kernels(report: ExportReport, images: np.ndarray) -> np.ndarray:
    return load(Path(report.path).read_bytes(), kernels="builtin").run(images)


def test_microcontroller_runtime_agrees(exported, images) -> None:
    runtime = pytest.importorskip("tflite_micro", reason="tflite-micro has no wheel for this machine").runtime
    frozen, report = exported
    if report.target != "tflm":
        pytest.skip("for tflm only")
    content = Path(report.path).read_bytes()
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=4_000_000)
    for image, expected in zip(images, own_kernels(report, images), strict=True):
        interpreter.set_input(frozen.layers[0].grid.quantize(image[None]), 0)
        interpreter.invoke()
        logits = frozen.layers[-1].grid.dequantize(interpreter.get_output(0))[0]
        assert np.abs(logits - expected).max() <= 2.01 * frozen.layers[-1].grid.scale


def test_older_runtime_agrees(exported, images) -> None:
    tflite = pytest.importorskip("tflite_runtime.interpreter", reason="tflite-runtime is not installed")
    frozen, report = exported
    if report.target != "tflite-runtime":
        pytest.skip("for tflite-runtime only")
    interpreter = tflite.Interpreter(report.path)
    interpreter.allocate_tensors()
    entry, leaving = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    for image, expected in zip(images, own_kernels(report, images), strict=True):
        interpreter.set_tensor(entry["index"], frozen.layers[0].grid.quantize(image[None]))
        interpreter.invoke()
        logits = frozen.layers[-1].grid.dequantize(interpreter.get_tensor(leaving["index"]))[0]
        assert np.abs(logits - expected).max() <= 2.01 * frozen.layers[-1].grid.scale
