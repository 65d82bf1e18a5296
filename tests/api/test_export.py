"""`tfmpq export MODEL` without a run: random images, several outputs, sequences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from click.testing import CliRunner, Result
from keras import layers

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command line in an empty folder."""
    from tfmpq.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TFMPQ_DATA_DIR", raising=False)

    def run(line: str) -> Result:
        return CliRunner().invoke(main, line.split(), prog_name="tfmpq")

    return run


@pytest.fixture
def facts(invoke) -> Any:
    """Runs a command line that must succeed, and parses what it prints."""

    def run(line: str) -> dict[str, Any]:
        result = invoke(f"{line} --json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    return run


def save(name: str, shape: tuple[int, ...], build: Any) -> None:
    keras.utils.set_random_seed(1)
    source = keras.Input(shape, name="source")
    keras.Model(source, build(source), name=name).save(f"{name}.keras")


def heads(x: Any) -> Any:
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="features")(x)
    mask = layers.Conv2D(1, 1, activation="sigmoid", name="mask")(x)
    return [mask, layers.Dense(3, activation="softmax", name="classes")(layers.GlobalAveragePooling2D()(x))]


def test_random_images_say_that_accuracy_means_nothing(invoke, facts) -> None:
    save("heads", (12, 12, 3), heads)
    line = "export heads.keras --tflite --calibrate random --weight-bits 4 --out heads.tflite"
    found = facts(line)
    assert found["calibration"] == "random"
    assert "random images" in found["warnings"][0]
    assert "mean nothing" in found["warnings"][0]
    assert found["quantized"]["top1"] is None
    assert found["quantized"]["count"] == 0
    assert found["quantized"]["outputs"] == []
    assert found["verification"]["passed"]
    fidelity = found["fidelity"]
    assert (fidelity["reference"], fidelity["images"]) == ("float model", 256)
    assert [output["name"] for output in fidelity["outputs"]] == ["mask_activation", "classes"]
    assert min(output["snr_db"] for output in fidelity["outputs"]) > 6
    assert [output["float_top1"] for output in fidelity["outputs"]] == [None, None]
    assert facts("inspect heads.tflite")["metadata"]["fidelity"] == fidelity
    text = invoke(line)
    assert "dB" in text.stdout
    assert "mean nothing" in " ".join(text.stdout.split())
    inspected = facts("inspect heads.keras")
    assert inspected["outputs"] == [[12, 12, 1], [3]]
    assert inspected["supported"]


def test_several_outputs_are_exported_but_not_trained(invoke, facts) -> None:
    save("heads", (8, 8, 3), heads)
    found = facts("export heads.keras --tflite --calibrate digits --weight-bits 8 --out a.tflite")
    assert found["verification"]["passed"]
    assert found["quantized"]["reconstructed"]
    assert found["quantized"]["top1"] is None
    assert found["agreement"] is None
    assert found["warnings"] == []
    assert [row["name"] for row in found["quantized"]["outputs"]] == ["mask_activation", "classes"]
    assert all(row["left_out"] for row in found["quantized"]["outputs"])
    result = invoke("search --model heads.keras --proxy digits --out run")
    assert result.exit_code == 2
    assert "2 outputs" in result.stderr
    assert "keras.Model on the output to train" in result.stderr


def classifiers(x: Any) -> Any:
    """A map, a classifier for too few classes, and two for enough, whose softmax files do not have."""
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="features")(x)
    mask = layers.Conv2D(12, 1, name="mask")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(layers.MaxPooling2D(2)(x))
    few = layers.Dense(3, name="few")(x)
    return [mask, few, *(layers.Dense(n, activation="softmax", name=f"logits{n}")(x) for n in (10, 12))]


NAMES = ["mask", "few", "logits10", "logits12"]
LEFT_OUT = ["shape (8, 8, 12), which is no row of numbers", "3 numbers for 10 classes", None, None]


