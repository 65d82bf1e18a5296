"""Run folders: atomic files, one process at a time, the same options, checkpoints of the same network."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from tfmpq.errors import TfmpqError, UsageError
from tfmpq.files import read_json, write_atomically, write_json
from tfmpq.progress import SilentReporter
from tfmpq.training.checkpoints import described
from tfmpq.training.logs import StepLog
from tfmpq.training.run_folder import Stage, load_keras, locked

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""


def variables(seed: int = 0, shapes=((2, 3), (4,)), names=("kernel", "bias")) -> list[keras.Variable]:
    generator = np.random.default_rng(seed)
    return [
        keras.Variable(generator.normal(size=s).astype("float32"), name=n)
        for s, n in zip(shapes, names, strict=True)
    ]


def content(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})

    def fail(temporary: Path) -> None:
        temporary.write_text("half of", encoding="utf-8")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, fail)
    assert read_json(path) == {"a": 1}
    assert content(tmp_path) == ["value.json"]


def test_a_failed_checkpoint_leaves_the_one_before(tmp_path: Path, monkeypatch) -> None:
    stage = Stage(tmp_path, "search")
    stage.save_checkpoint(variables(1), {"step": 5})

    def fail(file, **arrays) -> None:
        file.write(b"PK half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", fail)
        with pytest.raises(OSError, match="No space left"):
            stage.save_checkpoint(variables(2), {"step": 6})
    assert content(tmp_path) == ["search.npz"]
    restored = variables(3)
    assert stage.load_checkpoint(restored) == {"step": 5}
    for value, expected in zip(restored, variables(1), strict=True):
        np.testing.assert_array_equal(value.numpy(), expected.numpy())


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-S", "-c", HOLD, str(tmp_path / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(TfmpqError, match="one process at a time") as caught, locked(tmp_path):
            pass
        assert caught.value.exit_code == 1
        child.communicate("\n")
    with locked(tmp_path):
        pass


def test_the_lock_ends_with_an_error(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "run", "search")
    with pytest.raises(KeyboardInterrupt), stage.opened({"seed": 1}):
        raise KeyboardInterrupt
    with stage.opened({"seed": 1}) as finished:
        assert finished is None


def test_a_call_that_fails_before_its_first_checkpoint_leaves_the_folder_to_a_corrected_one(
    tmp_path: Path,
) -> None:
    Stage(tmp_path, "search").save_checkpoint(variables(1), {"step": 1})
    stage = Stage(tmp_path, "finetune")
    with pytest.raises(UsageError), stage.opened({"weights": None}):
        raise UsageError("no weights")
    with contextlib.suppress(KeyboardInterrupt), stage.opened({"weights": "none"}):
        stage.save_checkpoint(variables(1), {"step": 1})
        raise KeyboardInterrupt
    with pytest.raises(UsageError, match="is resumed"), stage.opened({"weights": None}):
        pass


def test_options_have_to_be_the_same_and_the_first_difference_is_named(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "search")
    options = {"model": "resnet8", "seed": 1, "bits": (2, 4)}
    with stage.opened(options):
        pass
    with stage.opened(options) as finished:  # tuples come back as lists, and still are the same
        assert finished is None
    with pytest.raises(UsageError, match=r"seed=2 where .* has 1"), stage.opened({**options, "seed": 2}):
        pass
    with pytest.raises(UsageError, match="epochs=3 where"), stage.opened({**options, "epochs": 3}):
        pass
    with (
        pytest.raises(UsageError, match=r"bits=None where .* has \[2, 4\]"),
        stage.opened({"model": "resnet8", "seed": 1}),
    ):
        pass
    with Stage(tmp_path, "finetune").opened({"seed": 7}):  # another stage of the folder is its own
        pass
    assert read_json(tmp_path / "search.json")["seed"] == 1


def test_a_finished_stage_yields_its_result(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "search")
    with stage.opened({"seed": 1}):
        write_json(stage.path(".result.json"), {"top1": 0.5})
    with stage.opened({"seed": 1}) as finished:
        assert finished == {"top1": 0.5}


def test_missing_and_damaged_json(tmp_path: Path) -> None:
    with pytest.raises(TfmpqError, match="which has none"):
        read_json(tmp_path / "search.json")
    (tmp_path / "search.json").write_text('{"half": ')
    with pytest.raises(TfmpqError, match="is JSON"):
        read_json(tmp_path / "search.json")
    with pytest.raises(TfmpqError, match="is JSON"), Stage(tmp_path, "search").opened({}):
        pass


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert Stage(tmp_path, "search").load_checkpoint(variables()) is None


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "flipped"])
def test_a_damaged_checkpoint_is_named_and_changes_nothing(tmp_path: Path, damage: str) -> None:
    stage = Stage(tmp_path, "search")
    stage.save_checkpoint(variables(1), {"step": 5})
    path = stage.path(".npz")
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[data.index(variables(1)[0].numpy().tobytes())] ^= 0xFF
    replaced = {"empty": b"", "text": b"no archive", "truncated": data[: len(data) // 2], "flipped": data}
    path.write_bytes(replaced[damage])
    restored = variables(3)
    with pytest.raises(TfmpqError, match=r"A checkpoint is an npz file.*search\.npz") as caught:
        stage.load_checkpoint(restored)
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(restored[0].numpy(), variables(3)[0].numpy())


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (
            variables(names=("kernel", "gamma")),
            r"'00001 bias \(4,\)' where the network has '00001 gamma \(4,\)'",
        ),
        (variables(shapes=((2, 3), (5,))), r"'00001 bias \(4,\)' where the network has '00001 bias \(5,\)'"),
        (variables()[:1], r"'00001 bias \(4,\)' where the network has 'nothing'"),
        (variables() + variables()[:1], r"'nothing' where the network has '00002 kernel \(2, 3\)'"),
    ],
)
def test_the_checkpoint_of_another_network_is_refused(tmp_path: Path, other, difference: str) -> None:
    stage = Stage(tmp_path, "search")
    stage.save_checkpoint(variables(1), {"step": 5})
    before = [v.numpy() for v in other]
    with pytest.raises(TfmpqError, match=difference):
        stage.load_checkpoint(other)
    for variable, value in zip(other, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


class Listener(SilentReporter):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def log(self, message: str) -> None:
        self.messages.append(message)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_checkpoint_falls_back_to_the_one_before(tmp_path: Path, keep: float) -> None:
    """Which a following checkpoint does not overwrite with the damaged one."""
    stage, restored, listener = Stage(tmp_path, "search"), variables(3), Listener()
    stage.save_checkpoint(variables(1), {"step": 5})
    stage.save_checkpoint(variables(2), {"step": 6})
    path = stage.path(".npz")
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    assert stage.load_checkpoint(restored, reporter=listener) == {"step": 5}
    np.testing.assert_array_equal(restored[0].numpy(), variables(1)[0].numpy())
    (message,) = listener.messages
    assert "The newest checkpoint is damaged; the one before it is used." in message
    assert "search.npz" in message
    assert content(tmp_path) == ["search.npz"]
    assert stage.load_checkpoint(restored, reporter=listener) == {"step": 5}
    assert len(listener.messages) == 1


@pytest.mark.parametrize("links", [True, False])
def test_a_kill_between_two_renamings_leaves_a_checkpoint(tmp_path: Path, monkeypatch, links: bool) -> None:
    stage, restored = Stage(tmp_path, "search"), variables(3)
    stage.save_checkpoint(variables(1), {"step": 5})
    replace = os.replace

    def killed(source: Path, target: Path) -> None:
        replace(source, target)
        raise SystemExit

    def unsupported(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        if not links:
            patch.setattr(os, "link", unsupported)
        with pytest.raises(SystemExit):
            stage.save_checkpoint(variables(2), {"step": 6})
    assert content(tmp_path) == ["search.npz"] * links + ["search.previous.npz"]
    assert stage.load_checkpoint(restored) == {"step": 5}
    stage.save_checkpoint(variables(2), {"step": 6})
    assert stage.load_checkpoint(restored) == {"step": 6}


def test_what_a_killed_process_left_is_swept_and_a_finished_stage_keeps_one_checkpoint(
    tmp_path: Path,
) -> None:
    stage = Stage(tmp_path, "search")
    with stage.opened({"seed": 1}):
        for step in (3, 4):
            Stage(tmp_path, "float").save_checkpoint(variables(step), {"step": step})
        stage.save_checkpoint(variables(1), {"step": 5})
        stage.save_checkpoint(variables(2), {"step": 6})
    left = [".search.tmp-x1.npz", ".search.result.tmp-x2.json", ".policy.tmp-x3.yaml", ".float.tmp-x4.npz"]
    for name in [*left, ".mine.npz"]:
        (tmp_path / name).write_bytes(b"PK half")
    with stage.opened({"seed": 1}):
        kept = [".lock", ".mine.npz", "float.npz", "search.json", "search.npz"]
        assert content(tmp_path) == sorted([*kept, "float.previous.npz", "search.previous.npz"])
        write_json(stage.path(".result.json"), {"top1": 0.5})
    assert content(tmp_path) == [*kept, "search.result.json"]


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"strides": 2}, "layer conv strides 1 where the network has 2"),
        ({"activation": "relu"}, 'layer conv activation "linear" where the network has "relu"'),
        ({"more": True}, r"layer null where the network has .*relu"),
    ],
)
def test_another_network_of_the_same_shapes_is_refused(tmp_path: Path, change, difference: str) -> None:
    def model(strides: int = 1, activation: str | None = None, more: bool = False) -> keras.Model:
        image = keras.Input((4, 4, 3), name="image")
        x = keras.layers.Conv2D(2, 1, strides=strides, activation=activation, name="conv")(image)
        return keras.Model(image, keras.layers.ReLU(name="relu")(x) if more else x)

    first, other = model(), model(**change)
    stage = Stage(tmp_path, "search")
    stage.save_checkpoint(first.variables, {"step": 2}, described(first))
    before = other.get_weights()
    with pytest.raises(TfmpqError, match=difference):
        stage.load_checkpoint(other.variables, described(other))
    for one, two in zip(before, other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    again = model()
    assert stage.load_checkpoint(again.variables, described(again)) == {"step": 2}


def test_arguments_of_a_later_version_do_not_matter(tmp_path: Path) -> None:
    """A checkpoint of an older version does not say what its layers could not yet be asked for."""
    image = keras.Input((3,))
    network = keras.Model(image, keras.layers.Dense(2, name="dense")(image))
    new = described(network)
    old = json.loads(json.dumps(new))
    del next(layer for layer in old if layer["name"] == "dense")["config"]["use_bias"]
    stage = Stage(tmp_path, "search")
    stage.save_checkpoint(network.variables, {"step": 2}, old)
    assert stage.load_checkpoint(network.variables, new) == {"step": 2}
    stage.save_checkpoint(network.variables, {"step": 3}, new)
    with pytest.raises(TfmpqError, match="layer dense use_bias true where the network has null"):
        stage.load_checkpoint(network.variables, old)


def test_numbers_that_keras_gives_out_do_not_matter(tmp_path: Path) -> None:
    """A second model of the process has other automatic names, and is the same network."""

    def model() -> keras.Model:
        image = keras.Input((3,))
        return keras.Model(image, keras.layers.Dropout(0.5)(keras.layers.Dense(2)(image)))

    first, second = model(), model()
    assert [v.path for v in first.variables] != [v.path for v in second.variables]
    stage = Stage(tmp_path, "search")
    stage.save_checkpoint(first.variables, {"step": 2}, described(first))
    assert stage.load_checkpoint(second.variables, described(second)) == {"step": 2}
    for ours, theirs in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_models_are_stored_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "finetune")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    stage.save_model(model)
    loaded = stage.load_model()
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])
    assert content(tmp_path) == ["finetune.keras"]
    path = stage.path(".keras")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(TfmpqError, match=r"'finetune\.keras' is a Keras model") as caught:
        stage.load_model()
    assert "\n" not in str(caught.value)
    with pytest.raises(TfmpqError, match="which has none"):
        load_keras(tmp_path / "absent.keras")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_log_drops_rows_beyond_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "search.csv"
    log = StepLog(path, 0)
    for step in range(5):
        log.add(step, {"loss": step / 3, "bits": 4.0})
        if step % 2:
            log.flush()
    log.flush()
    assert [row["step"] for row in rows(path)] == ["0", "1", "2", "3", "4"]
    log = StepLog(path, 3)
    log.add(3, {"loss": 9.0, "bits": 2.0})
    log.flush()
    found = rows(path)
    assert [row["step"] for row in found] == ["0", "1", "2", "3"]
    assert (found[1]["loss"], found[3]["loss"], found[3]["bits"]) == ("0.3333333", "9", "2")
    StepLog(path, 3).flush()
    assert [row["step"] for row in rows(path)] == ["0", "1", "2"]
    log = StepLog(path, 0)  # a start from the beginning
    log.add(0, {"loss": 1.0})
    log.flush()
    assert [row["step"] for row in rows(path)] == ["0"]


@pytest.mark.parametrize("end", ["1", "12", "12,", "12,0.5", "12,0.5,"])
def test_a_last_row_that_was_cut_off_is_no_row(tmp_path: Path, end: str) -> None:
    path = tmp_path / "search.csv"
    lines = ["step,loss,bits", *(f"{step},0.5,4" for step in range(12)), end]
    path.write_text("\n".join(lines))
    StepLog(path, 12).flush()
    assert [int(row["step"]) for row in rows(path)] == list(range(12))
