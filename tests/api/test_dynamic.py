"""Files of float activations by the verbs: without any data, with images, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import tfmpq
from tfmpq.cli.main import main
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.graph.file_request import FileRequest
from tfmpq.policy.policy import load_policy, save_policy, uniform_policy

from .. import composite_networks


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return composite_networks.build("fused")


def images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of patches that differ, with labels."""
    generator = np.random.default_rng(0)
    return generator.normal(size=(count, 16, 16, 3)).astype(np.float32), generator.integers(0, 5, count)


def test_a_transformer_is_written_without_any_data(model: keras.Model, tmp_path: Path) -> None:
    report = tfmpq.quantize(model, weight_bits=8, activation_bits="dynamic", out=tmp_path / "net.tflite")
    assert report.export.verification.passed
    assert report.export.verification.delegate_partitions == 1
    assert report.calibration == "none"
    assert report.export.fidelity is not None
    assert report.export.fidelity.outputs[0].snr_db > 30
    assert report.warnings == ()
    facts = json.dumps(report.to_json())
    assert "INT8 product" in facts


def test_images_make_the_file_nearer_to_the_float_model(model: keras.Model) -> None:
    ratios = {}
    for data in (None, images(32)):
        report = tfmpq.quantize(model, data, weight_bits=3, activation_bits="dynamic")
        assert report.export.fidelity is not None
        ratios[data is None] = report.quantized.reconstructed, report.export.fidelity.outputs[0].snr_db
    assert (ratios[True][0], ratios[False][0]) == (False, True)
    assert ratios[False][1] > ratios[True][1] + 1


def test_a_policy_says_that_activations_are_dynamic(model: keras.Model, tmp_path: Path) -> None:
    names = ["patch", "block_attention_qkv", "block_attention_out", "block_mlp_expand"]
    policy = uniform_policy("fused", [*names, "block_mlp_project", "head"], 4, "dynamic")
    save_policy(policy, tmp_path / "policy.yaml")
    assert "activations: dynamic" in (tmp_path / "policy.yaml").read_text()
    read = load_policy(tmp_path / "policy.yaml")
    assert read.dynamic
    report = tfmpq.quantize(model, policy=read)
    assert {layer.container_bits for layer in report.export.layers} == {4}
    assert report.quantized.bops == sum(4 * 8 * macs for macs in _macs())


def _macs() -> list[int]:
    width, tokens = composite_networks.WIDTH, composite_networks.SIDE**2
    patch, head = tokens * 48 * width, width * 5
    return [patch, tokens * 3 * width**2, tokens * width**2, 2 * tokens * 2 * width**2, head]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation_bits": "dynamic", "target": "tflm"}, "--target litert"),
        ({"activation_bits": "dynamic", "target": "tflite-runtime"}, "--target litert"),
        ({"activation_bits": "dynamic", "file": FileRequest(input_type="uint8")}, "input uint8"),
        ({"activation_bits": "dynamical"}, "from 2 to 16, or dynamic"),
        ({"activation_bits": 8}, "--activation-bits dynamic"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    model: keras.Model, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises((TfmpqError, UsageError), match=message) as caught:
        tfmpq.quantize(model, "random", weight_bits=8, **arguments)
    assert "\n" not in str(caught.value)


def test_integer_activations_need_images(model: keras.Model) -> None:
    with pytest.raises(UsageError, match="--activation-bits dynamic, which needs none"):
        tfmpq.quantize(model, weight_bits=8)


def test_the_command_line_writes_a_model_without_data(
    model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network = composite_networks.lowered("fused")
    network.save("net.keras")
    arguments = "export net.keras --tflite --weight-bits 4 --activation-bits dynamic --json"
    found = CliRunner().invoke(main, arguments.split())
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["verification"]["passed"]
    assert (tmp_path / "net.litert.tflite").exists()


def test_a_file_is_verified_against_the_model_that_it_was_made_of(model: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    tfmpq.quantize(model, weight_bits=4, activation_bits="dynamic", out=path)
    found = tfmpq.verify(path, model, limit=64)
    assert found.passed, found.failures
    assert found.delegate_partitions == 1
    assert "the model's class on" in found.notes[0]
    kernels = {layer.name: layer.kernel for layer in found.layers if layer.container}
    assert len(kernels) == 6
    assert all("F32, QC4W" in str(kernel) for kernel in kernels.values())
    other = composite_networks.build("fused")
    for weight in other.weights:
        weight.assign(np.random.default_rng(3).normal(size=weight.shape))
    assert "are not the model's" in tfmpq.verify(path, other, limit=64).failures[0]
    with pytest.raises(TfmpqError, match="without the layer"):
        tfmpq.verify(path, composite_networks.build("convnext"), limit=64)


def test_a_file_is_evaluated_inspected_and_measured(model: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    tfmpq.quantize(model, weight_bits=4, activation_bits="dynamic", out=path)
    scored = tfmpq.evaluate(path, images(40))
    assert scored.count == 40
    facts = tfmpq.inspect(path).facts
    assert facts["metadata"]["activations"] == "dynamic"
    broken, labels = images(8)
    broken[5, 0, 0, 0] = np.nan
    with pytest.raises(UsageError, match="NaN or infinity"):
        tfmpq.evaluate(path, (broken, labels))
