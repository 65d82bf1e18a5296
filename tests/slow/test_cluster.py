"""The job files of docs/cluster, run by two processes on this machine with stand-ins of the schedulers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml

from .test_workers import LIMIT, NETWORK, free_port

pytestmark = pytest.mark.slow

JOBS = Path(__file__).parents[2] / "docs" / "cluster"
ASKED = {
    "--model": "networks:tiny",
    "--proxy": "npz:images.npz",
    "--budget": "size=0.97x",
    "--weights": "none",
    "--float-epochs": "0",
    "--epochs": "2",
    "--steps-per-epoch": "30",
    "--batch-size": "16",
    "--out": "run",
}
ARGUMENTS = [f"{key}={value}" for key, value in ASKED.items()]

# A checkpoint after every step, so that the first comes before the signal.
TFMPQ = """#!{python}
import sys
from tfmpq.training import recorder
from tfmpq.cli.main import main
recorder.CHECKPOINT_SECONDS = 0.0
main(sys.argv[1:], prog_name="tfmpq")
"""
SCONTROL = """#!/bin/sh
echo 127.0.0.1
echo 127.0.0.1
"""
SRUN = """#!/bin/bash
shift  # --kill-on-bad-exit=1
echo $$ >srun.pid
for number in 0 1; do
  SLURM_PROCID=$number SLURM_LOCALID=$number "$@" >"out$number" 2>"err$number" & pids[number]=$!
done
trap 'kill -TERM "${pids[@]}"' TERM
code=0
for pid in "${pids[@]}"; do
  wait "$pid"; found=$?
  while kill -0 "$pid" 2>/dev/null; do wait "$pid"; found=$?; done
  [ "$found" = 0 ] || code=$found
done
exit "$code"
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network, data, and the programs of a cluster in PATH."""
    (tmp_path / "networks.py").write_text(NETWORK, encoding="utf-8")
    images = np.random.default_rng(0).integers(0, 256, (96, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "images.npz", x=images, y=(np.arange(96) % 4).astype(np.int64))
    programs = {"tfmpq": TFMPQ.format(python=sys.executable), "scontrol": SCONTROL, "srun": SRUN}
    for name, text in programs.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text, encoding="utf-8")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("XLA_FLAGS", "TF_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def slurm(port: int) -> list[subprocess.Popen[bytes]]:
    """The batch script, as Slurm starts it."""
    environment = os.environ | {
        "SLURM_JOB_NODELIST": "a,b",
        "SLURM_NTASKS": "2",
        "PORT": str(port),
    }
    return [subprocess.Popen(["bash", JOBS / "tfmpq.slurm", "search", *ARGUMENTS], env=environment)]


def kubernetes(port: int) -> list[subprocess.Popen[bytes]]:
    """The containers of the job, as the operator starts them; model and data are those at hand."""
    job = yaml.safe_load((JOBS / "tfjob.yaml").read_text(encoding="utf-8"))
    worker = job["spec"]["tfReplicaSpecs"]["Worker"]
    [container] = worker["template"]["spec"]["containers"]
    assert container["name"] == "tensorflow"
    assert worker["replicas"] == 2
    given = [text for text in container["args"] if "=" in text]
    assert given == container["args"]
    command = [*container["command"], *ARGUMENTS]
    command += [text for text in given if text.partition("=")[0] not in ASKED]
    assert "--strategy=multi-worker" in command
    cluster = {"worker": [f"127.0.0.1:{port + number}" for number in range(2)]}
    started = []
    for number in range(2):
        config = {"cluster": cluster, "task": {"type": "worker", "index": number}, "environment": "cloud"}
        environment = os.environ | {"TF_CONFIG": json.dumps(config)}
        with open(f"out{number}", "wb") as out, open(f"err{number}", "wb") as errors:
            started.append(subprocess.Popen(command, env=environment, stdout=out, stderr=errors))
    return started


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TF_CONFIG is TensorFlow's")
@pytest.mark.parametrize("start", [slurm, kubernetes])
def test_a_job_that_is_taken_away_goes_on_when_it_is_started_again(place: Path, start) -> None:
    jobs = start(free_port())
    try:
        deadline = time.monotonic() + LIMIT
        while not (place / "run" / "search.npz").exists():
            assert time.monotonic() < deadline
            ended = [job.poll() for job in jobs]
            assert not any(code is not None for code in ended), (place / "err0").read_text()[-3000:]
            time.sleep(0.05)
        # Slurm signals the processes that srun started, not the script.
        told = [int((place / "srun.pid").read_text())] if start is slurm else [job.pid for job in jobs]
        for pid in told:
            os.kill(pid, signal.SIGTERM)
        codes = [job.wait(timeout=LIMIT) for job in jobs]
    finally:
        for job in jobs:
            job.kill()
    # One process may learn of the other's end before it comes to the signal.
    assert 143 in codes or 1 in codes, codes
    assert not (place / "run" / "search.result.json").exists()
    assert [job.wait(timeout=LIMIT) for job in start(free_port())] == [0] * len(jobs)
    assert (place / "run" / "search.result.json").exists()
    assert (place / "out1").read_bytes() == b""  # the first process prints the result
