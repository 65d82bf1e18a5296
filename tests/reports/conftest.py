"""Run folders and results with known numbers."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

BITS = {"conv1": 8, "block_conv": 4, "block_conv2": 2, "dense": 8}
SHAPES = {
    "conv1": (3, 3, 3, 16),
    "block_conv": (3, 3, 16, 32),
    "block_conv2": (3, 3, 32, 64),
    "dense": (64, 10),
}
VERSIONS = {"python": "3.11.7", "tfmpq": "0.1.0", "keras": "3.15.1"}
STEPS = 300


def policy_text(bits: Mapping[str, int], method: str = "asga") -> str:
    layers = "".join(f"  {name}: {{weight_bits: {width}}}\n" for name, width in bits.items())
    return f"format: tfmpq-policy/1\nmodel: resnet8\nlayers:\n{layers}method: {method}\n"


def search_result(**changes: Any) -> dict[str, Any]:
    found = {
        "model": "resnet8",
        "budget": [{"key": "size", "asked": "size=0.5x", "limit": 41000.0, "reached": 40500.0}],
        "bits": BITS,
        "bops": {"float": 3_200_000_000, "int8": 200_000_000, "policy": 123_000_000},
        "size": {"float": 310_000, "int8": 81_000, "policy": 40_500},
        "mean_weight_bits": 3.84,
        "accuracy": {"float": 0.8712, "policy_without_finetuning": 0.7345},
        "search_seconds": 12.3,
        "pareto": [],
    }
    return found | changes


def search_options(**changes: Any) -> dict[str, Any]:
    return {
        "format": "tfmpq-run/1",
        "stage": "search",
        "model": "resnet8",
        "model_file": "resnet8",
        "proxy": "digits",
        "data": "61e0b78a57c55778",
        "weights": "ab12" * 16,
        "budgets": ["size=0.5x", "bops=0.7x"],
        "weight_bits": [2, 4, 8],
        "activation_bits": [4, 8],
        "method": "asga",
        "perturb": "latent",
        "epochs": 3,
        "steps_per_epoch": None,
        "batch_size": 64,
        "seed": 5,
        "float_epochs": 2,
        "float_is_trained": True,
        "learning_rate": 0.01,
        "preprocessing": "none",
        "target_input": 96,
        "target_classes": None,
        "rho_max": 0.1,
    } | changes


def finetune_result(**changes: Any) -> dict[str, Any]:
    return {
        "model": "resnet8",
        "data": "digits",
        "started_from": "float",
        "top1": 0.8654,
        "top5": 0.9912,
        "count": 360,
        "epochs": 4,
        "steps": 600,
        "size": 40_500,
        "bops": 123_000_000,
        "mean_weight_bits": 3.84,
        "versions": VERSIONS,
    } | changes


def finetune_options(**changes: Any) -> dict[str, Any]:
    return {
        "format": "tfmpq-run/1",
        "stage": "finetune",
        "model": "resnet8",
        "model_file": "resnet8",
        "target": "digits",
        "data": "61e0b78a57c55778",
        "policy": {"layers": {}},
        "weights": None,
        "preprocessing": "none",
        "epochs": 4,
        "steps_per_epoch": None,
        "batch_size": 64,
        "learning_rate": 0.002,
        "reconstruct": True,
        "distill": False,
        "distill_weight": 0.5,
        "frozen_statistics_epochs": None,
        "seed": 5,
    } | changes


def measured(path: str, median: float = 1.25, **changes: Any) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "path": path,
        "bytes": 45_678,
        "sha256": "0" * 64,
        "median_ms": median,
        "p10_ms": 0.98 * median,
        "p90_ms": 1.03 * median,
        "p99_ms": 1.4 * median,
        "process_medians_ms": [0.99 * median, median, 1.02 * median],
        "spread": 0.03,
        "runs": 3000,
        "threads": 1,
        "runtime": {"name": "ai-edge-litert", "version": "2.3.0"},
        "device": {"machine": "x86_64", "cpu": "AMD EPYC", "os": "Debian", "kernel": "6.1"},
        "load_ms": 2.5,
        "first_inference_ms": 3.5,
        "memory_kb": 7000,
        "target": {"kind": "local", "address": None},
        "emulated": False,
        "protocol": {"name": "quick", "affinity": None},
        "warnings": ["the governor is powersave"],
        "processes": [{"started_at": "2026-01-02T03:04:05+00:00"}],
    } | changes


def emulated(path: str) -> dict[str, Any]:
    times = {name: None for name in measured(path) if name.endswith("_ms") or name == "spread"}
    return measured(path) | times | {"emulated": True, "memory_kb": None, "device": {"cpu": "Cortex-A72"}}


def verified(path: str, **changes: Any) -> dict[str, Any]:
    check = {"kind": "conv2d", "kernels": "xnnpack", "elements": 86016, "off_by_one": 3, "off_by_more": 0}
    return {
        "passed": True,
        "path": path,
        "against": "runs/a",
        "target": "litert",
        "bytes": 45_678,
        "integers": 77_360,
        "delegate_partitions": 1,
        "operators": [check | {"passed": True}],
        "layers": [],
        "logits": {"images": 360, "agreement": 0.9972, "exact": 0.9983, "worst": 1},
        "failures": [],
        "notes": ["360 images were compared; the agreement is meant for 1000 or more"],
    } | changes


def evaluated(path: str, top1: float, **changes: Any) -> dict[str, Any]:
    return {
        "path": path,
        "data": "digits",
        "split": "test",
        "count": 360,
        "top1": top1,
        "top5": 1.0,
    } | changes


def exported(path: str, **changes: Any) -> dict[str, Any]:
    proof = {
        "passed": True,
        "integers": 4321,
        "images": 4,
        "delegate_partitions": 1,
        "operators": [],
        "failures": [],
    }
    return {
        "path": path,
        "bytes": 1000,
        "target": "litert",
        "layers": [{"name": name, "weight_bits": width} for name, width in BITS.items()],
        "verification": proof,
        "agreement": None,
    } | changes


def write_steps(path: Path, columns: tuple[str, ...]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", *columns])
        for step in range(STEPS):
            writer.writerow(
                [step, *(f"{2 + math.exp(-step / 50) + index:.7g}" for index in range(len(columns)))]
            )


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """`make_run(name, search=..., finetune=..., job=...)` writes a run folder."""

    def make(
        name: str = "a",
        *,
        search: Mapping[str, Any] | None = None,
        finetune: Mapping[str, Any] | None = None,
        job: Mapping[str, Any] | None = None,
        policy: str | None = None,
        checkpoint: bool = True,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        if search is not None:
            (folder / "search.json").write_text(json.dumps(search_options()))
            (folder / "search.result.json").write_text(json.dumps(search))
            columns = ("loss", "perturbed_loss", "gap", "rho", "expected_bits", "expected_size", "accuracy")
            write_steps(folder / "search.csv", columns)
        if finetune is not None:
            (folder / "finetune.json").write_text(json.dumps(finetune_options()))
            (folder / "finetune.result.json").write_text(json.dumps(finetune))
            write_steps(folder / "finetune.csv", ("loss", "accuracy"))
        if job is not None:
            (folder / "job.json").write_text(json.dumps(job))
        if checkpoint:
            arrays: dict[str, Any] = {
                f"{i:05d} {n}/{n}/kernel": np.zeros(s) for i, (n, s) in enumerate(SHAPES.items())
            }
            np.savez(folder / "finetune.npz", **arrays)
        (folder / "policy.yaml").write_text(policy or policy_text(BITS))
        return folder

    return make


@pytest.fixture
def whole_run(make_run: Callable[..., Path]) -> Path:
    """What `tfmpq run` leaves, with a proof in the folder."""
    rows = [
        ("float32", 0.8712, 320_000, 310_000, 32.0),
        ("int8", 0.8698, 90_000, 81_000, 8.0),
        ("mixed", 0.8654, 89_000, 40_500, 3.84),
    ]
    names = ("model", "top1", "bytes", "size", "mean_weight_bits")
    table = [dict(zip(names, row, strict=True)) | {"path": f"runs/a/{row[0]}.tflite"} for row in rows]
    times = {
        row[0]: measured(f"runs/a/{row[0]}.tflite", median)
        for row, median in zip(rows, (3, 1.5, 1.25), strict=True)
    }
    folder = make_run(
        search=search_result(), finetune=finetune_result(), job={"table": table, "measured": times}
    )
    (folder / "verify.json").write_text(json.dumps(verified("runs/a/mixed.tflite")))
    return folder


@pytest.fixture
def samples() -> SimpleNamespace:
    """The functions above that make results."""
    made = (search_result, search_options, finetune_result, finetune_options, measured, emulated, verified)
    return SimpleNamespace(
        **{function.__name__: function for function in (*made, evaluated, exported, policy_text)},
        bits=BITS,
        shapes=SHAPES,
    )
