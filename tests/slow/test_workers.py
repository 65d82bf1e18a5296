"""Two processes on one machine train together; one is killed, the other says so, and the run goes on."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest

pytestmark = pytest.mark.slow

NETWORK = """
import keras
from keras import layers


def tiny(input_shape, classes):
    image = keras.Input(input_shape, name="image")
    x = layers.Conv2D(4, 3, strides=2, padding="same", use_bias=False, name="stem")(image)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(classes, name="logits")(x), name="tiny")
"""

STEPS = 40
# Small steps: an activation on the edge between two levels would tell the last bits of sums apart.
SEARCH = (
    "search --model networks:tiny --proxy npz:images.npz --budget size=0.97x --float-epochs 1 --epochs 4 "
    f"--steps-per-epoch {STEPS} --batch-size 16 --learning-rate 0.0001 --seed 4 --json"
).split()

# A checkpoint after every step, and steps that last long enough to be interrupted.
PROGRAM = """
import sys, time
from tfmpq.training import recorder
from tfmpq.cli.main import main
recorder.CHECKPOINT_SECONDS = 0.0
main(sys.argv[1:], prog_name="tfmpq")
"""

LIMIT = 600
"""Seconds for anything, on a machine that does much else."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environments() -> list[dict[str, str]]:
    """What the launcher of either backend tells the two processes."""
    ports = [free_port(), free_port()]
    common = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "TF_CONFIG")}
    common |= {"KERAS_BACKEND": keras.backend.backend(), "PYTHONPATH": "."}
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    return [
        common
        | {
            "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}),
            "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{ports[0]}",
            "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
            "KERAS_DISTRIBUTION_PROCESS_ID": str(index),
        }
        for index in range(2)
    ]


@dataclass(frozen=True)
class Worker:
    """A process, and the files that it prints to."""

    process: subprocess.Popen[bytes]
    result: Path
    messages: Path

    def ended(self) -> int:
        """Its exit code, waited for."""
        return self.process.wait(timeout=LIMIT)


@contextmanager
def workers(folder: Path) -> Iterator[list[Worker]]:
    """Two processes that run the same command, the chief first; none of them outlives the context."""
    command = [sys.executable, "-c", PROGRAM, *SEARCH, "--strategy", "multi-worker", "--out", "run"]
    started = []
    for index, environment in enumerate(environments()):
        result, messages = folder / f"result{index}", folder / f"messages{index}"
        with result.open("wb") as out, messages.open("wb") as errors:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=errors)
        started.append(Worker(process, result, messages))
    try:
        yield started
    finally:
        for worker in started:
            worker.process.kill()
            worker.process.wait()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    (folder / "networks.py").write_text(NETWORK)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (96, 8, 8, 3), np.uint8)
    np.savez(folder / "images.npz", x=images, y=(np.arange(96) % 4).astype(np.int64))
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "search.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("killed", [1, 0])
def test_the_others_stop_when_one_is_killed(place: Path, killed: int) -> None:
    """With an error that says what to do, and with the chief's checkpoint kept."""
    checkpoint = place / "run" / "search.npz"
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    with workers(place) as both:
        deadline = time.monotonic() + LIMIT
        while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
            assert time.monotonic() < deadline
            if any(worker.process.poll() is not None for worker in both):
                pytest.fail("\n".join(worker.messages.read_text()[-3000:] for worker in both))
            time.sleep(0.05)
        both[killed].process.kill()
        survivor = both[1 - killed]
        code = survivor.ended()
        # JAX ends a process whose coordinator is gone by itself; what is said then is said a moment later.
        aborted = keras.backend.backend() == "jax" and killed == 0
        while aborted and "Error: " not in survivor.messages.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        messages = survivor.messages.read_text()
    assert survivor.result.read_text() == ""
    assert code == (-signal.SIGABRT if aborted else 1), messages[-3000:]
    assert "Error: All processes of a training have to stay to its end." in messages
    assert "start all of them again with the same command" in messages


def test_the_run_goes_on_and_ends_as_that_of_one_process(place: Path) -> None:
    """After the kills above, if these tests run in their order."""
    with workers(place) as both:
        codes = [worker.ended() for worker in both]
    assert codes == [0, 0], "\n".join(worker.messages.read_text()[-3000:] for worker in both)
    assert both[1].result.read_text() == ""
    assert json.loads(both[0].result.read_text())["run"] == "run"
    command = [sys.executable, "-c", PROGRAM, *SEARCH, "--out", "alone"]
    subprocess.run(command, cwd=place, env=environments()[0], check=True, capture_output=True, timeout=LIMIT)
    together, alone = rows(place / "run"), rows(place / "alone")
    assert [row["step"] for row in together] == [row["step"] for row in alone]
    # Now and then an activation lies on the edge between two levels, where the last bit of a sum decides.
    near = {"loss": 5e-3, "perturbed_loss": 5e-3, "expected_size": 5e-3, "gradient_norm": 0.05, "gap": 0.15}
    for name, tolerance in near.items():
        ours, theirs = ([float(row[name]) for row in table] for table in (together, alone))
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, err_msg=name)
