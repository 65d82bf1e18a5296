"""Search and fine-tuning on JAX where TensorFlow is not installed; writes what `test_handover.py` reads."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import inspect
import itertools
import json
import math
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import layers, ops
from PIL import Image

from tfmpq.data import ImageBatches, Split, load_dataset
from tfmpq.data.places import Paths, Places
from tfmpq.errors import UsageError
from tfmpq.progress import SilentReporter
from tfmpq.training import loop, recorder
from tfmpq.training.backend import compiled
from tfmpq.training.distribution import strategy
from tfmpq.training.float_training import FloatTraining
from tfmpq.training.loop import train
from tfmpq.training.optimizer import QuantizationOptimizer
from tfmpq.training.precision import computing_in
from tfmpq.training.run_folder import Stage, load_keras
from tfmpq.training.sharpness import RadiusSchedule
from tfmpq.training.step import QuantizedTraining, SharpnessOptions

if keras.backend.backend() != "jax":
    pytest.skip("needs KERAS_BACKEND=jax; run by `make test-jax`", allow_module_level=True)

jax = pytest.importorskip("jax")

FLOAT_EPOCHS, SEARCH_EPOCHS, TUNING_EPOCHS, STEPS = 3, 2, 3, 20
COMMANDS = (
    "search --model user_networks:small --proxy digits --budget size=0.4x "
    f"--float-epochs {FLOAT_EPOCHS} --epochs {SEARCH_EPOCHS} --steps-per-epoch {STEPS} "
    "--batch-size 64 --seed 3 --out run --json",
    f"finetune run --target digits --epochs {TUNING_EPOCHS} --steps-per-epoch {STEPS} "
    "--batch-size 64 --out run --json",
    "evaluate run --data digits --json",
)
COMPARED_BATCHES, COMPARED_IMAGES = 11, 2


class Imports:
    """Stands before all finders and records which modules of TensorFlow are asked for.

    `keras.utils.set_random_seed` asks for it to seed it too, and does without.
    """

    def __init__(self) -> None:
        self.wanted: list[str] = []

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in ("tensorflow", "tensorflow_datasets", "tf_keras"):
            callers = {frame.function for frame in inspect.stack(context=0)}
            if "set_random_seed" not in callers:
                self.wanted.append(name)


@pytest.fixture(scope="module")
def chain(handover: Path) -> SimpleNamespace:
    """A searched, fine-tuned and evaluated run in the hand-over folder, and what the commands printed."""
    from tfmpq.cli.main import main

    shutil.rmtree(handover / "run", ignore_errors=True)
    shutil.copy(Path(__file__).parents[1] / "user_networks.py", handover)
    imports, results = Imports(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(handover)
        patch.delenv("TFMPQ_DATA_DIR", raising=False)
        patch.setattr(sys, "meta_path", [imports, *sys.meta_path])
        for line in COMMANDS:
            result = CliRunner().invoke(main, line.split(), prog_name="tfmpq")
            assert result.exit_code == 0, result.stderr
            results.append(json.loads(result.stdout))
    found, tuned, evaluated = results
    return SimpleNamespace(
        folder=handover / "run", imports=imports.wanted, found=found, tuned=tuned, evaluated=evaluated
    )


def test_tensorflow_is_neither_there_nor_asked_for(chain) -> None:
    assert importlib.util.find_spec("tensorflow") is None
    assert chain.imports == []
    assert "tensorflow" not in sys.modules


def test_search_meets_its_budget_and_fine_tuning_learns(chain) -> None:
    (budget,) = chain.found["budget"]
    assert budget["reached"] <= budget["limit"]
    assert chain.tuned["versions"]["backend"] == "jax"
    assert chain.tuned["size"] == chain.found["size"]["policy"]
    assert chain.tuned["top1"] > 0.5
    assert chain.evaluated["top1"] == chain.tuned["top1"]


@pytest.mark.parametrize(
    ("stage", "epochs"), [("float", FLOAT_EPOCHS), ("search", SEARCH_EPOCHS), ("finetune", TUNING_EPOCHS)]
)
def test_every_step_is_logged_with_finite_metrics(chain, stage: str, epochs: int) -> None:
    with (chain.folder / f"{stage}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(epochs * STEPS))
    assert all(math.isfinite(float(value)) for row in rows for value in row.values())
    assert np.mean([float(row["loss"]) for row in rows[-5:]]) < float(rows[0]["loss"])


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("export run --tflite", "An export needs TensorFlow and LiteRT."),
        (
            "finetune run --target imagenette --weights none",
            "A data set that is in no folder needs tensorflow-datasets.",
        ),
    ],
)
def test_what_needs_tensorflow_says_so(chain, monkeypatch: pytest.MonkeyPatch, line: str, rule: str) -> None:
    from tfmpq.cli.main import main

    monkeypatch.chdir(chain.folder.parent)
    result = CliRunner().invoke(main, line.split(), prog_name="tfmpq")
    assert result.exit_code == 1
    assert rule in result.stderr.splitlines()[-1]


def test_layers_are_written_for_tensorflow(chain, handover: Path) -> None:
    model = load_keras(chain.folder / "finetune.keras")
    images = digits(64)[0]
    probe = keras.Model(model.inputs[0], [layer.output for layer in model.layers])
    outputs = {
        layer.name: ops.convert_to_numpy(value)
        for layer, value in zip(model.layers, probe(images, training=False), strict=True)
    }
    assert all(np.all(np.isfinite(value)) for value in outputs.values())
    np.savez(handover / "layers.npz", images=images, **{f"layer {k}": v for k, v in outputs.items()})


def test_frozen_integers_are_written_for_tensorflow(chain, handover: Path) -> None:
    from tfmpq.quantization.finished_runs import Finetuned

    frozen = Finetuned.load(chain.folder).frozen()
    arrays = {}
    for layer in frozen.layers:
        arrays[f"{layer.name} grid"] = np.asarray([layer.grid.scale, layer.grid.bits, layer.grid.signed])
        if layer.weights is not None:
            weights = layer.weights
            arrays |= {f"{layer.name} {k}": getattr(weights, k) for k in ("integers", "scales", "bias")}
            assert np.abs(weights.integers).max() <= 2 ** (weights.bits - 1) - 1
    np.savez(handover / "frozen.npz", **arrays)


def test_steps_are_written_for_tensorflow(chain, handover: Path, trainer_of: Callable) -> None:
    """Single ASGA steps, all from the searched weights."""
    write_steps(trainer_of(load_keras(chain.folder / "search.keras")), handover / "steps.npz")


@pytest.mark.parametrize("name", ["saq-1", "saq-3"])
def test_steps_of_saq_are_written_for_tensorflow(
    chain, handover: Path, saq_trainer_of: Callable, name: str
) -> None:
    """Single steps, all from the fine-tuned weights."""
    trainer = saq_trainer_of(load_keras(chain.folder / "finetune.keras"), name)
    write_steps(trainer, handover / f"steps-{name}.npz")


def test_a_transformer_of_float_activations_is_searched_tuned_and_written_for_tensorflow(
    handover: Path,
) -> None:
    import tfmpq

    folder = handover / "dynamic"
    shutil.rmtree(folder, ignore_errors=True)
    image = keras.Input((16, 16, 3), name="image")
    x = layers.Reshape((16, 8), name="tokens")(layers.Conv2D(8, 4, 4, name="patch")(image))
    y = layers.LayerNormalization(name="norm")(x)
    x = layers.Add(name="add")([x, layers.MultiHeadAttention(2, 4, name="attn")(y, y)])
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    network = keras.Model(image, layers.Dense(10, name="logits")(x), name="small")
    short = {"epochs": 1, "steps_per_epoch": 3, "batch_size": 8}
    data = digits(64)
    found = tfmpq.search(
        network, data, budget="size=0.8x", method="sgd", activation_bits="dynamic", out=folder, **short
    )
    tuned = tfmpq.finetune(found, data, reconstruct=False, distill=False, **short)
    assert tuned.policy.dynamic
    model = load_keras(folder / "finetune.keras")
    outputs = ops.convert_to_numpy(model(data[0], training=False))
    assert np.isfinite(outputs).all()
    np.savez(handover / "dynamic.npz", images=data[0], outputs=outputs)


def write_steps(trainer: QuantizedTraining, path: Path) -> None:
    """Single steps, all from the present variables, compiled once; named "BATCH KIND NAME"."""
    trainer.optimizer.build(trainer.trainable_variables)

    @jax.jit
    def step(images: Any, labels: Any) -> dict[str, list[Any]]:
        trainable = [v.value for v in trainer.trainable_variables]
        state = [v.value for v in trainer.non_trainable_variables]
        gradients, state, metrics = trainer.compute_update(trainable, state, images, labels)
        slots = [v.value for v in trainer.optimizer.variables]
        updated, _ = trainer.optimizer.stateless_apply(slots, gradients, trainable)
        named = {f"metric {name}": value for name, value in metrics.items()}
        for kind, tensors in (("gradient", gradients), ("state", state), ("updated", updated)):
            named |= {f"{kind} {i}": tensor for i, tensor in enumerate(tensors)}
        return named

    images, labels = digits(COMPARED_BATCHES * COMPARED_IMAGES)
    arrays = {"images": images, "labels": labels}
    for batch in range(COMPARED_BATCHES):
        part = slice(batch * COMPARED_IMAGES, (batch + 1) * COMPARED_IMAGES)
        arrays |= {f"{batch} {k}": np.asarray(v) for k, v in step(images[part], labels[part]).items()}
    np.savez(path, **arrays)


def test_sharpness_is_written_for_tensorflow(chain, handover: Path) -> None:
    from tfmpq.api.sharpness import sharpness

    found = sharpness(chain.folder, radii=(0.01, 0.05), limit=64)
    assert found.stage == "finetune"
    assert found.top_eigenvalue > 0
    (handover / "sharpness.json").write_text(json.dumps(found.to_json()))


def test_the_hessian_is_that_of_the_straight_through_loss() -> None:
    """A quantizer behind a product: JAX alone would find no slope in the rounded values."""
    from tfmpq.quantizers.learned_step import activation_levels, fake_quantize, twice_differentiable
    from tfmpq.training.backend import value_and_gradient

    grid, step = activation_levels(4, signed=False), np.float32(0.3)
    inputs = jax.numpy.asarray([0.4, 1.1, 2.0, 9.0])  # the last one is clipped

    def loss(scale: Any) -> Any:
        return ops.sum(ops.square(fake_quantize(scale * inputs, [step], None, [grid], [1.0])))

    def slope(scale: Any) -> Any:
        return value_and_gradient(lambda tensors: (loss(tensors[0]), ()), [scale])[1][0]

    with twice_differentiable():
        curvature = jax.grad(slope)(np.float32(1.0))
    assert curvature == pytest.approx(2 * float(np.sum(np.square([0.4, 1.1, 2.0]))), rel=1e-6)


def digits(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first test images, as a network with preprocessing `unit` takes them, and their labels."""
    test = load_dataset("digits").test
    batches = ImageBatches(test, count, image_shape=test.array.shape[1:], preprocessing="unit", shuffle=False)
    return batches[0]


