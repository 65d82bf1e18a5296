"""Files on disk against the run that they come from, through the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import tfmpq

# Keras 3 converts TensorFlow's variables by a call that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

IMAGES = 360


@pytest.fixture(scope="module", params=["litert", "storage"])
def found(workshop, request) -> dict[str, Any]:
    return workshop.json(f"verify small.{request.param}.tflite --against run --json") | {
        "expected": request.param
    }


def test_exported_files_pass(workshop, found) -> None:
    assert (found["passed"], found["failures"], found["target"]) == (True, [], found["expected"])
    report = workshop.results[found["expected"]]
    assert found["bytes"] == report["bytes"]
    assert found["integers"] == report["verification"]["integers"]
    held = {row["name"]: (row["weight_bits"], row["container"], row["bytes"]) for row in found["layers"]}
    for row in report["layers"]:
        assert held[row["name"]] == (row["weight_bits"], row["container"], row["bytes"])
    assert all(row["delegated"] and row["kernel"] for row in found["layers"])
    kernels = {row["kernel"] for row in found["layers"] if row["weight_bits"]}
    assert all(re.search("Convolution|Fully Connected", kernel) for kernel in kernels)
    assert sum(row["off_by_one"] for row in found["layers"]) <= 1
    assert all(row["off_by_more"] == row["builtin_off_by_more"] == 0 for row in found["layers"])


def test_counts_by_kind_are_those_of_the_layers(found) -> None:
    for check in found["operators"]:
        rows = [row for row in found["layers"] if row["kind"] == check["kind"]]
        prefix = "" if check["kernels"] == "xnnpack" else "builtin_"
        for what in ("elements", "off_by_one", "off_by_more"):
            assert check[what] == sum(row[prefix + what] for row in rows)


def test_answers_are_compared_on_real_images(found) -> None:
    logits = found["logits"]
    assert logits["images"] == IMAGES
    assert logits["agreement"] >= 1 - 2 / IMAGES
    assert logits["exact"] + logits["off_by_one"] + logits["off_by_more"] == pytest.approx(1)
    assert logits["exact"] > 0.8
    assert found["notes"] == [f"{IMAGES} images were compared; the agreement is meant for 1000 or more"]


def flip_integer(model: Any) -> None:
    from tfmpq.deploy.tflite.flatbuffer import contents

    graph = model.subgraphs[0]
    weights = next(tensor for tensor in graph.tensors if tensor.name == b"down/weights")
    data = contents(model, weights).copy()
    data[100] ^= 1
    model.buffers[weights.buffer].data = data


def change_scale(model: Any) -> None:
    tensor = next(tensor for tensor in model.subgraphs[0].tensors if tensor.name == b"pointwise")
    tensor.quantization.scale = tensor.quantization.scale * np.float32(1.01)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (flip_integer, r"layer down: integer \["),
        (change_scale, "the output of layer pointwise has scale"),
    ],
)
def test_the_first_mismatching_tensor_is_named(workshop, fault: Callable[[Any], None], message: str) -> None:
    from tfmpq.deploy.tflite.flatbuffer import read_model, write_model

    model = read_model((workshop.folder / "small.litert.tflite").read_bytes())
    fault(model)
    (workshop.folder / "faulty.tflite").write_bytes(write_model(model))
    result = workshop.invoke("verify faulty.tflite --against run --json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["passed"] is False
    assert document["logits"] is None
    last = result.stderr.splitlines()[-1]
    assert last.startswith("Error: A file has to hold and compute what was trained.")
    for text in (last, document["failures"][0]):
        assert re.search(message, text)


def test_a_file_of_another_network_is_refused(workshop) -> None:
    from tfmpq.deploy.runtime.probe_models import Case, make_probe

    (workshop.folder / "other.tflite").write_bytes(make_probe(Case("CONV_2D", 8, "int8")).content)
    result = workshop.invoke("verify other.tflite --against run --json")
    assert (result.exit_code, result.stdout) == (1, "")
    last = result.stderr.splitlines()[-1]
    assert "other.tflite, which holds another network than run: it has layers y, and lacks" in last
    assert "lacks layers stem, depthwise, pointwise and 2 more. Name the run" in last


def test_a_file_without_one_layer_is_still_compared(workshop) -> None:
    from tfmpq.deploy.tflite.flatbuffer import read_model, write_model

    model = read_model((workshop.folder / "small.litert.tflite").read_bytes())
    tensor = next(tensor for tensor in model.subgraphs[0].tensors if tensor.name == b"stem/weights")
    tensor.name = b"trunk/weights"
    (workshop.folder / "renamed.tflite").write_bytes(write_model(model))
    result = workshop.invoke("verify renamed.tflite --against run --json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["failures"][0] == "layer stem is there 0 times"


def test_text_has_every_layer(workshop) -> None:
    result = workshop.invoke("verify small.litert.tflite --against run --limit 10")
    assert result.exit_code == 0
    for name in ("stem", "depthwise", "pointwise", "down", "logits"):
        assert name in result.stdout


def test_a_file_is_verified_against_the_model_that_it_was_made_of(tmp_path) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(3, name="classes"),
        ]
    )
    model.save(tmp_path / "mine.keras")
    images = np.random.default_rng(0).uniform(0, 1, (40, 8, 8, 1)).astype(np.float32)
    written = tfmpq.quantize(model, images, weight_bits=4, out=tmp_path / "mine.tflite")
    for against in (model, str(tmp_path / "mine.keras")):
        found = tfmpq.verify(written, against, data=images)
        assert (found.passed, found.failures) == (True, ())
        assert "least correlation" in " ".join(found.notes)
    other = keras.models.clone_model(model)
    other.get_layer("classes").kernel.assign(np.random.default_rng(1).normal(0, 1, (144, 3)))
    refused = tfmpq.verify(written, other, data=images)
    assert not refused.passed
    assert "classes" in " ".join(refused.failures)
