"""Searches and fine-tunings whose activations stay float, and what is made of their runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import tfmpq
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.graph.fusion import analyse
from tfmpq.graph.lowering import lower
from tfmpq.methods.options import SearchOptions
from tfmpq.policy.network_cost import activation_products
from tfmpq.policy.policy import load_policy, save_policy
from tfmpq.quantization.discretization import restrict
from tfmpq.quantizers.choices import quantize_wrappers
from tfmpq.training.run_folder import Stage
from tfmpq.training.step import QuantizedTraining

GENERATOR = np.random.default_rng(0)
IMAGES, LABELS = GENERATOR.normal(size=(48, 8, 8, 3)).astype("float32"), np.arange(48) % 4
BUDGET = "size=0.7x"
SHORT: dict[str, Any] = {"epochs": 2, "steps_per_epoch": 2, "batch_size": 8}


@pytest.fixture(scope="module")
def network() -> keras.Model:
    """Attention of one head on four patches, and a convolution before it."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(image)
    x = layers.Conv2D(8, 4, 4, name="patch")(x)
    x = layers.Reshape((4, 8), name="tokens")(x)
    y = layers.LayerNormalization(name="norm")(x)
    y = layers.MultiHeadAttention(1, 8, name="attn")(y, y)
    x = layers.Add(name="add")([x, y])
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(image, layers.Dense(4, name="logits")(x), name="small")


