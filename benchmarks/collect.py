"""Gather what docs/results/run.sh left in its run folders into docs/results, and print the table.

    python benchmarks/collect.py RUNS docs/results

Copies options, results and step logs (no weights, no images) to `raw/`, writes `table.json`, prints Markdown.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

RUNS = {
    "resnet20, CIFAR-10": [
        ("int8", "int8", "r20-u8"),
        ("uniform 4 bits", "uniform", "r20-u4"),
        ("searched, 0.5x", "mixed", "r20-050"),
        ("searched, 0.35x", "mixed", "r20-035"),
        ("sensitivity, 0.35x", "others", "r20-sens"),
        *((f"random policy {seed}, 0.35x", "others", f"r20-random{seed}") for seed in range(3)),
    ],
    "resnet8, CIFAR-10": [
        ("int8", "int8", "r8-u8"),
        ("uniform 4 bits", "uniform", "r8-u4"),
        ("searched, 0.5x", "mixed", "r8-050"),
        ("searched, 0.35x", "mixed", "r8-035"),
        ("sensitivity, 0.35x", "others", "r8-sens"),
        *((f"random policy {seed}, 0.35x", "others", f"r8-random{seed}") for seed in range(3)),
    ],
    "mobilenet_v2, Imagenette validation": [
        ("int8", "int8", "mbv2-u8"),
        ("searched on CIFAR-10, 0.5x", "mixed", "mbv2"),
        ("the same, calibrated and tuned on samples only", "mixed", "mbv2-samples"),
    ],
}
"""By network: label, family for the figures, name of the run without training; NAME-ft is the tuned one."""

STAGE_FILES = (
    "search.json",
    "search.csv",
    "search.result.json",
    "sensitivity.json",
    "finetune.json",
    "finetune.csv",
    "policy.yaml",
)


def read(path: Path) -> dict[str, Any]:
    """A JSON file, or nothing."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() and path.stat().st_size else {}


def without_folders(text: str) -> str:
    """Text without the absolute folders of the machine that it was made on."""
    return re.sub(r"/(?:[\w.-]+/)+", "", text)


def copy(runs: Path, name: str, raw: Path) -> None:
    """The small files of one run folder, and what was printed about it."""
    target = raw / name
    target.mkdir(parents=True, exist_ok=True)
    names = {"search.json": "search.options.json", "search.result.json": "search.json"}
    for file in STAGE_FILES:
        if (runs / name / file).exists():
            (target / names.get(file, file)).write_text(without_folders((runs / name / file).read_text()))
    for printed in runs.glob(f"{name}.*.json"):
        if (content := read(printed)) and printed.name != f"{name}.search.json":
            content.pop("data_dir", None)
            text = json.dumps(content, indent=2) + "\n"
            (target / printed.name.removeprefix(f"{name}.")).write_text(without_folders(text))


def row(network: str, label: str, family: str, name: str, found: dict[str, Any]) -> dict[str, Any]:
    """One line of the table; everything from the files that the commands wrote."""
    return {"network": network, "name": label, "family": family, "run": name, **found}


def scored(runs: Path, file: str) -> dict[str, Any]:
    """What `evaluate` printed of a file on the data that the table is about."""
    return read(runs / f"{file}.evaluate-cifar10.json") or read(runs / f"{file}.evaluate-imagenette.json")


def facts(accuracy: dict[str, Any], network: dict[str, Any], steps: int) -> dict[str, Any]:
    """What all lines have."""
    return {
        "top1": round(100 * accuracy["top1"], 2),
        "images": accuracy["count"],
        "size": network["size"],
        "mean_weight_bits": round(network["mean_weight_bits"], 3),
        "steps": steps,
    }


def without_training(runs: Path, name: str) -> dict[str, Any]:
    """What `export --calibrate` and `evaluate` printed."""
    network = read(runs / f"{name}.reconstruct.json")["quantized"]
    return facts(scored(runs, f"{name}.reconstruct"), network, 0)


def tuned(runs: Path, name: str) -> dict[str, Any]:
    """What `finetune`, `export` and `evaluate` printed."""
    trained = read(runs / f"{name}.finetune.json")
    forms = {
        f"{form}_bytes": read(runs / f"{name}.export-{form}.json")["bytes"] for form in ("storage", "litert")
    }
    return facts(scored(runs, f"{name}.litert"), trained, trained["steps"]) | forms


def main() -> None:
    """Collect and print."""
    runs, results = Path(sys.argv[1]), Path(sys.argv[2])
    rows: list[dict[str, Any]] = []
    for network, entries in RUNS.items():
        int8_size = None
        for label, family, name in entries:
            for run, find, done in (
                (name, without_training, f"{name}.reconstruct.json"),
                (f"{name}-ft", tuned, f"{name}-ft.finetune.json"),
            ):
                if not (runs / done).exists():
                    print(f"not run: {run}", file=sys.stderr)
                    continue
                copy(runs, run, results / "raw")
                rows.append(row(network, label, family, run, find(runs, run)))
                int8_size = int8_size or rows[-1]["size"]
                rows[-1]["relative_size"] = round(rows[-1]["size"] / int8_size, 4)
    (results / "table.json").write_text(json.dumps(rows, indent=2) + "\n")
    print("| network | | top-1, % | size / int8 | storage file, bytes | bits a weight | steps of training |")
    print("|---|---|---|---|---|---|---|")
    for r in rows:
        stored = f"{r['storage_bytes']:,}" if "storage_bytes" in r else ""
        print(
            f"| {r['network']} | {r['name']} | {r['top1']:.2f} | {r['relative_size']:.3f} "
            f"| {stored} | {r['mean_weight_bits']:.2f} | {r['steps']:,} |"
        )


if __name__ == "__main__":
    main()
