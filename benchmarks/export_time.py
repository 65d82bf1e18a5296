"""Seconds to export a network, with and without its proof, on a policy of mixed bits and untrained weights.

    python benchmarks/export_time.py --model mobilenet_v2 --side 224 --repeats 3

How long an export takes does not depend on what the weights are, so no training is needed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from tfmpq.data.preprocess import value_range
from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.export import export_tflite
from tfmpq.graph.fusion import analyse
from tfmpq.models.registry import load_model
from tfmpq.policy.search_space import activation_candidates, weight_candidates
from tfmpq.quantization.freeze import freeze, snap_biases
from tfmpq.quantization.insertion import quantize_model


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    side = arguments.side
    loaded = load_model(arguments.model, input_shape=(side, side, 3), classes=1000)
    span = value_range(loaded.preprocessing)
    network = analyse(loaded.model, span[0] < 0)
    images = np.random.default_rng(0).uniform(*span, (4, side, side, 3)).astype(np.float32)
    cycle = itertools.cycle((8, 4, 2, 4))
    bits = {name: (next(cycle),) for name in weight_candidates(network, (8,))}
    quantized = quantize_model(
        loaded.model, network, bits, activation_candidates(network, (8,)), images, span
    )
    quantized_network = analyse(quantized, span[0] < 0)
    snap_biases(quantized, quantized_network)
    frozen = freeze(quantized, quantized_network)
    without, proved = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.repeats):
            begin = time.perf_counter()
            build_tflite(frozen, "litert")
            without.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            export_tflite(frozen, Path(folder) / "model.tflite", images=images)
            proved.append(time.perf_counter() - begin)
    rows = {"without_proof_s": without, "with_proof_s": proved}
    summary = {
        key: {"median": round(statistics.median(v), 2), "spread": [round(min(v), 2), round(max(v), 2)]}
        for key, v in rows.items()
    }
    print(json.dumps({"model": arguments.model, "side": side} | summary, indent=2))


if __name__ == "__main__":
    main()
