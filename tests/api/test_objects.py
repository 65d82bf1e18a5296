"""The verbs with a user's own model and data objects, as a notebook has them."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfmpq
from tfmpq.data.preprocess import value_range
from tfmpq.deploy.runtime.interpreter import load
from tfmpq.errors import UsageError
from tfmpq.files import read_json

TRAINING = {"epochs": 2, "batch_size": 32, "steps_per_epoch": 8}


@pytest.fixture(scope="module")
def chain(notebook: Any) -> Any:
    """Search, fine-tuning and export without a run folder."""
    found = tfmpq.search(notebook.model, notebook.train, budget="size=0.6x", method="sensitivity")
    tuned = tfmpq.finetune(notebook.model, found.policy, notebook.train, validation=notebook.test, **TRAINING)
    return found, tuned


def accuracy(model: keras.Model, data: Any) -> float:
    return float(np.mean(model.predict(data[0], verbose=0).argmax(-1) == data[1]))


def test_a_model_object_becomes_a_proved_file_in_one_call(notebook: Any, tmp_path: Path) -> None:
    before = [weight.copy() for weight in notebook.model.get_weights()]
    config = notebook.model.to_json()
    small = tfmpq.quantize(
        notebook.model, notebook.train, weight_bits=4, validation=notebook.test, out=tmp_path / "small.tflite"
    )
    assert small.export.verification.passed
    assert small.quantized.count == len(notebook.test[1])
    assert small.quantized.top1 >= accuracy(notebook.model, notebook.test) - 0.1
    # The object of the user's is what it was: its softmax, its weights, its names.
    assert notebook.model.to_json() == config
    for one, other in zip(before, notebook.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [path.name for path in tmp_path.iterdir()] == ["small.tflite"]


def test_results_hand_on_and_nothing_is_left_behind(
    notebook: Any, chain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found, tuned = chain
    assert isinstance(found.policy, tfmpq.Policy)
    assert found.budget[0]["asked"] == "size=0.6x"
    assert tuned.policy.weight_bits == found.policy.weight_bits
    assert tuned.top1 >= accuracy(notebook.model, notebook.test) - 0.1
    report = tfmpq.export(tuned, out="flowers.tflite")
    scored = tfmpq.evaluate(report, notebook.test)
    assert (scored.count, scored.path) == (120, "flowers.tflite")
    assert abs(scored.top1 - tuned.top1) <= 0.02
    assert tfmpq.verify(report, tuned).passed
    assert tfmpq.verify(report, tuned, data=notebook.test).passed
    assert tfmpq.sharpness(tuned, radii=(0.01,), limit=32).parameters > 0
    assert tfmpq.inspect(report).kind == "tflite"
    assert [path.name for path in tmp_path.iterdir()] == ["flowers.tflite"]


def test_a_temporary_run_lives_as_long_as_its_results(notebook: Any) -> None:
    found = tfmpq.search(notebook.model, notebook.train, method="uniform")
    tuned = tfmpq.finetune(found, notebook.train, epochs=0)
    folder = Path(found.run)
    assert tuned.run == found.run
    del found
    gc.collect()
    assert folder.exists()
    del tuned
    gc.collect()
    assert not folder.exists()


def test_a_run_folder_keeps_all_that_the_command_line_needs(notebook: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    found = tfmpq.search(notebook.model, notebook.train, method="uniform", out=run)
    tfmpq.finetune(found, notebook.train, validation=notebook.test, epochs=0, out=run)
    assert (run / "model.keras").exists()
    moved = run.rename(tmp_path / "moved")
    from tfmpq.cli.main import main

    for line in (
        f"export {moved} --tflite --out {tmp_path / 'net.tflite'}",
        f"verify {tmp_path / 'net.tflite'} --against {moved}",
        f"inspect {moved}",
        f"report {moved} --out {tmp_path / 'report.html'}",
    ):
        with pytest.raises(SystemExit) as ended:
            main(line.split(), prog_name="tfmpq")
        assert ended.value.code == 0, line
    assert "quarters" in (tmp_path / "report.html").read_text()
    again = tfmpq.finetune(moved, notebook.train, validation=notebook.test, epochs=0)
    assert again.run == str(moved)


def test_the_same_call_resumes_and_others_are_refused(notebook: Any, tmp_path: Path) -> None:
    first = tfmpq.search(notebook.model, notebook.train, method="uniform", out=tmp_path / "run")
    # The same code gives other names to layers, and a dataset another order.
    keras.utils.set_random_seed(0)
    copy = keras.models.clone_model(notebook.model)
    copy.set_weights(notebook.model.get_weights())
    again = tfmpq.search(copy, notebook.train, method="uniform", out=tmp_path / "run")
    assert again.to_json() == first.to_json()
    images, labels = notebook.train
    with pytest.raises(UsageError, match=r"Received: (proxy|data)="):
        tfmpq.search(notebook.model, (images + 0.01, labels), method="uniform", out=tmp_path / "run")
    copy.set_weights([0.5 * weight for weight in notebook.model.get_weights()])
    with pytest.raises(UsageError, match="resumed with the model that it was begun with"):
        tfmpq.search(copy, notebook.train, method="uniform", out=tmp_path / "run")


def test_a_refused_call_leaves_nothing_that_another_model_would_be_compared_with(
    notebook: Any, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="budget"):
        tfmpq.search(notebook.model, notebook.train, method="uniform", budget="size=0.01x", out=tmp_path)
    copy = keras.models.clone_model(notebook.model)
    copy.set_weights([0.5 * weight for weight in notebook.model.get_weights()])
    assert tfmpq.search(copy, notebook.train, method="uniform", out=tmp_path).run == str(tmp_path)


@pytest.mark.parametrize("kind", ["tf.data", "batches", "x alone"])
def test_other_kinds_of_data_give_the_same_search(notebook: Any, kind: str) -> None:
    images, labels = notebook.train
    data = {
        "tf.data": tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(64).batch(50),
        "batches": [(images[:200], labels[:200]), (images[200:], labels[200:])],
        "x alone": images,
    }[kind]
    found = tfmpq.search(notebook.model, data, budget=("size=0.6x", "bops=0.7x"), method="sensitivity")
    assert [row["key"] for row in found.budget] == ["size", "bops"]
    assert all(row["reached"] <= row["limit"] for row in found.budget)
    # Without labels the policy is compared with the float network.
    assert ("float" in found.accuracy) == (kind != "x alone")


def test_values_are_the_inputs_of_the_model_as_they_are() -> None:
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (64, 8, 8, 3), np.uint8)
    scaled = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Rescaling(1 / 127.5, -1),
            layers.Conv2D(4, 3),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    wanted = scaled.predict(pixels, verbose=0)
    for data in (pixels, pixels.astype(np.float32)):
        small = tfmpq.quantize(scaled, data, weight_bits=8)
        network = load(small.export.path)
        assert network.metadata["preprocessing"] == "none"
        got = network.run(pixels.astype(np.float32))
        assert np.abs(got - wanted).max() < 0.1 * np.abs(wanted).max()
    # Standardised values: no named preprocessing gives them.
    bare = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3)])
    values = generator.normal(0.4, 1.3, (64, 8, 8, 3)).astype(np.float32)
    small = tfmpq.quantize(bare, values, weight_bits=8)
    network = load(small.export.path)
    assert value_range(network.metadata["preprocessing"]) == (values.min(), values.max())
    wanted = bare.predict(values, verbose=0)
    assert np.abs(network.run(values) - wanted).max() < 0.1 * np.abs(wanted).max()


def test_pixels_of_a_word_are_refused_by_a_network_made_with_arrays(notebook: Any, chain: Any) -> None:
    _, tuned = chain
    with pytest.raises(UsageError):
        tfmpq.evaluate(tuned, "digits")


def test_arrays_of_another_shape_are_refused_not_resized(notebook: Any) -> None:
    images, labels = notebook.train
    with pytest.raises(UsageError, match=r"images \(8, 7, 1\) for a model that takes \(8, 8, 1\)"):
        tfmpq.quantize(notebook.model, (images[:, :, :-1], labels), weight_bits=4)


def test_calibration_images_are_drawn_at_random_not_the_first_ones(
    notebook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tfmpq.api import posttraining as module

    seen: list[np.ndarray] = []
    real = module.quantize_model

    def spy(
        model: Any, network: Any, weights: Any, activations: Any, images: np.ndarray, *rest: Any, **more: Any
    ) -> Any:
        seen.append(images)
        return real(model, network, weights, activations, images, *rest, **more)

    monkeypatch.setattr(module, "quantize_model", spy)
    images, labels = notebook.train
    order = np.argsort(labels, kind="stable")  # as a folder of classes comes
    for _ in range(2):
        tfmpq.quantize(
            notebook.model, (images[order], labels[order]), weight_bits=4, validation=notebook.test
        )
    np.testing.assert_array_equal(*seen)
    by_image = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    counts = np.bincount([by_image[image.tobytes()] for image in seen[0]], minlength=4)
    assert counts.min() > 30


@pytest.mark.slow
def test_the_whole_job_takes_objects(notebook: Any) -> None:
    job = tfmpq.run(
        notebook.model,
        notebook.train,
        validation=notebook.test,
        method="uniform",
        epochs=1,
        steps_per_epoch=4,
        batch_size=32,
    )
    assert [row.model for row in job.table] == ["float32", "int8", "mixed"]
    assert {row.top1 for row in job.table} <= {count / 120 for count in range(121)}
    json.dumps(job.to_json())


# -- what is no model or no data -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "received"),
    [
        (lambda n: tfmpq.search(n.model, 5), "int"),
        (lambda n: tfmpq.search(5, n.train), "int"),
        (lambda n: tfmpq.search(n.train, n.model), "tuple"),
        (lambda n: tfmpq.search(n.model, n.train, budget=5), "budgets is a text or several. Received: 5"),
        (lambda n: tfmpq.search(n.model, n.train, budgets="size"), "size"),
        (lambda n: tfmpq.search(n.model, n.train, epoch=3), "Did you mean epochs?"),
        (lambda n: tfmpq.search(n.model, n.train, epochs="3"), "epochs is a whole number"),
        (lambda n: tfmpq.search(n.model, n.train, weight_bits=(1, 4)), "weight_bits=(1, 4)"),
        (lambda n: tfmpq.search(n.model, n.train, options={"epochs": 3}), "dict"),
        (lambda n: tfmpq.search(n.model, n.train, preprocessing="imagenet"), "imagenet"),
        (lambda n: tfmpq.finetune(n.model, 5, n.train), "int"),
        (lambda n: tfmpq.finetune(n.model, n.train), "Sequential"),
        (lambda n: tfmpq.quantize(n.model, n.train), "neither"),
        (
            lambda n: tfmpq.quantize(n.model, n.train, weight_bits=4, preprocessing="torch"),
            "torch for float32",
        ),
        (lambda n: tfmpq.export(n.model), "Sequential"),
        (lambda n: tfmpq.evaluate(5, n.test), "int"),
        (lambda n: tfmpq.evaluate(n.model, n.test[0]), "images alone"),
        (lambda n: tfmpq.measure(5), "int"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_taken(notebook: Any, call: Any, received: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (a UsageError is one)
        call(notebook)
    assert isinstance(caught.value, UsageError)
    assert received in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_object_is_evaluated_and_inspected(notebook: Any) -> None:
    assert tfmpq.evaluate(notebook.model, notebook.test).top1 == accuracy(notebook.model, notebook.test)
    facts = tfmpq.inspect(notebook.model).to_json()
    assert (facts["model"], facts["supported"]) == ("quarters", True)


def test_the_record_of_an_object_says_what_it_was(notebook: Any, tmp_path: Path) -> None:
    tfmpq.search(notebook.model, notebook.train, method="uniform", out=tmp_path)
    record = read_json(tmp_path / "search.json")
    assert record["model"] == "model.keras"
    assert record["proxy"] == f"arrays-{record['data'][:8]}"
