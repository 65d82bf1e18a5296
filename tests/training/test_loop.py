"""The training loop: the same run gives the same result, however often it was interrupted."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from tfmpq.data import ImageBatches, Split
from tfmpq.errors import TfmpqError
from tfmpq.policy.expected_cost import ExpectedCost
from tfmpq.policy.network_cost import cost_model
from tfmpq.progress import SilentReporter
from tfmpq.training import recorder
from tfmpq.training.loop import train
from tfmpq.training.optimizer import QuantizationOptimizer
from tfmpq.training.run_folder import Stage
from tfmpq.training.sharpness import RadiusSchedule
from tfmpq.training.step import BudgetTerm, QuantizedTraining, SharpnessOptions

BATCH, STEPS, EPOCHS = 8, 2, 3
TOTAL = STEPS * EPOCHS
SPLIT = Split(
    (np.arange(30) % 4).astype(np.int64), np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8)
)


class Clock:
    """Time passes by the step, so that every step ends with a checkpoint."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Watcher(SilentReporter):
    """Counts steps, moves the clock, and interrupts like Ctrl-C when it is asked to."""

    def __init__(self, clock: Clock | None = None, interrupt_at: int | None = None) -> None:
        self.steps: list[dict[str, float]] = []
        self.messages: list[str] = []
        self.done = self.total = 0
        self._clock, self._interrupt_at = clock, interrupt_at

    def log(self, message: str) -> None:
        self.messages.append(message)

    def start(self, stage: str, total: int) -> None:
        self.total = total

    def advance(self, steps: int = 1, metrics: Any = None) -> None:
        self.done += steps
        if metrics is not None:
            self.steps.append(dict(metrics))
        if self._clock is not None:
            self._clock.now += 100.0
        if self.done == self._interrupt_at:
            raise KeyboardInterrupt


def network() -> keras.Model:
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, strides=2, use_bias=False, name="conv")(image)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D(name="gap")(x))
    return keras.Model(image, layers.Dense(4, name="logits")(x))


@pytest.fixture
def trainer(searchable) -> Callable[..., QuantizedTraining]:
    def make(rate: float = 0.1, eager: bool = True) -> QuantizedTraining:
        made = searchable((2, 4, 8), (8,), build=network, seed=3)
        costs = cost_model(made.network)
        candidates = {name: (8,) for name in made.network.tensors}
        expected = ExpectedCost(costs, {n.name: (2, 4, 8) for n in made.network.weighted}, candidates)
        model = QuantizedTraining(made.quantized.inputs[0], made.quantized.outputs[0])
        model.configure(
            SharpnessOptions(RadiusSchedule("inverse", window=2)), BudgetTerm(expected, {"size": 0.5}, 0.1)
        )
        schedule = keras.optimizers.schedules.CosineDecay(rate, TOTAL)
        model.compile(optimizer=QuantizationOptimizer(schedule), run_eagerly=eager, jit_compile=False)
        return model

    return make


def run(
    model: keras.Model, folder: Path, reporter: Watcher, frozen_epochs: int = 1, epochs: int = EPOCHS
) -> dict[str, np.ndarray]:
    """All variables after a training, in their order."""
    folder.mkdir(exist_ok=True)
    batches = ImageBatches(
        SPLIT,
        BATCH,
        image_shape=(8, 8, 3),
        preprocessing="unit",
        seed=5,
        augment="crop",
        steps_per_epoch=STEPS,
    )
    train(
        model,
        batches,
        epochs=epochs,
        stage=Stage(folder, "search"),
        reporter=reporter,
        label="search",
        frozen_statistics_epochs=frozen_epochs,
    )
    everything = [*model.variables, *model.optimizer.variables]
    return {f"{i} {v.path.split('/')[-1]}": v.numpy() for i, v in enumerate(everything)}


def log_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "search.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def events_of(folder: Path) -> list[dict[str, float]]:
    """What TensorBoard reads, as rows like those of the log."""
    import tensorflow as tf

    rows = []
    for file in sorted((folder / "tensorboard" / "search").iterdir()):
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            if event.summary.value:
                rows.append({"step": event.step, **{v.tag: v.simple_value for v in event.summary.value}})
    return rows


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert list(one) == list(other)
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], name)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> SimpleNamespace:
    return SimpleNamespace(result=None, folder=tmp_path_factory.mktemp("whole"))


@pytest.fixture
def whole(uninterrupted: SimpleNamespace, trainer) -> SimpleNamespace:
    """One training in one go; made once."""
    if uninterrupted.result is None:
        reporter = Watcher()
        uninterrupted.result = run(trainer(), uninterrupted.folder, reporter)
        uninterrupted.reporter = reporter
    return uninterrupted