@pytest.fixture(scope="module")
def run(network: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search, its fine-tuning and its file."""
    folder = tmp_path_factory.mktemp("run")
    found = tfmpq.search(
        network, (IMAGES, LABELS), budget=BUDGET, activation_bits="dynamic", out=folder, **SHORT
    )
    assert found.policy.dynamic
    assert found.size["policy"] <= 0.7 * found.size["int8"]
    tuned = tfmpq.finetune(found, (IMAGES, LABELS), **SHORT)
    assert tuned.policy == load_policy(folder / "policy.yaml")
    assert tuned.bops == sum(
        8 * bits * macs for bits, macs in zip(tuned.policy.weight_bits.values(), _macs(), strict=True)
    )
    return folder


def _macs() -> list[int]:
    return [64 * 27 * 8, 4 * 128 * 8, *(4 * 64,) * 4, 8 * 4]


def test_a_searched_and_tuned_network_is_written_as_it_was_trained(run: Path, tmp_path: Path) -> None:
    report = tfmpq.export(run, out=tmp_path / "net.tflite")
    assert report.verification.passed, report.verification.failures
    assert report.verification.delegate_partitions == 1
    assert tfmpq.verify(tmp_path / "net.tflite", run, limit=32).passed
    assert tfmpq.evaluate(tmp_path / "net.tflite", (IMAGES, LABELS)).top1 == pytest.approx(
        tfmpq.evaluate(run, (IMAGES, LABELS)).top1, abs=1 / 48
    )
    with pytest.raises(UsageError, match="--target litert"):
        tfmpq.export(run, target="storage", out=tmp_path / "net.storage.tflite")


def test_the_promised_bytes_are_those_of_the_file_without_its_graph(run: Path, tmp_path: Path) -> None:
    tuned = tfmpq.finetune(run, (IMAGES, LABELS), out=run, **SHORT)
    report = tfmpq.export(run, out=tmp_path / "net.tflite")
    held = sum(layer.bytes for layer in report.layers)
    assert tuned.size == held + 4 * (8 + 8)  # scale and center of the normalization


def test_products_of_two_activations_are_named_apart(network: keras.Model) -> None:
    """Scores and mixtures of four patches with eight channels."""
    assert activation_products(analyse(lower(network), dynamic=True)) == 2 * 4 * 4 * 8


def test_restricting_keeps_what_kernels_read(run: Path) -> None:
    policy = load_policy(run / "policy.yaml")
    searched = Stage(run, "search").load_model()
    restricted = restrict(searched, policy)
    grids = {wrapper.name: wrapper.quantize_config.input_grid for wrapper in quantize_wrappers(restricted)}
    assert (grids["stem"], grids["patch"], grids["logits"]) == ("image", "patch", "row")
    assert grids == {w.name: w.quantize_config.input_grid for w in quantize_wrappers(searched)}
    with pytest.raises(UsageError, match="integers, for"):
        restrict(searched, policy.model_copy(update={"activations": {}}))


def test_normalization_and_embedding_are_in_the_ball_and_do_not_decay(run: Path) -> None:
    model = Stage(run, "finetune").load_model()
    trainer = QuantizedTraining(model.inputs[0], model.outputs[0])
    names = {variable.path for variable in trainer.trainable_variables}
    assert {"norm/gamma", "norm/beta"} <= {"/".join(name.split("/")[-2:]) for name in names}


def test_an_edited_policy_is_trained_as_it_says(network: keras.Model, run: Path, tmp_path: Path) -> None:
    """Activations that a person has written as dynamic are dynamic in training and in the file."""
    convolutional = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, 2, use_bias=False, name="conv"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(name="relu"),
            layers.GlobalAveragePooling2D(name="gap"),
            layers.Dense(4, name="logits"),
        ],
        name="plain",
    )
    found = tfmpq.search(
        convolutional,
        (IMAGES, LABELS),
        budget="size=1x",
        method="uniform",
        out=tmp_path / "a",
        float_epochs=0,
    )
    path = tmp_path / "policy.yaml"
    save_policy(found.policy.model_copy(update={"activations": "dynamic"}), path)
    tuned = tfmpq.finetune(convolutional, path, (IMAGES, LABELS), out=tmp_path / "b", **SHORT)
    assert tuned.policy.dynamic
    made = Stage(tmp_path / "b", "finetune").load_model()
    assert {w.quantize_config.input_grid for w in quantize_wrappers(made)} == {"image", "row"}
    report = tfmpq.export(tuned, out=tmp_path / "net.tflite")
    assert report.verification.passed, report.verification.failures
    integers = load_policy(run / "policy.yaml").model_copy(update={"activations": {}})
    with pytest.raises(TfmpqError, match="LayerNormalization"):
        tfmpq.finetune(network, integers, (IMAGES, LABELS), **SHORT)


@pytest.mark.parametrize(
    "method", ["sensitivity", *(pytest.param(m, marks=pytest.mark.slow) for m in ("random", "uniform"))]
)
def test_methods_that_do_not_train_choose_weights_alone(network: keras.Model, method: str) -> None:
    found = tfmpq.search(
        network, (IMAGES, LABELS), method=method, activation_bits="dynamic", budget=BUDGET, epochs=1
    )
    assert found.policy.dynamic
    assert set(found.activation_bits.values()) == {8}
    assert found.size["policy"] <= 0.7 * found.size["int8"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sgd", "sam", "sagm", "gsam", "fracbits"])
def test_methods_that_train_choose_weights_alone(network: keras.Model, method: str) -> None:
    test_methods_that_do_not_train_choose_weights_alone(network, method)


@pytest.mark.slow
def test_uniform_widths_may_have_dynamic_activations(network: keras.Model, tmp_path: Path) -> None:
    tuned = tfmpq.finetune(
        network, "uniform:4/dynamic", (IMAGES, LABELS), out=tmp_path, method="saq", **SHORT | {"epochs": 1}
    )
    assert tuned.policy.dynamic
    assert tuned.policy.weight_bits["patch"] == 4
    assert tuned.policy.weight_bits["logits"] == 8


@pytest.mark.slow
def test_a_resumed_fine_tuning_is_the_one_that_was_not_interrupted(
    network: keras.Model, tmp_path: Path
) -> None:
    data = (IMAGES, LABELS)
    whole = tfmpq.finetune(network, "uniform:4/dynamic", data, out=tmp_path / "a", **SHORT)
    part = tmp_path / "b"
    tfmpq.finetune(network, "uniform:4/dynamic", data, out=part, **SHORT)
    (part / "finetune.result.json").unlink()
    (part / "finetune.keras").unlink()
    again = tfmpq.finetune(network, "uniform:4/dynamic", data, out=part, **SHORT)
    assert again.top1 == whole.top1
    one, other = (Stage(tmp_path / name, "finetune").load_model() for name in "ab")
    for mine, its in zip(one.weights, other.weights, strict=True):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(its), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"activation_bits": "dynamical"}, "from 2 to 8, or dynamic alone. Received: activation_bits="),
        ({"activation_bits": ("dynamic", 8)}, "or dynamic alone"),
        ({"activation_bits": "dynamic", "latency_table": "table.json"}, "times of integer activations"),
        ({"optimizer": "adam"}, "one of sgd, adamw"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        SearchOptions(**given)
    assert "\n" not in str(caught.value)
