"""Whether training waits for its data: images per second of the pipeline alone, of a step alone, and of both.

Batches are made by the host, or by the device of images that it holds.

    python benchmarks/input_pipeline.py --model resnet20 --batch-size 128 --method asga

The images are random ones, held in memory, shifted and mirrored. A thread prepares batches while the model
computes, so the share of time that a step waits is 1 - (step alone) / (step in training); both are timed in
alternation, because the machine may be shared. Images for each second of CPU time do not depend on what else
runs: a device that needs fewer than those is never kept waiting by one core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import keras
import numpy as np

from tfmpq.data import ImageBatches, Split
from tfmpq.data.preprocess import value_range
from tfmpq.graph.fusion import analyse
from tfmpq.methods import load_method
from tfmpq.methods.gradient import search_trainer
from tfmpq.models.registry import load_model
from tfmpq.policy.budget import parse_budgets
from tfmpq.policy.network_cost import cost_model
from tfmpq.policy.search_space import activation_candidates, weight_candidates
from tfmpq.quantization.insertion import quantize_model
from tfmpq.training.backend import compiled
from tfmpq.training.descent import Descent
from tfmpq.training.step import QuantizedTraining

_CALIBRATION = 32


class Steps(keras.callbacks.Callback):
    """Seconds of each step, measured from end to end."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._before = 0.0

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        """The first step begins."""
        self._before = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Wait for the step, as the training loop does, and note its time."""
        float((logs or {})["loss"])
        now = time.perf_counter()
        self.seconds.append(now - self._before)
        self._before = now


class Again(keras.utils.PyDataset):
    """The same batch again and again: nothing to prepare."""

    def __init__(self, batch: tuple[np.ndarray, np.ndarray], count: int) -> None:
        super().__init__(workers=1, use_multiprocessing=False)
        self._batch, self._count = batch, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self._batch


def searcher(name: str, method: str, images: np.ndarray) -> QuantizedTraining:
    """The compiled training model of a search on ten classes."""
    loaded = load_model(name, input_shape=images.shape[1:], classes=10)
    values = value_range(loaded.preprocessing)
    network = analyse(loaded.model, values[0] < 0)
    costs = cost_model(network)
    space = (weight_candidates(network, (2, 4, 8)), activation_candidates(network, (8,)))
    quantized = quantize_model(loaded.model, network, *space, images, values)
    limits = parse_budgets(["size=0.5x"], costs)
    return search_trainer(quantized, costs, limits, space, load_method(method).sharpness, Descent(0.01, 1000))


def cpu_rate(batches: ImageBatches, count: int) -> float:
    """Images that the pipeline prepares in a second of CPU time."""
    batches.batch(0, 0)
    begin = time.process_time()
    for index in range(count):
        batches.batch(0, index)
    return count * batches.batch_size / (time.process_time() - begin)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--method", default="asga")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20, help="in a round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    size, side, steps = arguments.batch_size, arguments.side, arguments.steps
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (max(4096, size * steps), side, side, 3), np.uint8)
    split = Split(np.arange(len(pixels)) % 10, pixels)
    shape = (side, side, 3)
    preprocessing = load_model(arguments.model, input_shape=shape, classes=10).preprocessing
    host, device = (
        ImageBatches(
            split,
            size,
            image_shape=shape,
            preprocessing=preprocessing,
            augment="crop_flip",
            steps_per_epoch=steps,
        )
        for _ in range(2)
    )
    rate = cpu_rate(host, steps)
    pixels = device.hold_on_device(compiled)
    trainers = {
        name: searcher(arguments.model, arguments.method, host.batch(0, 0)[0][:_CALIBRATION])
        for name in ("host", "device")
    }
    trainers["device"].pixels = pixels
    trainers["alone"] = trainers["host"]
    sources = {"alone": Again(host.batch(0, 0), steps), "host": host, "device": device}
    times: dict[str, list[float]] = {name: [] for name in sources}
    for number in range(arguments.rounds + 1):
        for name, source in sources.items():
            watch = Steps()
            trainers[name].fit(source, epochs=1, verbose=0, shuffle=False, callbacks=[watch])
            if number:  # the first round compiles
                times[name] += watch.seconds[1:]
    seconds = {name: statistics.median(values) for name, values in times.items()}
    report: dict[str, object] = {
        "model": arguments.model,
        "method": arguments.method,
        "batch_size": size,
        "backend": keras.backend.backend(),
        "pipeline_images_per_cpu_second": round(rate),
        "step_images_per_second": round(size / seconds["alone"], 1),
    }
    for name in ("host", "device"):
        report[f"{name}_images_per_second"] = round(size / seconds[name], 1)
        report[f"{name}_share_waiting"] = round(max(0.0, 1 - seconds["alone"] / seconds[name]), 3)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
