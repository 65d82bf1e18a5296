"""Draw the figures of docs/results from the raw results beside them.

    python benchmarks/figures.py docs/results

Reads `raw/NAME/search.json` (policy), `raw/NAME/search.csv` (course) and `table.json`; writes PNG and SVG to
`figures/`.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

COLOURS = {2: "#b2182b", 3: "#ef8a62", 4: "#fddbc7", 5: "#d1e5f0", 6: "#92c5de", 8: "#2166ac"}
FAMILIES = {
    "int8": ("#2166ac", "s", "int8"),
    "uniform": ("#e08214", "s", "uniform 4 bits"),
    "mixed": ("#1b7837", "o", "searched"),
    "others": ("#b2182b", "x", "random, sensitivity"),
}


def save(figure: Any, folder: Path, name: str) -> None:
    """Write a figure in both forms."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("png", "svg"):
        figure.savefig(folder / f"{name}.{suffix}", dpi=150, bbox_inches="tight", metadata=_undated(suffix))
    plt.close(figure)


def _undated(suffix: str) -> dict[str, Any]:
    """Metadata without a date, so that the same data gives the same file."""
    return {"Date": None} if suffix == "svg" else {"Software": None}


def policy(folder: Path, figures: Path) -> None:
    """Bits by layer, one bar a layer."""
    found = json.loads((folder / "search.json").read_text())
    names, bits = list(found["bits"]), list(found["bits"].values())
    figure, axes = plt.subplots(figsize=(max(6, 0.32 * len(names)), 2.6))
    axes.bar(range(len(names)), bits, color=[COLOURS[b] for b in bits], edgecolor="#333333", linewidth=0.5)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_ylabel("weight bits")
    axes.set_yticks([2, 4, 6, 8])
    budget = found["budget"][0]
    reached = found["size"]["policy"] / found["size"]["int8"]
    axes.set_title(
        f"{found['model']}, {budget['asked']}: {found['mean_weight_bits']:.2f} bits a weight, "
        f"{reached:.3f} of the int8 size",
        fontsize=9,
    )
    axes.legend(
        handles=[Patch(color=COLOURS[b], label=f"{b} bits") for b in sorted(set(bits))], fontsize=7, ncols=4
    )
    save(figure, figures, f"policy-{folder.name}")


def course(folder: Path, figures: Path) -> None:
    """Loss, gap, radius and expected size over the search."""
    with (folder / "search.csv").open() as file:
        rows = list(csv.DictReader(file))
    if "gap" not in rows[0]:
        return
    figure, grid = plt.subplots(2, 2, figsize=(8, 4.4), sharex=True)
    steps = [int(row["step"]) for row in rows]
    for axes, key, title in zip(
        grid.flat,
        ("loss", "gap", "rho", "expected_size"),
        ("task loss", "surrogate gap h", "radius rho", "expected size / int8 size"),
        strict=True,
    ):
        axes.plot(steps, [float(row[key]) for row in rows], linewidth=0.8, color=FAMILIES["mixed"][0])
        axes.set_title(title, fontsize=9)
        axes.grid(alpha=0.3)
    for axes in grid[1]:
        axes.set_xlabel("step")
    save(figure, figures, f"course-{folder.name}")


def accuracy(rows: list[dict[str, Any]], figures: Path) -> None:
    """Top-1 with its standard error against the share of the int8 bytes, one panel a network."""
    counts = Counter(row["network"] for row in rows)
    networks = [network for network, count in counts.items() if count > 1]
    figure, panels = plt.subplots(1, len(networks), figsize=(4.2 * len(networks), 3.6), squeeze=False)
    for axes, network in zip(panels[0], networks, strict=True):
        for row in (row for row in rows if row["network"] == network):
            x, y = row["relative_size"], row["top1"]
            error = 100 * math.sqrt(y / 100 * (1 - y / 100) / row["images"])
            colour, marker, _ = FAMILIES[row["family"]]
            filled = row["steps"] or marker == "x"
            axes.errorbar(x, y, yerr=error, color=colour, marker=marker, capsize=3, linestyle="none",
                          alpha=0.8, markerfacecolor=colour if filled else "white")  # fmt: skip
        axes.set_xlim(0.2, 1.1)
        axes.set_xlabel("weights, scales and biases / int8")
        axes.set_ylabel("top-1 of the .tflite, %")
        axes.set_title(network, fontsize=10)
        axes.grid(alpha=0.3)
    shown = [
        Line2D([], [], color=colour, marker=marker, linestyle="none", label=label)
        for colour, marker, label in FAMILIES.values()
    ]
    hollow = {"marker": "o", "linestyle": "none", "color": "#333333"}
    shown.append(Line2D([], [], markerfacecolor="white", label="no training", **hollow))
    shown.append(Line2D([], [], label="fine-tuned", **hollow))
    figure.tight_layout()
    figure.legend(handles=shown, ncols=6, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 0.01))
    save(figure, figures, "accuracy-size")


def main() -> None:
    """Draw everything that there is data for."""
    root = Path(sys.argv[1])
    for folder in sorted((root / "raw").iterdir()):
        if (folder / "search.csv").exists():
            policy(folder, root / "figures")
            course(folder, root / "figures")
    if (root / "table.json").exists():
        accuracy(json.loads((root / "table.json").read_text()), root / "figures")


if __name__ == "__main__":
    main()
