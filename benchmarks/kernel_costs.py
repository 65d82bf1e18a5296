"""The cost model of the forms of convolutions, fitted to measurements: tfmpq/graph/kernel_costs.json.

    python benchmarks/kernel_costs.py       # measure here, fit, replace this processor's numbers
    python benchmarks/kernel_costs.py --fit benchmarks/kernel_ratios_avx2.json --as x86-avx2

The latter fits ratios that were measured elsewhere. Every shape runs as int8 CONV_2D and as INT8, INT4 and
INT2 products of its windows in both orders; 1x1 convolutions of stride 1 are those products as they are. The
forms of a shape take turns, round after round, so that other load on the machine meets all of them; a time is
the 20th percentile of its rounds. Small layers lie several times side by side in a file, so that a call's own
time counts less.

The fit is that of non-negative least squares of relative errors. `error` is the median and the 90th
percentile of |predicted / measured - 1| of ratios to int8, each shape predicted by a fit to all other shapes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from tfmpq.api.form_choice import processor_here
from tfmpq.deploy.devices.pushed_runner import device
from tfmpq.deploy.runtime.convolution_models import convolution_model
from tfmpq.deploy.runtime.interpreter import open_interpreter
from tfmpq.graph.forms import PROCESSORS, Work, copy_features, product_features
from tfmpq.graph.unfolding import ORDERS, Window

COSTS = Path(__file__).parents[1] / "tfmpq" / "graph" / "kernel_costs.json"
ROUNDS = 40
_PACE = 60e6
"""Multiplications of one call that are worth timing: smaller layers are repeated within the file."""

_GROUPS = ("convolution", "8", "4", "2", "copies")


def shapes() -> list[tuple[Window, int]]:
    """Convolutions of common networks with their output channels."""
    three = [(56, 64), (28, 128), (14, 256), (7, 512), (32, 16), (16, 32), (8, 64), (28, 64), (14, 128)]
    found = [(Window((n, n, c), (3, 3), padding="same"), c) for n, c in three]
    halved = [(56, 64), (28, 128), (14, 256), (32, 16), (16, 32), (28, 48)]
    found += [(Window((n, n, c), (3, 3), (2, 2), padding="same"), 2 * c) for n, c in halved]
    found += [
        (Window((n, n, c), (1, 1), (2, 2)), 2 * c) for n, c in ((56, 256), (28, 512), (14, 256), (32, 16))
    ]
    found += [(Window((n, n, c), (5, 5), padding="same"), c) for n, c in ((28, 32), (14, 64))]
    found += [(Window((n, n, c), (7, 1), padding="same"), c) for n, c in ((17, 128), (12, 192))]
    found += [
        (Window((n, n, c), (3, 3), dilation=(2, 2), padding="same"), c) for n, c in ((28, 64), (14, 256))
    ]
    pointwise = [(56, 64, 64), (28, 128, 512), (14, 256, 1024), (7, 512, 2048), (14, 96, 576), (7, 160, 960)]
    return found + [(Window((n, n, c), (1, 1)), out) for n, c, out in pointwise]


@dataclass(frozen=True, slots=True)
class Sample:
    """A form of a shape: how much of each cost it has, and how long it took."""

    shape: str
    form: str
    features: tuple[float, ...]
    time: float


def features(window: Window, channels: int, form: str) -> tuple[float, ...]:
    """How much of each cost a form has: groups of three."""
    rows, columns = window.output
    operator = "pointwise" if window.is_pointwise else "conv2d"
    work = Work(operator, 8, window.fan_in, channels, rows * columns, window)  # type: ignore[arg-type]
    kind, _, order = form.partition(" ")
    found = np.zeros((len(_GROUPS), 3))
    found[_GROUPS.index(kind)] = product_features(work)
    if order:
        found[_GROUPS.index("copies")] = copy_features(window, order)  # type: ignore[arg-type]
    return tuple(found.ravel())


def forms_of(window: Window) -> list[str]:
    """What a shape runs as: the kind of product, and the order of its unfolding if it has one."""
    if window.is_pointwise:
        return ["convolution", "8", "4", "2"]
    return ["convolution", *(f"{bits} {order}" for bits, order in itertools.product((8, 4, 2), ORDERS))]


def measured(rounds: int) -> list[Sample]:
    """Time all forms of all shapes."""
    found = []
    for window, channels in shapes():
        macs = math.prod(window.output) * window.fan_in * channels
        layers = max(1, min(8, round(_PACE / macs)))
        running = {form: _runner(window, channels, form, layers) for form in forms_of(window)}
        times: dict[str, list[float]] = {form: [] for form in running}
        for _ in range(rounds):
            for form, interpreter in running.items():
                begin = time.perf_counter()
                interpreter.invoke()
                times[form].append(time.perf_counter() - begin)
        name = f"{window} to {channels}"
        for form, values in times.items():
            each = float(np.percentile(values, 20)) / layers * 1e9
            found.append(Sample(name, form, features(window, channels, form), each))
        whole = found[-len(times)].time
        print(name, {s.form: round(s.time / whole, 2) for s in found[-len(times) :]}, flush=True)
    return found


def _runner(window: Window, channels: int, form: str, layers: int) -> Any:
    kind, _, order = form.partition(" ")
    bits = 8 if kind == "convolution" else int(kind)
    model = convolution_model(
        window,
        channels,
        bits,
        order=order or None,  # type: ignore[arg-type]
        product=window.is_pointwise and kind != "convolution",
        layers=layers,
    )
    interpreter = open_interpreter(model.content, "default", 1)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], model.source)
    for _ in range(3):
        interpreter.invoke()
    return interpreter


def read_ratios(path: Path) -> list[Sample]:
    """Ratios to int8 of shapes: `{"shapes": [{"image": ..., "channels": ..., "ratios": {form: ratio}}]}`."""
    found = []
    for row in json.loads(path.read_text(encoding="utf-8"))["shapes"]:
        image = (row["image"][0], row["image"][1], row["image"][2])
        window = Window.from_record(image, row)
        rows, columns = window.output
        unit = (
            rows * columns * window.fan_in * row["channels"]
        )  # what int8 takes, in a unit of the model's own
        for form, ratio in {"convolution": 1.0, **row["ratios"]}.items():
            name = f"{window} to {row['channels']}"
            found.append(Sample(name, form, features(window, row["channels"], form), ratio * unit))
    return found


def fitted(samples: Sequence[Sample]) -> np.ndarray:
    """Costs, in the order of the features; non-negative."""
    rows = np.array([sample.features for sample in samples]) / np.array([[s.time] for s in samples])
    scale = np.where(rows.any(0), rows.max(0), 1.0)
    costs, _ = nnls(rows / scale, np.ones(len(samples)), maxiter=1000)
    return costs / scale


def errors(samples: Sequence[Sample]) -> np.ndarray:
    """|predicted / measured - 1| of every ratio to int8, each shape left out of the fit that predicts it."""
    found = []
    for name in dict.fromkeys(sample.shape for sample in samples):
        costs = fitted([sample for sample in samples if sample.shape != name])
        mine = [sample for sample in samples if sample.shape == name]
        predicted = np.array([np.dot(costs, sample.features) for sample in mine])
        times = np.array([sample.time for sample in mine])
        found += list(np.abs(predicted[1:] / predicted[0] / (times[1:] / times[0]) - 1))
    return np.array(found)


def record(samples: Sequence[Sample], facts: dict[str, Any]) -> dict[str, Any]:
    """What the package ships for one kind of processor."""
    costs = fitted(samples).reshape(len(_GROUPS), 3)
    told = errors(samples)
    rounded = {name: [float(f"{cost:.4g}") for cost in row] for name, row in zip(_GROUPS, costs, strict=True)}
    return {
        "measured": True,
        **facts,
        "error": [round(float(np.percentile(told, q)), 3) for q in (50, 90)],
        "convolution": rounded["convolution"],
        "products": {bits: rounded[bits] for bits in ("8", "4", "2")},
        "copies": rounded["copies"],
    }


def main() -> None:
    """Measure or read, fit, and write the record of one kind of processor."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fit", type=Path, metavar="FILE", help="ratios that were measured elsewhere")
    parser.add_argument("--as", dest="processor", choices=PROCESSORS, help="kind of processor of --fit")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    if arguments.fit:
        told = json.loads(arguments.fit.read_text())
        processor, samples = arguments.processor, read_ratios(arguments.fit)
        facts = {key: told[key] for key in ("cpu", "date", "source")}
    else:
        processor, samples = processor_here(), measured(arguments.rounds)
        facts = {
            "cpu": device()["cpu"],
            "date": f"{datetime.now(timezone.utc):%Y-%m-%d}",
            "source": f"ai-edge-litert {version('ai-edge-litert')}, 1 thread, load {os.getloadavg()[0]:.1f}",
        }
    costs = json.loads(COSTS.read_text())
    costs[processor] = record(samples, facts)
    print(processor, costs[processor])
    COSTS.write_text(json.dumps(costs, indent=1) + "\n")


if __name__ == "__main__":
    main()
