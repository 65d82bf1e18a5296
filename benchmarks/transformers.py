"""Bytes, exactness and latency of a vision transformer with float activations, beside its float file.

    python benchmarks/transformers.py write FOLDER     the files; weights are random, seed 0
    python benchmarks/transformers.py measure FOLDER   their latency in alternation, and the page

Weights are random: what is shown is size, speed and that the file computes what was quantized, not how well
the network classifies. The page docs/results/transformers.md is written from the records.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from datetime import date
from pathlib import Path

import keras

import tfmpq
from tfmpq.deploy.export import export_float
from tfmpq.models.registry import load_model

NETWORK = "vit_tiny"
BITS = (8, 4, 2)
PAGE = Path(__file__).parents[1] / "docs" / "results" / "transformers.md"
RECORD = PAGE.with_suffix(".json")


def write(folder: Path) -> None:
    """Write the float file and one of each width, all with the same weights."""
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    model = load_model(NETWORK, input_shape=(224, 224, 3), classes=1000).model
    weights = folder / "weights.keras"
    model.save(weights)
    export_float(model, folder / "float.tflite")
    for bits in BITS:
        report = tfmpq.quantize(
            weights, weight_bits=bits, activation_bits="dynamic", out=folder / f"dynamic{bits}.tflite"
        )
        proof = report.export.verification
        elements = sum(check.elements for check in proof.operators)
        print(
            f"{bits} bits: {report.export.bytes:,} bytes, {proof.delegate_partitions} partition, "
            f"{elements:,} elements recomputed, none beyond its bound"
        )


def measure(folder: Path) -> None:
    """Measure all files in alternation, and keep what was found."""
    files = [folder / "float.tflite", *(folder / f"dynamic{bits}.tflite" for bits in BITS)]
    found = tfmpq.measure(files, progress=True).to_json()
    rows = [
        {
            "file": Path(row["path"]).stem,
            "bytes": row["bytes"],
            "partitions": row["delegate_partitions"],
            "median_ms": row["median_ms"],
        }
        for row in found["files"]
    ]
    ratios = [None, *found["comparisons"]]
    for row, ratio in zip(rows, ratios, strict=True):
        row["ratio"] = 1.0 if ratio is None else ratio["ratio"]
        row["verdict"] = "" if ratio is None else ratio["verdict"]
    device = found["files"][0]["device"]
    versions = {name: importlib.metadata.version(name) for name in ("ai-edge-litert", "keras", "tensorflow")}
    record = {"date": str(date.today()), "cpu": device["cpu"], "versions": versions, "rows": rows}
    RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        print(row)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("write", "measure"))
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    (write if asked.what == "write" else measure)(asked.folder)
