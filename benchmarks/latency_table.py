"""How well a latency table predicts whole networks: random policies, predicted and measured.

    python benchmarks/latency_table.py --model mobilenet_v2 --input 224 --classes 1000 --target storage

Each policy gets widths drawn with probabilities of its own, is written as a file of random integers and is
measured with the others in alternation, in fresh processes. Printed are, for each, the prediction and three
measurements: the median of all runs, their 10th percentile, and the CPU time of a run, which other load on a
shared machine lengthens least (one thread only). Below are mean absolute errors and rank correlations
(Spearman), and the rank correlations of bit operations and of bytes with the same latencies.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.latency.measure import measure_together
from tfmpq.deploy.latency.measurement import Measurement
from tfmpq.deploy.profiling.profile import profile
from tfmpq.deploy.profiling.random_network import StandIn, stand_in
from tfmpq.policy.latency_table import LatencyTable, load_table
from tfmpq.policy.network_cost import cost_model
from tfmpq.policy.search_space import activation_candidates, weight_candidates

MEASURES = ("median_ms", "p10_ms", "cpu_ms")
Policy = tuple[dict[str, int], dict[str, int]]


def draw(subject: StandIn, arguments: argparse.Namespace) -> list[Policy]:
    """Policies from all 8 bits to all narrow: each draws its widths with other probabilities."""
    generator = np.random.default_rng(arguments.seed)
    spaces = (
        weight_candidates(subject.network, arguments.weight_bits),
        activation_candidates(subject.network, arguments.activation_bits),
    )
    found = []
    for _ in range(arguments.policies):
        bits = []
        for space in spaces:
            most = max(len(widths) for widths in space.values())
            shares = generator.dirichlet(np.full(most, 0.5))
            bits.append(
                {
                    name: widths[0] if len(widths) == 1 else int(generator.choice(widths, p=shares))
                    for name, widths in space.items()
                }
            )
        found.append((bits[0], bits[1]))
    return found


def cpu_ms(file: Measurement) -> float:
    """CPU time of one run: the median over processes."""
    shares = [
        record["cpu_seconds_over_wall"] * float(np.mean(record["latency_ms_raw"]))
        for record in file.processes
    ]
    return float(np.median(shares))


def agreement(predicted: Sequence[float], measured: Sequence[float]) -> dict[str, float]:
    """Mean absolute error, bias and rank correlation."""
    errors = np.asarray(predicted) / np.asarray(measured) - 1
    return {
        "mean_absolute_error": round(float(np.abs(errors).mean()), 4),
        "mean_error": round(float(errors.mean()), 4),
        "largest_error": round(float(np.abs(errors).max()), 4),
        "rank_correlation": round(float(spearmanr(predicted, measured).statistic), 4),
        "fastest_ms": round(float(np.min(measured)), 4),
        "slowest_ms": round(float(np.max(measured)), 4),
    }


def compare(subject: StandIn, table: LatencyTable, arguments: argparse.Namespace) -> dict[str, Any]:
    """Write, measure and predict all policies."""
    policies = draw(subject, arguments)
    costs = cost_model(subject.network)
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, (weights, activations) in enumerate(policies):
            paths.append(Path(folder, f"policy{number:02}.tflite"))
            paths[-1].write_bytes(build_tflite(subject.with_bits(weights, activations), arguments.target))
        files = measure_together(paths, threads=arguments.threads)
    rows = [
        {
            "predicted_ms": round(table.predicted_ms(*bits), 4),
            "median_ms": round(file.median_ms, 4),
            "p10_ms": round(file.p10_ms, 4),
            "cpu_ms": round(cpu_ms(file), 4),
            "spread": round(file.spread, 3),
            "mean_weight_bits": round(costs.mean_weight_bits(bits[0]), 2),
            "bops": costs.bops(*bits),
            "size": costs.size(bits[0]),
        }
        for bits, file in zip(policies, files, strict=True)
    ]
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    return {
        "policies": rows,
        "table": {key: agreement(columns["predicted_ms"], columns[key]) for key in MEASURES},
        "rank_correlation_with_cpu_ms": {
            key: round(float(spearmanr(columns[key], columns["cpu_ms"]).statistic), 4)
            for key in ("bops", "size")
        },
        "warnings": sorted({text for file in files for text in file.warnings}),
    }


def main() -> None:
    """Profile unless a table is given, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--input", type=int, default=224)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--target", default="storage")
    parser.add_argument("--weight-bits", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--activation-bits", type=int, nargs="+", default=[8])
    parser.add_argument("--policies", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, help="an existing table, instead of profiling")
    parser.add_argument("--alone", action="store_true", help="profile operators by themselves")
    arguments = parser.parse_args()
    shape = (arguments.input, arguments.input, 3)
    if arguments.table is None:
        arguments.table = Path(f"{arguments.model}.{arguments.input}.{arguments.target}.latency.json")
        profile(
            arguments.model, input_shape=shape, classes=arguments.classes, target=arguments.target,
            weight_bits=arguments.weight_bits, activation_bits=arguments.activation_bits,
            threads=arguments.threads, alone=arguments.alone, out=arguments.table,
        )  # fmt: skip
    table = load_table(arguments.table)
    found = compare(stand_in(arguments.model, shape, arguments.classes), table, arguments)
    facts = {
        "model": table.model,
        "form": table.form,
        "runtime": table.runtime,
        "cpu": table.device["cpu"],
        "threads": table.threads,
        "profiled": table.created,
        "source": table.source,
    }
    print(json.dumps(facts | found, indent=2))


if __name__ == "__main__":
    main()
