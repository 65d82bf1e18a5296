"""Bytes, latency, memory and export time of six reference networks: docs/networks.json and docs/networks.md.

    python benchmarks/figures_networks.py                   # all six
    python benchmarks/figures_networks.py --models resnet8  # these anew, the others as they are in the JSON
    python benchmarks/figures_networks.py --models none     # only the page, from the JSON

Weights are random (BatchNorm's statistics are those of noise): bytes, latency, memory and export time do not
depend on what weights are. `mixed` is what `tfmpq search --method random --budget size=0.5x --seed 0` draws.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
from applications import commit, settle
from figures_page import FORMS, PEER, page

from tfmpq.api.form_choice import processor_here
from tfmpq.data.preprocess import value_range
from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.export import export_float, export_tflite
from tfmpq.deploy.latency.measure import measure
from tfmpq.deploy.tflite.flatbuffer import read_model
from tfmpq.deploy.tflite.layout import stored_layers
from tfmpq.files import write_json, write_text
from tfmpq.graph.forms import FormOptions, Preference
from tfmpq.graph.frozen import FrozenModel
from tfmpq.graph.fusion import analyse
from tfmpq.models.registry import LoadedModel, load_model
from tfmpq.policy.budget import parse_budgets
from tfmpq.policy.greedy import drawn
from tfmpq.policy.network_cost import cost_model
from tfmpq.policy.search_space import activation_candidates, weight_candidates
from tfmpq.progress import PlainReporter
from tfmpq.quantization.freeze import freeze, snap_biases
from tfmpq.quantization.insertion import quantize_model

NETWORKS = {
    "resnet8": (32, 10),
    "resnet20": (32, 10),
    "resnet18": (224, 1000),
    "resnet50": (224, 1000),
    "mobilenet_v2": (224, 1000),
    "vgg16": (224, 1000),
}
"""Side of the images and number of classes."""

THREADS = (1, 2)
DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    """Measure what is asked for and write both files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=[*NETWORKS, "none"], default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=3, help="measurements of 3 processes for each file")
    parser.add_argument("--runs", type=int, default=20, help="least timed runs of a process")
    arguments = parser.parse_args()
    records = DOCS / "networks.json"
    found = json.loads(records.read_text()) if records.exists() else {}
    for name in arguments.models:
        if name != "none":
            print(name, file=sys.stderr, flush=True)
            found[name] = network_figures(name, arguments.repeats, arguments.runs)
            write_json(records, {name: found[name] for name in NETWORKS if name in found})
            keras.backend.clear_session()
    write_text(DOCS / "networks.md", page(found, [name for name in NETWORKS if name not in found]))


def network_figures(name: str, repeats: int, runs: int) -> dict[str, Any]:
    """All figures of one network."""
    side, classes = NETWORKS[name]
    keras.utils.set_random_seed(0)
    loaded = load_model(name, input_shape=(side, side, 3), classes=classes)
    images = noise(side, value_range(loaded.preprocessing))
    settle(loaded.model, images)
    with tempfile.TemporaryDirectory() as folder:
        paths = {form: Path(folder) / f"{form}.tflite" for form in ("int8", *FORMS, PEER)}
        export_float(loaded.model, paths["float32"])
        peer_file(paths["float32"], paths[PEER], images)
        rows = {form: {"bytes": paths[form].stat().st_size} for form in ("float32", PEER)}
        for form, bits in assignments(loaded).items():
            frozen = frozen_model(loaded, bits, images)
            rows[form] = written(frozen, paths[form], "balanced", images[:1] if form == "mixed" else None)
            if f"{form}, size" in paths:
                rows[f"{form}, size"] = written(frozen, paths[f"{form}, size"], "size", None)
        for form, path in paths.items():
            rows[form]["memory"] = memory(path)
        latency = {str(threads): ratios(paths, threads, repeats, runs) for threads in THREADS}
    return {
        "side": side,
        "classes": classes,
        "parameters": loaded.model.count_params(),
        "forms": rows,
        "latency": latency,
        "circumstances": circumstances(repeats, runs),
    }


