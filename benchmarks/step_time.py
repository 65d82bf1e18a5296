"""Time of one training step: float, fixed-bit QAT, search, and search with ASGA, in alternation.

    python benchmarks/step_time.py --model resnet20 --batch-size 64 --rounds 7

Only ratios within one run mean anything: the machine may be shared. The variants are timed in turn, round by
round; printed are the median and the spread (smallest to largest) of the ratios to fixed-bit QAT of the same
round. The first step, which traces and compiles, is timed once, by the clock and in seconds of CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import keras
import numpy as np

from tfmpq.data.preprocess import value_range
from tfmpq.methods import load_method
from tfmpq.methods.gradient import search_trainer
from tfmpq.models.registry import load_model
from tfmpq.policy.budget import parse_budgets
from tfmpq.policy.network_cost import cost_model
from tfmpq.policy.search_space import activation_candidates, weight_candidates
from tfmpq.progress import SilentReporter
from tfmpq.quantization.batch_statistics import with_fitting_statistics
from tfmpq.quantization.insertion import quantize_model
from tfmpq.tasks.task import fused
from tfmpq.training.backend import quickly_compiled
from tfmpq.training.compiling import compile_step
from tfmpq.training.descent import Descent
from tfmpq.training.float_training import FloatTraining
from tfmpq.training.optimizer import QuantizationOptimizer
from tfmpq.training.step import QuantizedTraining


def variants(name: str, side: int, images: np.ndarray) -> dict[str, keras.Model]:
    """Compiled training models of one network by name of the variant."""
    loaded = load_model(name, input_shape=(side, side, 3), classes=10)
    signed = value_range(loaded.preprocessing)
    fitting = with_fitting_statistics(loaded.model, images[:32], SilentReporter())
    network = fused(fitting, loaded.preprocessing)
    costs = cost_model(network)
    limits = parse_budgets(["size=0.5x"], costs)
    activations = activation_candidates(network, (8,))

    def quantized(bits: tuple[int, ...]) -> keras.Model:
        return quantize_model(
            fitting, network, weight_candidates(network, bits), activations, images[:32], signed
        )

    plain = FloatTraining(loaded.model.inputs[0], loaded.model.outputs[0])
    plain.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.9), loss="sparse_categorical_crossentropy")
    fixed_model = quantized((4,))
    fixed = QuantizedTraining(fixed_model.inputs[0], fixed_model.outputs[0])
    fixed.configure()
    compile_step(fixed, QuantizationOptimizer(0.01))
    found = {"float": plain, "fixed-bit QAT": fixed}
    for method in ("sgd", "asga"):
        space = (weight_candidates(network, (2, 4, 8)), activations)
        trainer = search_trainer(
            quantized((2, 4, 8)), costs, limits, space, load_method(method).sharpness, Descent(0.01, 1000)
        )
        found["search" if method == "sgd" else "search with ASGA"] = trainer
    return found


def stepper(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> Callable[[], float]:
    """A function that makes one step and returns its seconds."""
    model.optimizer.build(model.trainable_variables)  # else Keras traces the first step twice
    model.make_train_function()

    def step() -> float:
        begin = time.perf_counter()
        with quickly_compiled():
            logs = model.train_function(iter([(images, labels)]))
        float(logs["loss"])  # waits for the step
        return time.perf_counter() - begin

    return step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    shape = (arguments.batch_size, arguments.side, arguments.side, 3)
    images = generator.uniform(-1, 1, shape).astype(np.float32)
    labels = generator.integers(0, 10, arguments.batch_size).astype(np.int32)
    models = variants(arguments.model, arguments.side, images)
    steps = {name: stepper(model, images, labels) for name, model in models.items()}
    first = {}
    for name, step in steps.items():
        begin = time.process_time()
        first[name] = {"s": round(step(), 1), "cpu_s": round(time.process_time() - begin, 1)}
        print(f"{name}: first step {first[name]}", file=sys.stderr, flush=True)
        step()
    times = {name: [] for name in steps}
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            times[name].append(step())
            print(f"{name}: {1e3 * times[name][-1]:.0f} ms", file=sys.stderr, flush=True)
    base = times["fixed-bit QAT"]
    rows = {}
    for name, values in times.items():
        ratios = [value / reference for value, reference in zip(values, base, strict=True)]
        rows[name] = {
            "median_ms": round(1e3 * statistics.median(values), 1),
            "ratio": round(statistics.median(ratios), 2),
            "spread": [round(min(ratios), 2), round(max(ratios), 2)],
            "first_step": first[name],
        }
    print(json.dumps({"model": arguments.model, "batch_size": arguments.batch_size, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
