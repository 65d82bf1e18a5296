"""What JAX trained, under TensorFlow: the same outputs, the same integers, the same step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from tfmpq.api.evaluate import evaluate
from tfmpq.api.export import export
from tfmpq.files import read_json
from tfmpq.quantization.finished_runs import Finetuned
from tfmpq.quantizers.wrapper import QuantizeWrapper
from tfmpq.training.run_folder import load_keras
from tfmpq.training.step import QuantizedTraining

if keras.backend.backend() != "tensorflow":
    pytest.skip("needs KERAS_BACKEND=tensorflow", allow_module_level=True)


@pytest.fixture(scope="module")
def run(handover: Path) -> Path:
    if not (handover / "steps.npz").exists():
        pytest.skip("needs a run made on JAX in TFMPQ_HANDOVER; run by `make test-jax`")
    return handover / "run"


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def relative(one: np.ndarray, other: np.ndarray, floor: float) -> float:
    """Distance of two arrays, relative to the norm of the second or to `floor`."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return float(np.linalg.norm(one - other) / max(np.linalg.norm(other), floor))


def test_every_layer_gives_the_same_output(run: Path, handover: Path) -> None:
    """Within float32's rounding, or one level apart where a value lies on the edge between two."""
    expected = arrays(handover / "layers.npz")
    model = load_keras(run / "finetune.keras")
    probe = keras.Model(model.inputs[0], [layer.output for layer in model.layers])
    outputs = probe(expected["images"], training=False)
    assert len(outputs) == len(expected) - 1
    for layer, output in zip(model.layers, outputs, strict=True):
        theirs, ours = expected[f"layer {layer.name}"], ops.convert_to_numpy(output)
        apart = ~np.isclose(ours, theirs, rtol=1e-4, atol=1e-5)
        # One value on an edge is more than a thousandth of the few logits.
        assert np.count_nonzero(apart) <= max(1, 1e-3 * apart.size), layer.name
        if isinstance(layer, QuantizeWrapper) and layer.output_quantizer is not None:
            step = np.exp(ops.convert_to_numpy(layer.output_variables["log_step"])).item()
            assert np.abs(ours - theirs).max() < 1.01 * step, layer.name


