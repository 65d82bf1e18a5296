"""Does sharpness-aware training at two bits beat plain training of the same time? On CIFAR-10.

    python benchmarks/saq_experiment.py run WORK [--steps 600 --seeds 6]
    python benchmarks/saq_experiment.py page WORK/results.jsonl docs/results/saq.md

`TFMPQ_DATA_DIR` holds CIFAR-10 and the weights of resnet8. `run` appends one JSON line to
`WORK/results.jsonl` for each arm that is done; a stopped one goes on where it was. `page` writes the report
from these lines, and copies them beside it.

Arms begin with the same float weights, without reconstruction and teacher (part `practice`: with both), and
see the same batches for a seed. The radius is chosen on 5,000 training images that are held out, before any
test image is looked at.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

EPOCHS = 10
RADII = (0.05, 0.2, 0.5, 0.02, 0.01, 0.005, 0.002)
"""In the order in which they were tried: the best of the first three was the smallest."""

GAP_RADIUS, GAP_IMAGES = 0.05, 2048
HELD_OUT = 5000
WEIGHTS = "cifar10_resnet8_mlperftiny.h5"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to spend the time.

    Attributes:
        told: What it is.
        length: Steps, in units of the experiment's.
        method: Of `tfmpq finetune`.
        every: Steps from one second gradient to the next.
    """

    told: str
    length: int
    method: str
    every: int = 1


ARMS = {
    "A": Arm("plain QAT, n steps", 1, "qat"),
    "B": Arm("plain QAT, 2n steps: the time of C", 2, "qat"),
    "C": Arm("SAQ case 3, n steps", 1, "saq"),
    "D": Arm("SAQ case 3, second gradient every 5th step, n steps", 1, "saq", 5),
}


@dataclass(frozen=True, slots=True)
class Job:
    """One training of the experiment; `part` is `radius`, `arms` or `practice`."""

    part: str
    arm: str
    seed: int
    steps: int
    rho: float | None

    @property
    def key(self) -> str:
        """What it is called, in file names and in the table of finished ones."""
        radius = f"-rho{self.rho or 0:g}" if self.part == "radius" else ""
        return f"{self.part}-{self.arm}-{self.seed}-{self.steps}{radius}"