def test_several_outputs_are_scored_by_name(invoke, facts) -> None:
    save("many", (8, 8, 3), classifiers)
    line = "export many.keras --tflite --calibrate digits --preprocess unit --weight-bits 8 --out many.tflite"
    exported = facts(line)["quantized"]
    assert exported["count"] == 360
    float_model = facts("evaluate many.keras --data digits --preprocess unit")
    written = facts("evaluate many.tflite --data digits")
    for found in (exported, float_model, written):
        assert [row["name"] for row in found["outputs"]] == NAMES
        assert [row["left_out"] for row in found["outputs"]] == LEFT_OUT
        assert [row["top1"] is None for row in found["outputs"]] == [True, True, False, False]
        assert (found["top1"], found["top5"]) == tuple(found["outputs"][2][key] for key in ("top1", "top5"))
    # Each output alone, as a classifier of its own.
    whole = keras.models.load_model("many.keras")
    for row in float_model["outputs"][2:]:
        keras.Model(whole.input, whole.get_layer(row["name"]).output).save("one.keras")
        alone = facts("evaluate one.keras --data digits --preprocess unit")
        assert [alone["top1"], alone["top5"]] == [row["top1"], row["top5"]]
        assert alone["outputs"] == [row]
    for row, other in zip(exported["outputs"][2:], written["outputs"][2:], strict=True):
        assert row["top1"] == pytest.approx(other["top1"], abs=0.03)
    for text in (invoke("evaluate many.tflite --data digits").stdout, invoke(line).stdout):
        assert all(name in text for name in NAMES)
        assert "3 numbers for 10 classes" in text
        assert any("logits12" in line and "%" in line for line in text.splitlines())


def test_a_network_without_a_classifier_for_the_data_is_refused(invoke) -> None:
    save("heads", (8, 8, 3), heads)
    result = invoke("evaluate heads.keras --data digits --preprocess unit")
    assert result.exit_code == 2
    # The sigmoid of the mask is a layer of its own, here as in a file.
    assert "output mask_activation with shape (8, 8, 1), which is no row of numbers" in result.stderr
    assert "output classes with 3 numbers for 10 classes" in result.stderr


def test_a_classifier_of_sequences(facts) -> None:
    def build(x: Any) -> Any:
        x = layers.Conv1D(6, 3, padding="causal", activation="relu")(x)
        return layers.Dense(3, name="logits")(layers.GlobalAveragePooling1D()(layers.MaxPooling1D(2)(x)))

    save("signals", (16, 2), build)
    generator = np.random.default_rng(0)
    signals = generator.integers(0, 256, (60, 1, 16, 2)).astype(np.uint8)
    np.savez("signals.npz", x=signals, y=np.arange(60) % 3)
    found = facts("export signals.keras --tflite --calibrate npz:signals.npz --weight-bits 8 --out s.tflite")
    assert found["verification"]["passed"]
    assert found["quantized"]["count"] > 0
    measured = facts("evaluate s.tflite --data npz:signals.npz")
    assert measured["top1"] == pytest.approx(found["quantized"]["top1"], abs=0.1)
    assert [row["name"] for row in measured["outputs"]] == ["logits"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("export resnet8 --tflite --calibrate random", "--weight-bits"),
        ("export resnet8 --tflite --calibrate random --weight-bits 4 --reconstruct", "real images"),
        ("export resnet8 --tflite --calibrate random --weight-bits 8 --activation-bits 9", "or 16"),
        (
            "export resnet8 --tflite --calibrate random --weight-bits 8 --activation-bits 16 --target tflm",
            "--target litert",
        ),
        ("export heads.keras --tflite --calibrate random --weight-bits 8 --activation-bits 16", "mask"),
        ("export none.keras --tflite --calibrate random --weight-bits 4", "none.keras"),
    ],
)
def test_what_cannot_be_done_is_said(invoke, line: str, said: str) -> None:
    if "heads.keras" in line:
        save("heads", (8, 8, 3), heads)
    result = invoke(line)
    assert result.exit_code in (1, 2)
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def plain(x: Any) -> Any:
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="first")(x)
    x = layers.Add()([x, layers.DepthwiseConv2D(3, padding="same", name="second")(x)])
    return layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D()(x))


