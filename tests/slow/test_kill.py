"""A run that is killed with SIGKILL at random moments ends, bit by bit, as one that was left alone."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tfmpq.policy.policy import load_policy
from tfmpq.training.run_folder import load_keras

pytestmark = pytest.mark.slow

KILLS = 10
"""Of each verb."""

NETWORK = """
import keras
from keras import layers


def tiny(input_shape, classes):
    image = keras.Input(input_shape, name="image")
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = layers.ReLU(name="stem_relu")(x)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="down")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(0.2, name="dropout")(x)
    return keras.Model(image, layers.Dense(classes, name="logits")(x), name="tiny")
"""

SEARCH = (
    "search --model networks:tiny --proxy npz:images.npz --budget size=0.7x --budget bops=0.9x "
    "--float-epochs 10 --epochs 20 --steps-per-epoch 3 --batch-size 16 --seed 4 --out run --json"
)
FINETUNE = (
    "finetune run --target npz:images.npz --epochs 20 --steps-per-epoch 3 --batch-size 16 --out run --json"
)

# Every command gets a process of its own, forked from one that has imported TensorFlow but not used it: the
# many starts cost little then. Checkpoints come within an epoch too, with some work between them.
SERVER = """
import json, os, sys
import tfmpq.api.finetune, tfmpq.api.search
from tfmpq.training import recorder
from tfmpq.cli.main import main
recorder.CHECKPOINT_SECONDS = 0.05
for line in sys.stdin:
    folder, command = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.chdir(folder)
        sys.path.insert(0, folder)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open("messages", os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)
        try:
            main(command.split(), prog_name="tfmpq")
        except SystemExit as end:
            os._exit(end.code)
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""


class Command:
    """A command line that runs in a child process of the server."""

    def __init__(self, server: subprocess.Popen[bytes], folder: Path, line: str) -> None:
        server.stdin.write(json.dumps([str(folder), line]).encode() + b"\n")
        self._answers = server.stdout
        self._pid = int(self._answers.readline())

    def ended(self) -> bool:
        """Whether the server has told how it ended."""
        return bool(select.select([self._answers], [], [], 0)[0])

    def kill(self) -> bool:
        """Kill it; whether that was what ended it, or it had come to its end."""
        if not self.ended():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        status = self.wait()
        assert status in (0, signal.SIGKILL)
        return status == signal.SIGKILL

    def wait(self) -> int:
        """Status of its end."""
        return int(self._answers.readline())


@dataclass(frozen=True)
class Outcome:
    """Everything that a stage leaves, and how long it took."""

    arrays: dict[str, np.ndarray]
    logs: dict[str, list[list[str]]]
    result: dict[str, object]
    seconds: float


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,  # `select` would not see what a buffer holds
    ) as process:
        yield process
        process.communicate()


def finish(server: subprocess.Popen[bytes], folder: Path, line: str) -> float:
    """Let a command run to its end; its seconds."""
    begin = time.monotonic()
    assert Command(server, folder, line).wait() == 0, (folder / "messages").read_text()[-2000:]
    return time.monotonic() - begin


def outcome(folder: Path, stages: tuple[str, ...], seconds: float = 0.0) -> Outcome:
    arrays, logs = {}, {}
    for stage in stages:
        with np.load(folder / "run" / f"{stage}.npz") as stored:
            arrays |= {f"{stage} {name}": stored[name] for name in stored.files}
        with (folder / "run" / f"{stage}.csv").open(newline="") as file:
            logs[stage] = list(csv.reader(file))
    for path in sorted((folder / "run").glob(f"{stages[-1]}*.keras")):
        weights = load_keras(path).get_weights()
        arrays |= {f"{path.name} {number}": value for number, value in enumerate(weights)}
    result = json.loads((folder / "run" / f"{stages[-1]}.result.json").read_text())
    result.pop("search_seconds", None)  # of the last of several processes
    return Outcome(arrays, logs, result, seconds)


def kill_at_random(
    server: subprocess.Popen[bytes], folder: Path, line: str, seconds: float, seed: int, mine: str
) -> None:
    """Kill a command `KILLS` times, starting it again each time, and then let it finish.

    Moments are spread over the whole duration of an undisturbed run, start and end included; two thirds come
    soon after the process has begun to write. Should one be too late, what the command has written (`mine`)
    is deleted, and the stage begins anew.
    """
    generator, made = random.Random(seed), 0
    for number in range(4 * KILLS):
        if made == KILLS:
            break
        before = written(folder)
        command = Command(server, folder, line)
        if number % 3:
            while not command.ended() and written(folder) == before:
                time.sleep(0.002)
            time.sleep(generator.uniform(0.0, 0.25))
        else:
            time.sleep(generator.uniform(0.0, seconds))
        if command.kill():
            made += 1
            continue
        for path in (folder / "run").glob(mine):
            path.unlink()
    finish(server, folder, line)
    assert made == KILLS


def written(folder: Path) -> dict[Path, int]:
    """When the logs were written last."""
    return {path: path.stat().st_mtime_ns for path in (folder / "run").glob("*.csv")}


def same(one: Outcome, other: Outcome) -> None:
    assert list(one.arrays) == list(other.arrays)
    for name, value in one.arrays.items():
        np.testing.assert_array_equal(value, other.arrays[name], name)
    assert one.logs == other.logs
    assert one.result == other.result


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network, images, and a run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "networks.py").write_text(NETWORK)
    generator = np.random.default_rng(0)
    labels = (np.arange(160) % 4).astype(np.int64)
    images = (
        generator.integers(0, 128, (160, 8, 8, 3), np.uint8)
        + (labels * 32).astype(np.uint8)[:, None, None, None]
    )
    np.savez(folder / "images.npz", x=images, y=labels)
    return folder


@pytest.fixture(scope="module")
def searched(server: subprocess.Popen[bytes], place: Path) -> Outcome:
    return outcome(place, ("float", "search"), finish(server, place, SEARCH))


@pytest.fixture(scope="module")
def finetuned(server: subprocess.Popen[bytes], place: Path, searched: Outcome) -> Outcome:
    return outcome(place, ("finetune",), finish(server, place, FINETUNE))


def copy(place: Path, folder: Path) -> None:
    for name in ("networks.py", "images.npz"):
        shutil.copy(place / name, folder)


def test_a_killed_search_ends_as_an_undisturbed_one(
    server: subprocess.Popen[bytes], place: Path, searched: Outcome, tmp_path: Path
) -> None:
    """Float training and search: variables, optimizer slots, radius, multipliers, logs, models, policy."""
    copy(place, tmp_path)
    kill_at_random(server, tmp_path, SEARCH, searched.seconds, seed=1, mine="*.*")
    same(outcome(tmp_path, ("float", "search")), searched)
    policies = [load_policy(folder / "run" / "policy.yaml") for folder in (place, tmp_path)]
    assert policies[0].model_copy(update={"created": policies[1].created}) == policies[1]


def test_a_killed_fine_tuning_ends_as_an_undisturbed_one(
    server: subprocess.Popen[bytes], place: Path, finetuned: Outcome, tmp_path: Path
) -> None:
    """With a teacher and, in the last fifth, frozen statistics."""
    copy(place, tmp_path)
    shutil.copytree(place / "run", tmp_path / "run", ignore=shutil.ignore_patterns("finetune*"))
    kill_at_random(server, tmp_path, FINETUNE, finetuned.seconds, seed=2, mine="finetune*.*")
    same(outcome(tmp_path, ("finetune",)), finetuned)
