"""Several devices make the step that one makes."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from tfmpq.errors import UsageError
from tfmpq.training import distribution
from tfmpq.training.distribution import Deadline, LostProcess, run_folder, strategy

ROOT = Path(__file__).parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `two_devices.py` leaves."""
    folder = tmp_path_factory.mktemp("devices")
    environment = os.environ | {"KERAS_BACKEND": "tensorflow"}
    command = [sys.executable, str(ROOT / "two_devices.py"), str(folder)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder


@pytest.mark.parametrize("norm", [False, True])
def test_two_devices_train_as_one_does(trained: Path, norm: bool) -> None:
    """Weights, statistics, optimizer, norm of the gradient, gap and radius; with BatchNorm, interrupted."""
    with (
        np.load(trained / f"one {norm}" / "after.npz") as one,
        np.load(trained / f"two {norm}" / "after.npz") as two,
    ):
        assert any("moving_mean" in name for name in one.files) == norm
        for name in one.files:
            np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=2e-6, err_msg=name)
    logs = []
    for count in ("one", "two"):
        with (trained / f"{count} {norm}" / "search.csv").open(newline="") as file:
            logs.append(list(csv.DictReader(file)))
    assert len(logs[0]) == len(logs[1]) == 6
    for ours, theirs in zip(*logs, strict=True):
        assert list(ours) == list(theirs)
        for name in ours:
            expected = pytest.approx(float(ours[name]), rel=1e-3, abs=2e-6)
            assert float(theirs[name]) == expected, (name, ours["step"])


def test_an_interrupted_training_on_two_devices_was_interrupted(trained: Path) -> None:
    assert (trained / "interrupted").read_text() == "True"


def test_what_cannot_be_split_is_refused_with_what_to_do(trained: Path) -> None:
    odd, branching = (trained / "messages").read_text().splitlines()
    assert odd.endswith("Received: 7 images for 2 devices. Take --batch-size 6.")
    assert "second_gradient_every=2. Leave it out, or use JAX." in branching


def test_one_device_is_not_split_and_names_are_checked() -> None:
    with pytest.raises(UsageError, match="A strategy is one of single, data-parallel, multi-worker"):
        strategy("mirrored").__enter__()
    with pytest.raises(UsageError, match=r"several devices\. Received: one"):
        strategy("data-parallel").__enter__()
    with strategy("single") as chief:
        assert chief
        assert run_folder(Path("run")) == Path("run")


def test_other_processes_keep_a_copy_of_the_run_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "int8").mkdir(parents=True)
    for name in ("search.json", "search.npz", "int8/x", ".lock"):
        (run / name).write_text(name)
    replicas = SimpleNamespace(process=1, processes=2, count=2)
    token = distribution._team.set(distribution._Team(replicas, Deadline(9.0, print)))
    try:
        own = run_folder(run)
        assert own not in (run, run_folder(tmp_path / "new"))
        assert own == run_folder(run)
        assert sorted(path.name for path in own.rglob("*")) == ["int8", "search.json", "search.npz", "x"]
        assert (own / "int8" / "x").read_text() == "int8/x"
        replicas.process = 0
        assert run_folder(run) == run
    finally:
        for folder in distribution._team.get().folders.values():
            shutil.rmtree(folder)
        distribution._team.reset(token)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="needs TensorFlow's launcher")
@pytest.mark.parametrize(
    "config", ["", "{}", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "evaluator", "index": 0}}']
)
def test_a_cluster_that_is_not_described_is_refused(monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    monkeypatch.setenv("TF_CONFIG", config)
    distribution._replicas.cache_clear()
    with pytest.raises(UsageError, match="Several machines find one another by TF_CONFIG"):
        strategy("multi-worker").__enter__()


def test_a_deadline_expires_when_nothing_restarts_it() -> None:
    expired: list[float] = []
    deadline = Deadline(0.2, expired.append)
    with deadline.armed():
        for _ in range(8):
            time.sleep(0.05)
            deadline.restart()
        assert expired == []
        time.sleep(0.5)
    assert expired == [0.2]
    with deadline.armed():
        pass
    time.sleep(0.3)
    assert expired == [0.2]


def test_a_lost_process_says_how_to_go_on() -> None:
    assert "Received: worker 1 is gone. The last" in str(LostProcess("worker 1 is gone.\nA stack"))
    assert str(LostProcess("worker 1 is gone.")).endswith("with the same command, which resumes.")