def test_16_bit_activations_are_written_where_asked(facts) -> None:
    save("plain", (8, 8, 3), plain)
    line = "export plain.keras --tflite --calibrate random --weight-bits 8 --out {}.tflite"
    usual, wide = facts(line.format("usual")), facts(line.format("wide") + " --activation-bits 16")
    assert wide["verification"]["passed"]
    assert [check["kernels"] for check in wide["verification"]["operators"]] == ["builtin"] * 5
    assert [warning for warning in wide["warnings"] if "16-bit" in warning]
    assert not [warning for warning in usual["warnings"] if "16-bit" in warning]
    assert {row["container"] for row in wide["layers"]} == {8}
    inspected = facts("inspect wide.tflite")
    assert [name.split()[1] for name in (*inspected["inputs"], *inspected["outputs"])] == ["INT16", "INT16"]


POLICY = """\
format: tfmpq-policy/1
model: plain
layers:
  first: {weight_bits: 4}
  second: {weight_bits: 4}
  logits: {weight_bits: 4}
activations: 16
"""


def test_a_policy_with_16_bit_activations_is_the_option(facts, tmp_path: Path) -> None:
    save("plain", (8, 8, 3), plain)
    Path("policy.yaml").write_text(POLICY, encoding="utf-8")
    line = "export plain.keras --tflite --calibrate random --out {}.tflite "
    option = facts(line.format("option") + "--weight-bits 4 --activation-bits 16")
    policy = facts(line.format("policy") + "--policy policy.yaml")
    assert policy["path"] == "policy.tflite"
    assert policy == option | {"path": "policy.tflite"}  # size, BOPs, bytes of 64-bit biases, warnings, proof
    assert Path("policy.tflite").read_bytes() == Path("option.tflite").read_bytes()


def test_a_mixed_policy_with_16_bit_activations_keeps_its_weight_bits(facts) -> None:
    save("plain", (8, 8, 3), plain)
    Path("policy.yaml").write_text(
        POLICY.replace("first: {weight_bits: 4}", "first: {weight_bits: 2}"), encoding="utf-8"
    )
    found = facts("export plain.keras --tflite --calibrate random --policy policy.yaml --out mixed.tflite")
    assert found["verification"]["passed"]
    assert [layer["weight_bits"] for layer in found["layers"]] == [2, 4, 4]
    inspected = facts("inspect mixed.tflite")
    assert inspected["metadata"]["activation_bits"] == {"source": 8} | dict.fromkeys(
        list(inspected["metadata"]["activation_bits"])[1:], 16
    )


@pytest.mark.parametrize(
    ("edit", "target", "said"),
    [
        (("", ""), "storage", "16-bit activations are written for --target litert. Received: storage"),
        (("16", "{first: 16}"), "litert", "all codes have one size"),
    ],
    ids=["target", "single tensors"],
)
def test_a_policy_with_16_bits_that_cannot_be_written_is_refused_first(invoke, edit, target, said) -> None:
    Path("policy.yaml").write_text(POLICY.replace(*edit), encoding="utf-8")
    result = invoke(f"export none.keras --tflite --calibrate random --policy policy.yaml --target {target}")
    assert result.exit_code == 2
    assert said in result.stderr
    assert "none.keras" not in result.stderr


def test_a_policy_with_16_bits_for_sigmoids_is_refused(invoke) -> None:
    save("heads", (8, 8, 3), heads)
    policy = "format: tfmpq-policy/1\nmodel: heads\nlayers:\n"
    policy += "".join(f"  {name}: {{weight_bits: 8}}\n" for name in ("features", "mask", "classes"))
    Path("policy.yaml").write_text(f"{policy}activations: 16\n", encoding="utf-8")
    result = invoke("export heads.keras --tflite --calibrate random --policy policy.yaml")
    assert result.exit_code == 2
    assert "up to six steps off. Received: mask" in result.stderr