def test_freezing_gives_the_same_integers(run: Path, handover: Path) -> None:
    expected = arrays(handover / "frozen.npz")
    frozen = Finetuned.load(run).frozen()
    assert len(frozen.weighted) == 5
    for layer in frozen.layers:
        scale, bits, signed = expected[f"{layer.name} grid"]
        assert (layer.grid.bits, layer.grid.signed) == (bits, signed)
        assert layer.grid.scale == pytest.approx(scale, rel=1e-6)
        if layer.weights is not None:
            np.testing.assert_allclose(layer.weights.scales, expected[f"{layer.name} scales"], rtol=1e-6)
            for name in ("integers", "bias"):
                ours = getattr(layer.weights, name).astype(np.int64)
                difference = np.abs(ours - expected[f"{layer.name} {name}"])
                # `exp` may differ in its last bit, which decides a tie.
                assert difference.max() <= 1, (layer.name, name)
                assert np.count_nonzero(difference) <= 1e-3 * difference.size, (layer.name, name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_run_is_evaluated_exported_and_proved(run: Path, tmp_path: Path) -> None:
    recorded = read_json(run / "finetune.result.json")
    evaluated = evaluate(run, "digits")
    assert evaluated.top1 == pytest.approx(recorded["top1"], abs=2 / recorded["count"])
    report = export(run, target="storage", out=tmp_path / "jax.tflite")
    exported = evaluate(Path(report.path), "digits")
    assert exported.top1 == pytest.approx(recorded["top1"], abs=4 / recorded["count"])


def test_sharpness_is_the_same(run: Path, handover: Path) -> None:
    """Loss, gradient, gaps, and the top eigenvalue of the Hessian."""
    from tfmpq.api.sharpness import sharpness

    theirs = read_json(handover / "sharpness.json")
    ours = sharpness(run, radii=(0.01, 0.05), limit=64).to_json()
    assert ours["parameters"] == theirs["parameters"]
    for name in ("loss", "gradient_norm", "top_eigenvalue"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-2)
    for one, other in zip(ours["gaps"], theirs["gaps"], strict=True):
        assert one["gap"] == pytest.approx(other["gap"], rel=2e-2, abs=1e-4)


def test_an_asga_step_is_the_same(run: Path, handover: Path, trainer_of: Callable) -> None:
    """Loss, gap, radius, gradients, statistics, budget, and the weights after the optimizer.

    On most batches: now and then an activation lies on the edge between two levels, where the last bit
    decides, and moves all that comes after it.
    """
    trainer = trainer_of(load_keras(run / "search.keras"))
    errors = differences(trainer, arrays(handover / "steps.npz"))
    assert {"metric loss", "metric gap", "metric rho", "metric expected_size"} < set(errors[0])
    for kind, largest in (("metric", 1e-4), ("gradient", 1e-4), ("state", 1e-4), ("updated", 1e-6)):
        worst = [max(value for name, value in batch.items() if name.startswith(kind)) for batch in errors]
        assert np.median(worst) < largest, (kind, worst)


@pytest.mark.parametrize("name", ["saq-1", "saq-3"])
def test_a_step_of_saq_is_the_same(run: Path, handover: Path, saq_trainer_of: Callable, name: str) -> None:
    """To rounding on some of the batches, and nearly on all.

    One width a tensor has harder edges than the mixtures of a search, and two passes meet more of them. Two
    things are nothing but rounding where gradients are, and not compared: what AdamW makes of the first one
    (the rate in the direction of its sign), and the kept part of the second that is orthogonal to it.
    """
    trainer = saq_trainer_of(load_keras(run / "finetune.keras"), name)
    errors = differences(trainer, arrays(handover / f"steps-{name}.npz"))
    assert {"metric perturbed_loss", "metric gap", "metric gradient_cosine"} < set(errors[0])
    kinds = [("metric", 1e-4), ("gradient", 1e-4)]
    for kind, largest in [*kinds, ("state", 1e-4), ("updated", 1e-6)] if name == "saq-3" else kinds:
        worst = [max(value for key, value in batch.items() if key.startswith(kind)) for batch in errors]
        assert sorted(worst)[1] < largest, (kind, worst)
    assert max(batch["metric loss"] for batch in errors) < 1e-2


def differences(trainer: QuantizedTraining, expected: dict[str, np.ndarray]) -> list[dict[str, float]]:
    """Relative errors of one step from the present variables, for every batch of JAX's."""
    trainer.optimizer.build(trainer.trainable_variables)
    variables = [*trainer.variables, *trainer.optimizer.variables]
    start = [v.numpy() for v in variables]
    count = 1 + max(int(name.split()[0]) for name in expected if name[0].isdigit())
    found = []
    for batch in range(count):
        images, labels = (np.split(expected[name], count)[batch] for name in ("images", "labels"))
        theirs = {name.partition(" ")[2]: v for name, v in expected.items() if name.startswith(f"{batch} ")}
        ours = one_step(trainer, images, labels)
        assert set(ours) == set(theirs)
        gradients = [value.ravel() for name, value in theirs.items() if name.startswith("gradient")]
        # The gradient of a step that has arrived is nothing but rounding.
        floor = 1e-3 * float(np.linalg.norm(np.concatenate(gradients)))
        found.append(
            {k: relative(ours[k], v, floor if k.startswith("gradient") else 1e-9) for k, v in theirs.items()}
        )
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
    return found


def one_step(trainer: QuantizedTraining, images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics, gradients, state and updated weights, under the names that JAX's half gives them."""
    gradients, state, metrics = trainer.compute_update(
        [ops.convert_to_tensor(v.value) for v in trainer.trainable_variables],
        [ops.convert_to_tensor(v.value) for v in trainer.non_trainable_variables],
        ops.convert_to_tensor(images),
        ops.convert_to_tensor(labels),
    )
    made = {f"metric {name}": np.asarray(value) for name, value in metrics.items()}
    for kind, tensors in (("gradient", gradients), ("state", state)):
        made |= {f"{kind} {i}": np.asarray(tensor) for i, tensor in enumerate(tensors)}
    trainer.optimizer.apply(gradients, trainer.trainable_variables)
    return made | {f"updated {i}": v.numpy() for i, v in enumerate(trainer.trainable_variables)}


def test_float_activations_are_quantized_as_on_jax_and_written_as_trained(run: Path, handover: Path) -> None:
    """All but codes at a tie, which the last bit of a sum decides: one code is a 255th of a row."""
    written = arrays(handover / "dynamic.npz")
    model = load_keras(handover / "dynamic" / "finetune.keras")
    found = np.asarray(model(written["images"], training=False))
    gaps = np.abs(found - written["outputs"]).max(axis=1) / np.abs(written["outputs"]).max()
    assert np.median(gaps) < 1e-5
    assert gaps.max() < 0.02
    report = export(handover / "dynamic", out=handover / "dynamic.tflite")
    assert report.verification.passed, report.verification.failures
