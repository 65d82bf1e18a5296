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
        ("int8, calibrated", "int8", "r20-int8"),
        ("uniform 4 bits, QAT", "uniform", "r20-u4"),
        ("searched, 0.5x", "mixed", "r20-050"),
        ("searched, 0.35x", "mixed", "r20-035"),
    ],
    "resnet8, CIFAR-10": [
        ("int8, calibrated", "int8", "r8-int8"),
        ("uniform 4 bits, QAT", "uniform", "r8-u4"),
        ("searched, 0.5x", "mixed", "r8-050"),
        ("searched, 0.35x", "mixed", "r8-035"),
    ],
    "mobilenet_v2, Imagenette validation": [
        ("int8, calibrated", "int8", "mbv2-int8"),
        ("searched on CIFAR-10, 0.5x", "mixed", "mbv2-imagenet"),
    ],
}
STAGE_FILES = (
    "search.json",
    "search.csv",
    "search.result.json",
    "finetune.json",
    "finetune.csv",
    "policy.yaml",
)
OUTPUTS = (
    "export-litert",
    "export-storage",
    "evaluate-litert",
    "evaluate-storage",
    "evaluate-samples-test",
    "evaluate-samples-all",
    "finetune",
)


def read(path: Path) -> dict[str, Any]:
    """A JSON file, or nothing."""
    return json.loads(path.read_text()) if path.exists() and path.stat().st_size else {}


def without_folders(text: str) -> str:
    """Text without the absolute folders of the machine that it was made on."""
    return re.sub(r"/(?:[\w.-]+/)+", "", text)


def copy(runs: Path, name: str, raw: Path) -> None:
    """The small files of one run."""
    target = raw / name
    target.mkdir(parents=True, exist_ok=True)
    names = {"search.json": "search.options.json", "search.result.json": "search.json"}
    for file in STAGE_FILES:
        if (runs / name / file).exists():
            (target / names.get(file, file)).write_text(without_folders((runs / name / file).read_text()))
    for output in OUTPUTS:
        if content := read(runs / f"{name}.{output}.json"):
            content.pop("data_dir", None)
            (target / f"{output}.json").write_text(without_folders(json.dumps(content, indent=2)) + "\n")


def row(
    runs: Path, network: str, label: str, family: str, name: str, int8_size: int | None
) -> dict[str, Any]:
    """One line of the table; everything from the files that the commands wrote."""
    storage, litert = read(runs / f"{name}.export-storage.json"), read(runs / f"{name}.export-litert.json")
    scored, tuned = read(runs / f"{name}.evaluate-litert.json"), read(runs / f"{name}.finetune.json")
    return {
        "network": network,
        "name": label,
        "family": family,
        "run": name,
        "top1": round(100 * scored["top1"], 2),
        "images": scored["count"],
        "size": storage["size"],
        "relative_size": round(storage["size"] / (int8_size or storage["size"]), 4),
        "storage_bytes": storage["bytes"],
        "litert_bytes": litert["bytes"],
        "mean_weight_bits": round(tuned["mean_weight_bits"], 3),
        "steps": tuned["steps"],
    }


def main() -> None:
    """Collect and print."""
    runs, results = Path(sys.argv[1]), Path(sys.argv[2])
    rows: list[dict[str, Any]] = []
    for network, entries in RUNS.items():
        int8_size = None
        for label, family, name in entries:
            if not (runs / f"{name}.evaluate-litert.json").exists():
                print(f"not run: {name}", file=sys.stderr)
                continue
            copy(runs, name, results / "raw")
            rows.append(row(runs, network, label, family, name, int8_size))
            int8_size = int8_size or rows[-1]["size"]
    for name in ("mbv2",):
        if (runs / name).exists():
            copy(runs, name, results / "raw")
    (results / "table.json").write_text(json.dumps(rows, indent=2) + "\n")
    print("| network | | top-1, % | weights / int8 | storage, bytes | litert, bytes | bits | tuning steps |")
    print("|---|---|---|---|---|---|---|---|")
    for r in rows:
        print(
            f"| {r['network']} | {r['name']} | {r['top1']:.2f} | {r['relative_size']:.3f} "
            f"| {r['storage_bytes']:,} | {r['litert_bytes']:,} | {r['mean_weight_bits']:.2f} | {r['steps']} |"
        )


if __name__ == "__main__":
    main()