def test_every_step_is_told_and_logged(whole) -> None:
    told = (whole.reporter.done, whole.reporter.total, len(whole.reporter.messages))
    assert told == (TOTAL, TOTAL, 0)
    table = log_of(whole.folder)
    assert [int(row["step"]) for row in table] == list(range(TOTAL))
    for row, metrics in zip(table, whole.reporter.steps, strict=True):
        assert float(row["loss"]) == pytest.approx(metrics["loss"], rel=1e-6)
    for name in ("perturbed_loss", "gap", "rho", "accuracy", "expected_size", "expected_bits"):
        assert name in table[0]
    assert events_of(whole.folder) == [
        {name: np.float32(value) for name, value in row.items()} for row in table
    ]


def test_the_same_seed_and_data_give_the_same_policy_logits_bitwise(whole, trainer, tmp_path: Path) -> None:
    again = run(trainer(), tmp_path, Watcher())
    same(again, whole.result)
    logits = [value for name, value in again.items() if name.endswith("weight_bit_logits")]
    assert len(logits) == 2
    assert all(np.ptp(value) > 0 for value in logits)
    assert log_of(tmp_path) == log_of(whole.folder)


@pytest.mark.parametrize(
    ("interruptions", "resumed"), [((1,), None), ((3,), 2), ((3, 4), 3), ((3, 6), 4), ((1, 3, 4, 5), 4)]
)
def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    whole, trainer, tmp_path: Path, monkeypatch, interruptions: tuple[int, ...], resumed: int | None
) -> None:
    """Within an epoch, at its end, and in the epochs with frozen statistics; seed generators included."""
    clock = Clock()
    monkeypatch.setattr(recorder, "time", clock)
    for at in interruptions:
        with pytest.raises(KeyboardInterrupt):
            run(trainer(), tmp_path, Watcher(clock, interrupt_at=at))
    reporter = Watcher(clock)
    same(run(trainer(), tmp_path, reporter), whole.result)
    expected = [] if resumed is None else [f"Resuming search at step {resumed} of {TOTAL}."]
    assert [line for line in reporter.messages if line.startswith("Resuming")] == expected
    assert log_of(tmp_path) == log_of(whole.folder)
    assert events_of(tmp_path) == events_of(whole.folder)
    assert reporter.done == TOTAL


def test_a_finished_training_is_not_trained_again(whole, trainer) -> None:
    reporter = Watcher()
    same(run(trainer(), whole.folder, reporter), whole.result)
    assert reporter.steps == []


@pytest.mark.slow
def test_the_traced_step_resumes_bitwise_too(trainer, tmp_path: Path) -> None:
    """Interrupted in the second epoch, resumed from the end of the first."""
    expected = run(trainer(eager=False), tmp_path / "whole", Watcher(), frozen_epochs=0, epochs=2)
    with pytest.raises(KeyboardInterrupt):
        run(trainer(eager=False), tmp_path / "parts", Watcher(interrupt_at=4), frozen_epochs=0, epochs=2)
    same(run(trainer(eager=False), tmp_path / "parts", Watcher(), frozen_epochs=0, epochs=2), expected)