def run(work: Path, steps: int, seeds: int) -> None:
    """Do all trainings that are not done yet, each in a process of its own."""
    work.mkdir(parents=True, exist_ok=True)
    _hold_out(work)
    for rho in RADII:
        _do(work, Job("radius", "C", 100, steps // 2, rho))
    _do(work, Job("radius", "A", 100, steps // 2, None))
    chosen = chosen_radius(_lines(work / "results.jsonl"))
    jobs = [Job("arms", arm, seed, steps, chosen) for seed in range(seeds) for arm in ARMS]
    jobs += [Job("practice", arm, 0, steps, chosen) for arm in ARMS]
    for job in jobs:
        _do(work, job)


def chosen_radius(lines: list[dict[str, Any]]) -> float:
    """The radius with the least cross-entropy on the held-out images."""
    tried = [line for line in lines if line["part"] == "radius" and line["rho"] is not None]
    return float(min(tried, key=lambda line: line["cross_entropy"])["rho"])


def _do(work: Path, job: Job) -> None:
    results = work / "results.jsonl"
    if job.key in {line["key"] for line in _lines(results)}:
        return
    values = [job.part, job.arm, str(job.seed), str(job.steps), str(job.rho)]
    command = [sys.executable, __file__, "one", str(work), *values]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    with results.open("a", encoding="utf-8") as file:
        file.write(found)
    print(found, end="", flush=True)


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _hold_out(work: Path) -> None:
    """CIFAR-10's training images as a data set of their own, the last 5,000 for testing."""
    import numpy as np

    from tfmpq.data import load_dataset

    parts = {"train": slice(None, -HELD_OUT), "test": slice(-HELD_OUT, None)}
    if all((work / f"held_{part}.npz").exists() for part in parts):
        return
    whole = load_dataset("cifar10").train
    for part, taken in parts.items():
        assert whole.array is not None
        np.savez(work / f"held_{part}.npz", x=whole.array[taken], y=whole.labels[taken])


def one(work: Path, job: Job) -> dict[str, Any]:
    """Train and measure one network; what is known of it."""
    import tfmpq

    arm, data = ARMS[job.arm], Path(os.environ["TFMPQ_DATA_DIR"])
    held = job.part == "radius"
    clock = _clock()
    told = {"rho": job.rho, "second_gradient_every": arm.every} if arm.method != "qat" else {}
    tuned = tfmpq.finetune(
        "resnet8",
        "uniform:2/2",
        "held" if held else "cifar10",
        out=work / job.key,
        weights=str(data / WEIGHTS),
        data_dir=work if held else data,
        epochs=EPOCHS * arm.length,
        steps_per_epoch=job.steps // EPOCHS,
        batch_size=128,
        seed=job.seed,
        reconstruct=job.part == "practice",
        distill=job.part == "practice",
        method=arm.method,
        progress=clock,
        **told,
    )
    return {
        "key": job.key, "part": job.part, "arm": job.arm, "seed": job.seed, "steps": tuned.steps,
        "rho": tuned.rho, "second_gradient_every": tuned.second_gradient_every, **_measured(tuned),
        "cpu_seconds_a_step": clock.seconds_a_step, "date": str(date.today()), "versions": tuned.versions,
    }  # fmt: skip


def _clock() -> Any:
    from tfmpq.progress import SilentReporter

    class Clock(SilentReporter):
        """Seconds of CPU of the steps but the first, which may still compile."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def advance(self, steps: int = 1, metrics: Mapping[str, float] | None = None) -> None:
            if metrics and "loss" in metrics:
                self.times.append(time.process_time())

        @property
        def seconds_a_step(self) -> float | None:
            """Mean seconds; None if there was no second step."""
            count = len(self.times) - 1
            return (self.times[-1] - self.times[0]) / count if count > 0 else None

    return Clock()


def _measured(tuned: Any) -> dict[str, float]:
    """Cross-entropy and top-1 on the test images, and the gap around the training loss."""
    import numpy as np
    from scipy.special import log_softmax

    from tfmpq.data import ImageBatches, load_dataset
    from tfmpq.tasks.sampling import sample
    from tfmpq.training.landscape import Landscape
    from tfmpq.training.run_folder import load_keras

    model = load_keras(Path(tuned.run, "finetune.keras"))
    dataset = load_dataset(tuned.data, data_dir=tuned.data_dir)
    shape = tuple(model.input_shape[1:])
    batches = ImageBatches(
        dataset.test,
        100,
        image_shape=shape,
        preprocessing=tuned.preprocessing,
        shuffle=False,
        drop_remainder=False,
    )
    pairs = [batches.batch(0, index) for index in range(batches.steps_per_pass)]
    logits = np.concatenate([model.predict_on_batch(images) for images, _ in pairs]).astype(np.float64)
    labels = np.concatenate([labels for _, labels in pairs])
    logs = log_softmax(logits, axis=-1)[np.arange(len(labels)), labels]
    images, known = sample(dataset.train, GAP_IMAGES, shape, tuned.preprocessing)
    landscape = Landscape(model, images, known)
    loss, gradient = landscape.loss_and_gradient(np.zeros(landscape.size))
    step = GAP_RADIUS * gradient / np.linalg.norm(gradient)
    return {
        "images": len(labels),
        "cross_entropy": float(-logs.mean()),
        "top1": float(np.mean(logits.argmax(-1) == labels)),
        "train_loss": loss,
        "gap": landscape.loss(step) - loss,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run")
    running.add_argument("work", type=Path)
    running.add_argument("--steps", type=int, default=600)
    running.add_argument("--seeds", type=int, default=6)
    single = verbs.add_parser("one")
    single.add_argument("work", type=Path)
    single.add_argument("values", nargs=5)
    writing = verbs.add_parser("page")
    writing.add_argument("results", type=Path)
    writing.add_argument("page", type=Path)
    given = parser.parse_args()
    if given.verb == "run":
        run(given.work, given.steps, given.seeds)
    elif given.verb == "one":
        part, arm, seed, steps, rho = given.values
        radius = None if rho == "None" else float(rho)
        print(json.dumps(one(given.work, Job(part, arm, int(seed), int(steps), radius))))
    else:
        from saq_page import written

        given.page.write_text(written(_lines(given.results)), encoding="utf-8")
        shutil.copy(given.results, given.page.with_suffix(".jsonl"))


if __name__ == "__main__":
    main()