# -- the training loop, compiled -----------------------------------------------------------------------------

SPLIT = Split(
    (np.arange(32) % 4).astype(np.int64), np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3), np.uint8)
)
BATCHES, EPOCHS, FROZEN = 3, 3, 1


class Watcher(SilentReporter):
    """Interrupts like Ctrl-C when it is asked to; its time passes by the step, so that all are saved."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.messages: list[str] = []
        self._done, self._interrupt_at = 0, interrupt_at

    def monotonic(self) -> float:
        return 100.0 * self._done

    def log(self, message: str) -> None:
        self.messages.append(message)

    def advance(self, steps: int = 1, metrics: Any = None) -> None:
        self._done += steps
        if self._done == self._interrupt_at:
            raise KeyboardInterrupt


def train_small(
    folder: Path,
    reporter: Watcher,
    rate: float = 0.1,
    second_gradient_every: int = 1,
    precision: str = "float32",
) -> dict[str, np.ndarray]:
    """All variables after an ASGA training of a network with BatchNorm and dropout."""
    from tfmpq.graph.fusion import analyse
    from tfmpq.quantization.insertion import quantize_model

    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, strides=2, use_bias=False, name="conv")(image)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
    x = layers.Dropout(0.3, seed=2)(layers.GlobalAveragePooling2D(name="gap")(x))
    model = keras.Model(image, layers.Dense(4, name="logits")(x))
    network = analyse(model, input_signed=False)
    quantized = quantize_model(
        model,
        network,
        {node.name: (2, 4, 8) for node in network.weighted},
        dict.fromkeys(network.tensors, (8,)),
        SPLIT.array.astype(np.float32) / 255,
        (0.0, 1.0),
    )
    trainer = QuantizedTraining(quantized.inputs[0], quantized.outputs[0])
    radius = RadiusSchedule("inverse", window=2)
    trainer.configure(SharpnessOptions(radius, second_gradient_every=second_gradient_every))
    trainer.compile(optimizer=QuantizationOptimizer(rate), jit_compile=True)
    with pytest.MonkeyPatch.context() as patch, computing_in(precision, trainer):
        patch.setattr(recorder, "time", reporter)
        patch.setattr(recorder, "CHECKPOINT_SECONDS", 0.0)  # one after every step
        train(trainer, batches(BATCHES), epochs=EPOCHS, stage=Stage(folder, "search"), reporter=reporter,
              label="search", frozen_statistics_epochs=FROZEN)  # fmt: skip
    everything = [*trainer.variables, *trainer.optimizer.variables]
    return {f"{i} {v.path.split('/')[-1]}": v.numpy() for i, v in enumerate(everything)}


def batches(steps: int) -> ImageBatches:
    return ImageBatches(
        SPLIT, 8, image_shape=(8, 8, 3), preprocessing="unit", seed=5, augment="crop", steps_per_epoch=steps
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A training in one go, and BatchNorm's mean in the checkpoint after every step."""
    folder, means = tmp_path_factory.mktemp("whole"), []
    save = Stage.save_checkpoint

    def save_and_look(stage: Stage, variables: Any, position: dict[str, int], network: Any) -> None:
        save(stage, variables, position, network)
        with np.load(stage.path(".npz")) as stored:
            mean = next(stored[name] for name in stored.files if name.endswith("moving_mean"))
            means.append((position["step"], mean))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "save_checkpoint", save_and_look)
        return SimpleNamespace(result=train_small(folder, Watcher()), folder=folder, means=dict(means))