def after_every_step(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Call a function with the number of steps done, as soon as each is made."""
    record = recorder.Recorder.on_train_batch_end

    def recorded(self: Any, batch: int, logs: Any = None) -> None:
        record(self, batch, logs)
        act(self.done)

    monkeypatch.setattr(recorder.Recorder, "on_train_batch_end", recorded)


def test_batch_norm_rests_in_the_last_epochs(trainer, tmp_path: Path, monkeypatch) -> None:
    seen: list[list[np.ndarray]] = []
    model = trainer()
    after_every_step(
        monkeypatch, lambda _: seen.append([v.numpy() for v in model.variables if "moving" in v.path])
    )
    run(model, tmp_path, Watcher(), frozen_epochs=2)
    moved = [any(np.any(a != b) for a, b in zip(x, y, strict=True)) for x, y in itertools.pairwise(seen)]
    assert moved == [True] * (STEPS - 1) + [False] * (2 * STEPS)


def assign(model: keras.Model, path: str, value: float) -> None:
    """Set the first element of a variable."""
    variable = next(v for v in model.variables if v.path.endswith(path))
    values = variable.numpy()
    values.flat[0] = value
    variable.assign(values)


@pytest.mark.parametrize(
    ("path", "value", "cause"),
    [
        ("conv/kernel", np.nan, "variable 'kernel' of layer 'conv'"),
        ("bn/gamma", np.inf, "variable 'gamma' of layer 'bn'"),
        # A finite variable, whose exponential is not.
        ("relu/output_log_step", 100.0, "the output of layer 'relu'"),
    ],
)
def test_the_first_tensor_that_is_not_finite_is_named(
    trainer, tmp_path: Path, path: str, value: float, cause: str
) -> None:
    model = trainer()
    assign(model, path, value)
    with pytest.raises(TfmpqError, match="The loss has to stay finite") as caught:
        run(model, tmp_path, Watcher())
    assert f"at step 0; not finite first: {cause}. No step before it was stored" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("eager", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_training_that_diverges_stops_at_its_step_and_leaves_the_checkpoint(
    trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eager: bool
) -> None:
    """The rate explodes in the fifth step: the sixth begins with steps of no finite size."""
    monkeypatch.setattr(recorder, "CHECKPOINT_SECONDS", np.inf)  # at the end of an epoch only, however slow

    def diverging() -> keras.Model:
        model = trainer(eager=eager)
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay([3], [0.01, 1e38])
        model.compile(optimizer=QuantizationOptimizer(schedule), run_eagerly=eager, jit_compile=False)
        return model

    messages = []
    for _ in range(2):
        reporter = Watcher()
        with pytest.raises(TfmpqError, match="The loss has to stay finite") as caught:
            run(diverging(), tmp_path, reporter)
        messages.append(str(caught.value))
        fresh = diverging()
        fresh.optimizer.build(fresh.trainable_variables)
        restored = [*fresh.variables, *fresh.optimizer.variables]
        assert Stage(tmp_path, "search").load_checkpoint(restored) == {"step": 2 * STEPS}
        assert all(np.all(np.isfinite(v.numpy())) for v in restored)
    assert messages[0] == messages[1]
    assert "at step 5; not finite first: " in messages[0]
    assert "layer 'conv'" in messages[0]
    assert f"The checkpoint of step {2 * STEPS} is kept" in messages[0]
    assert [int(row["step"]) for row in log_of(tmp_path)] == list(range(2 * STEPS))
    assert reporter.messages[-1].startswith("Playing the last steps again")


def test_what_does_not_happen_again_is_said_so(trainer, tmp_path: Path, monkeypatch) -> None:
    """Something outside the computation has spoilt a variable, once."""
    model = trainer()
    after_every_step(
        monkeypatch, lambda done: assign(model, "logits/kernel", np.nan) if done == STEPS + 1 else None
    )
    with pytest.raises(TfmpqError, match="nothing of the first pass") as caught:
        run(model, tmp_path, Watcher())
    assert f"at step {STEPS + 1}" in str(caught.value)
    fresh = trainer()
    fresh.optimizer.build(fresh.trainable_variables)
    restored = [*fresh.variables, *fresh.optimizer.variables]
    assert Stage(tmp_path, "search").load_checkpoint(restored) == {"step": STEPS}
    assert all(np.all(np.isfinite(v.numpy())) for v in restored)


def test_metrics_are_fetched_when_the_next_step_is_under_way(trainer, tmp_path: Path, monkeypatch) -> None:
    """The host has the time of a whole step for what it does beside; only the end of an epoch waits."""
    events: list[str] = []
    after_every_step(monkeypatch, lambda done: events.append(f"made {done - 1}"))

    class Told(Watcher):
        def advance(self, steps: int = 1, metrics: Any = None) -> None:
            super().advance(steps, metrics)
            if metrics is not None:
                events.append(f"told {self.done - 1}")

    run(trainer(), tmp_path, Told())
    told = {n: events.index(f"told {n}") for n in range(TOTAL)}
    made = {n: events.index(f"made {n}") for n in range(TOTAL)}
    for n in range(TOTAL):
        last = n % STEPS == STEPS - 1
        # Being told of step n belongs to recording step n + 1, which is computed by then.
        assert made[n] < told[n] < (made[n + 1] if not last else len(events))
    assert [int(row["step"]) for row in log_of(tmp_path)] == list(range(TOTAL))


def test_a_dead_search_stops_and_names_the_layer(trainer, tmp_path: Path) -> None:
    model = trainer()
    for variable in model.variables:
        if variable.path.endswith(("relu/output_log_step", "logits/output_log_step")):
            variable.assign(np.full(variable.shape, -60.0))  # everything lies beyond the range
    with pytest.raises(TfmpqError, match="A gradient has to be one to learn from") as caught:
        run(model, tmp_path, Watcher())
    assert "a norm of 0 at step 2, the last of 3 such steps" in str(caught.value)
    assert "layer 'relu' gives one of two values only" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_exploding_search_stops_and_keeps_the_checkpoint_before(
    trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = QuantizedTraining.compute_update
    usual = []

    def exploding(self: Any, *arguments: Any) -> Any:
        gradients, state, metrics = compute(self, *arguments)
        usual.append(float(metrics["gradient_norm"]))
        large = 1e6 if len(usual) > STEPS else 1.0
        return gradients, state, metrics | {"gradient_norm": metrics["gradient_norm"] * large}

    monkeypatch.setattr(QuantizedTraining, "compute_update", exploding)
    with pytest.raises(TfmpqError, match="A gradient has to be one to learn from") as caught:
        run(trainer(), tmp_path, Watcher())
    assert f"at step {STEPS + 2}" in str(caught.value)
    assert f"The checkpoint of step {STEPS} is kept" in str(caught.value)
    found = float(str(caught.value).split("(float network: ")[1].split(")")[0])
    assert usual[0] / 100 < found < usual[0] * 100


def test_a_large_gradient_is_no_explosion_where_the_float_networks_is_as_large(
    trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "LARGE", 0.0)  # so that every step is compared
    run(trainer(), tmp_path, Watcher())