def noise(side: int, span: tuple[float, float]) -> np.ndarray:
    """Images in which neighbouring pixels are alike, float32 of shape (4, side, side, 3)."""
    coarse = np.random.default_rng(0).uniform(*span, (4, side // 8, side // 8, 3))
    return coarse.repeat(8, axis=1).repeat(8, axis=2).astype(np.float32)


def assignments(loaded: LoadedModel) -> dict[str, dict[str, int]]:
    """Weight bits by layer of each quantized form."""
    network = analyse(loaded.model, value_range(loaded.preprocessing)[0] < 0)
    costs = cost_model(network)
    space = (weight_candidates(network, (2, 4, 8)), activation_candidates(network, (8,)))
    zeros = tuple({layer: np.zeros(len(widths)) for layer, widths in part.items()} for part in space)
    budgets = parse_budgets(["size=0.5x"], costs)
    mixed, _ = drawn(costs, budgets, space, (zeros[0], zeros[1]), np.random.default_rng(0))
    uniform = {f"{bits} bits": {node.name: bits for node in network.weighted} for bits in (4, 2)}
    return {"int8": {node.name: 8 for node in network.weighted}, "mixed": mixed, **uniform}


def frozen_model(loaded: LoadedModel, bits: dict[str, int], images: np.ndarray) -> FrozenModel:
    """The network as integers."""
    span = value_range(loaded.preprocessing)
    network = analyse(loaded.model, span[0] < 0)
    widths = {layer: (width,) for layer, width in bits.items()}
    quantized = quantize_model(
        loaded.model, network, widths, activation_candidates(network, (8,)), images, span
    )
    found = analyse(quantized, span[0] < 0)
    snap_biases(quantized, found)
    return freeze(quantized, found)


def written(frozen: FrozenModel, path: Path, prefer: Preference, proof: np.ndarray | None) -> dict[str, Any]:
    """Write the `litert` form and count the bytes of both; with images also prove it."""
    options = FormOptions(prefer, processor_here())
    begin = time.perf_counter()
    content = build_tflite(frozen, "litert", options)
    seconds = time.perf_counter() - begin
    path.write_bytes(content)
    row: dict[str, Any] = {
        "bytes": len(content),
        "storage_bytes": len(build_tflite(frozen, "storage")),
        "export_seconds": round(seconds, 3),
        "unfolded": sum(layer.order is not None for layer in stored_layers(read_model(content))),
    }
    if proof is not None:
        begin = time.perf_counter()
        export_tflite(frozen, path, "litert", options=options, images=proof)
        row["proved_export_seconds"] = round(time.perf_counter() - begin, 3)
    return row


def peer_file(source: Path, path: Path, images: np.ndarray) -> None:
    """The INT4 file that ai-edge-quantizer makes of a float one: CONV_2D and FULLY_CONNECTED of 4 bits."""
    from ai_edge_quantizer import qtyping, quantizer, recipe

    work = quantizer.Quantizer(bytearray(source.read_bytes()), recipe.static_wi8_ai8())
    for kind in (qtyping.TFLOperationName.CONV_2D, qtyping.TFLOperationName.FULLY_CONNECTED):
        work.add_static_config(".*", kind, activation_num_bits=8, weight_num_bits=4)
    (signature, parts), *_ = tfl_interpreter(source).get_signature_list().items()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on the memory that an interpreter of all tensors takes
        ranges = work.calibrate({signature: [{parts["inputs"][0]: image[None]} for image in images]})
        path.write_bytes(bytes(work.quantize(ranges).quantized_model))


def tfl_interpreter(path: Path) -> Any:
    """The runtime with a file."""
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(path))


def memory(path: Path) -> dict[str, int]:
    """Of a fresh process."""
    program = Path(__file__).with_name("figures_memory.py")
    done = subprocess.run([sys.executable, program, path], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def ratios(paths: dict[str, Path], threads: int, repeats: int, runs: int) -> dict[str, Any]:
    """Latency of the first file, and of each as a ratio to it, process by process in alternation."""
    times: dict[str, list[float]] = {form: [] for form in paths}
    for _ in range(repeats):
        found = measure(list(paths.values()), threads=threads, runs=runs, reporter=PlainReporter())
        for form, measurement in zip(paths, found, strict=True):
            # Other load on the machine moves the 10th percentile least; without any it is the median nearly.
            times[form] += [process["latency_ms"]["p10"] for process in measurement.processes]
    first = np.asarray(times["int8"])
    rows = {}
    for form, values in times.items():
        shares = np.asarray(values) / first
        rows[form] = {
            "p10_ms": round(statistics.median(values), 4),
            "ratio": round(float(np.median(shares)), 4),
            "lowest": round(float(shares.min()), 4),
            "highest": round(float(shares.max()), 4),
        }
    return rows


def circumstances(repeats: int, runs: int) -> dict[str, Any]:
    """Where and when, and how busy the machine was."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "date": f"{datetime.now(timezone.utc):%Y-%m-%d}",
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "load_5_minutes": round(os.getloadavg()[1], 1),
        "commit": commit(),
        "kernels": processor_here(),
        "processes": 3 * repeats,
        "runs": runs,
        "versions": {
            name: version(name)
            for name in ("tfmpq", "tensorflow", "keras", "ai-edge-litert", "ai-edge-quantizer", "numpy")
        },
    }


if __name__ == "__main__":
    main()