def test_checkpoints_hold_the_present_values_and_batch_norm_rests_at_last(uninterrupted) -> None:
    """In mid-epoch too; and the compiled step is traced anew for the last epochs."""
    means = [uninterrupted.means[step] for step in range(1, BATCHES * EPOCHS + 1)]
    moved = [bool(np.any(one != other)) for one, other in itertools.pairwise(means)]
    resting = BATCHES * FROZEN
    assert moved == [True] * (len(moved) - resting) + [False] * resting


def test_an_interrupted_training_ends_as_an_uninterrupted_one(uninterrupted, tmp_path: Path) -> None:
    """Bit by bit; interrupted within an epoch, and within the one with frozen statistics."""
    for at in (5, 9):
        with pytest.raises(KeyboardInterrupt):
            train_small(tmp_path, Watcher(interrupt_at=at))
    reporter = Watcher()
    resumed = train_small(tmp_path, reporter)
    assert "Resuming search at step 8 of 9." in reporter.messages
    assert list(resumed) == list(uninterrupted.result)
    for name, value in resumed.items():
        np.testing.assert_array_equal(value, uninterrupted.result[name], name)
    assert (tmp_path / "search.csv").read_text() == (uninterrupted.folder / "search.csv").read_text()


def test_images_on_the_device_change_nothing(
    uninterrupted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches are made there, and are those of the host."""
    monkeypatch.setattr(loop, "accelerated", lambda: True)
    source = batches(BATCHES)
    assert source.hold_on_device(compiled) is not None
    images, labels = source[0]
    assert isinstance(images, jax.Array)
    for found, expected in zip((images, labels), batches(BATCHES).batch(0, 0), strict=True):
        np.testing.assert_array_equal(found, expected)
    for name, value in train_small(tmp_path, Watcher()).items():
        np.testing.assert_array_equal(value, uninterrupted.result[name], name)


def test_a_training_on_jpeg_files_is_read_by_grain_and_resumed(tmp_path: Path) -> None:
    """Pixels come as uint8, are scaled in the step, and are the same again, bit by bit."""
    generator = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.jpg" for number in range(12)]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    split = Split(np.arange(12) % 4, encoded=Places.whole_files(Paths.of(paths)))
    found = []
    for name, interruptions in (("whole", ()), ("parts", (4,))):
        (tmp_path / name).mkdir()
        for at in (*interruptions, None):
            keras.utils.set_random_seed(3)
            model = dense()
            data = ImageBatches(
                split, 4, image_shape=(8, 8, 3), preprocessing="torch", augment="imagenet", seed=2
            )
            stage, reporter = Stage(tmp_path / name, "float"), Watcher(at)
            with pytest.raises(KeyboardInterrupt) if at else contextlib.nullcontext():
                train(model, data, epochs=2, stage=stage, reporter=reporter, label="float")
        assert data[0][0].dtype == np.uint8
        found.append([np.asarray(variable) for variable in model.variables])
    for whole, parts in zip(*found, strict=True):
        np.testing.assert_array_equal(whole, parts)


def test_two_devices_train_as_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Norm of the gradient, gap and statistics are those of the whole batch, which is really split."""
    split: list[int] = []
    distribute = jax.make_array_from_process_local_data

    def watched(sharding: Any, data: Any) -> Any:
        made = distribute(sharding, data)
        split.append(len({str(shard.index) for shard in made.addressable_shards}))
        return made

    monkeypatch.setattr(jax, "make_array_from_process_local_data", watched)
    # Small steps: an activation on the edge between two levels would tell the last bits of sums apart.
    options = {"rate": 1e-4, "second_gradient_every": 2}
    one = train_small(tmp_path / "one", Watcher(), **options)
    assert split == []
    monkeypatch.setattr(loop, "accelerated", lambda: True)  # the images lie on the first device, for both
    with strategy("data-parallel"), pytest.raises(KeyboardInterrupt):
        train_small(tmp_path / "two", Watcher(interrupt_at=4), **options)
    with strategy("data-parallel"):
        two = train_small(tmp_path / "two", Watcher(), **options)
    assert set(split) == {2}
    logs = []
    for folder in ("one", "two"):
        with (tmp_path / folder / "search.csv").open(newline="") as file:
            logs.append(list(csv.DictReader(file)))
    for ours, theirs in zip(*logs, strict=True):
        for name in ("loss", "perturbed_loss", "gap", "gradient_norm", "rho"):
            assert float(theirs[name]) == pytest.approx(float(ours[name]), rel=1e-3, abs=2e-6), name
    for name, value in one.items():
        # What is orthogonal to a gradient of one element is nothing but rounding.
        tolerance = 1e-4 if "rejection" in name else 2e-6
        np.testing.assert_allclose(two[name], value, atol=tolerance, rtol=1e-4, err_msg=name)


def test_a_search_in_bfloat16_is_resumed_bit_by_bit(uninterrupted, tmp_path: Path) -> None:
    """Its state is in float32, and its losses are near those of float32."""
    whole = train_small(tmp_path / "whole", Watcher(), precision="bfloat16")
    with pytest.raises(KeyboardInterrupt):
        train_small(tmp_path / "parts", Watcher(interrupt_at=5), precision="bfloat16")
    parts = train_small(tmp_path / "parts", Watcher(), precision="bfloat16")
    for name, value in whole.items():
        np.testing.assert_array_equal(parts[name], value, name)
        assert value.dtype == uninterrupted.result[name].dtype
    first = []
    for folder in (uninterrupted.folder, tmp_path / "whole"):
        with (folder / "search.csv").open(newline="") as file:
            first.append(next(csv.DictReader(file)))
    assert float(first[1]["loss"]) == pytest.approx(float(first[0]["loss"]), rel=0.02)


def test_data_parallel_training_needs_batches_that_can_be_split(tmp_path: Path) -> None:
    data = ImageBatches(SPLIT, 5, image_shape=(8, 8, 3), preprocessing="unit")
    with strategy("data-parallel"), pytest.raises(UsageError, match="5 images for 2 devices"):
        train(dense(), data, epochs=1, stage=Stage(tmp_path, "float"), reporter=SilentReporter(), label="f")


def dense() -> FloatTraining:
    """A model with metrics, compiled."""
    image = keras.Input((8, 8, 3))
    model = FloatTraining(image, layers.Dense(4)(layers.Flatten()(image)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="sgd", loss=loss, metrics=["accuracy"], jit_compile=True)
    return model


@pytest.mark.parametrize("steps", [1, 2])
def test_metrics_built_from_a_peek_do_not_shift_the_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    data, seen = batches(steps), []
    deliver = ImageBatches.batch
    monkeypatch.setattr(
        ImageBatches, "batch", lambda self, *place: seen.append(place) or deliver(self, *place)
    )
    train(dense(), data, epochs=2, stage=Stage(tmp_path, "float"), reporter=SilentReporter(), label="float")
    assert seen[-2 * steps :] == [(epoch, index) for epoch in range(2) for index in range(steps)]


def test_an_interruption_while_a_step_is_waited_for_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras converts metrics under a bare `except`."""
    convert = keras.src.backend.convert_to_numpy
    monkeypatch.setattr(
        keras.src.backend,
        "convert_to_numpy",
        lambda value: signal.raise_signal(signal.SIGINT) or convert(value),
    )
    stage, handler = Stage(tmp_path, "float"), signal.default_int_handler
    before = signal.signal(signal.SIGINT, handler)  # a process in the background begins with SIGINT ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            train(dense(), batches(2), epochs=2, stage=stage, reporter=SilentReporter(), label="float")
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
