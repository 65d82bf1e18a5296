"""Latency of several `.tflite` files, measured in alternation, as ratios to the first.

    python benchmarks/latency.py int8.tflite mixed.tflite float32.tflite --threads 1 --repeats 5

Each repeat measures all files in alternation in fresh processes; printed are the median and the spread
(smallest to largest) over the repeats of each file's median latency divided by the first file's.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from tfmpq.deploy.latency.measure import measure_together


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    medians: dict[Path, list[float]] = {path: [] for path in arguments.files}
    for _ in range(arguments.repeats):
        for path, found in zip(
            arguments.files, measure_together(arguments.files, threads=arguments.threads), strict=True
        ):
            medians[path].append(found.median_ms)
    base = medians[arguments.files[0]]
    rows = []
    for path, values in medians.items():
        ratios = [value / reference for value, reference in zip(values, base, strict=True)]
        rows.append(
            {
                "file": path.name,
                "bytes": path.stat().st_size,
                "median_ms": round(statistics.median(values), 4),
                "ratio": round(statistics.median(ratios), 3),
                "spread": [round(min(ratios), 3), round(max(ratios), 3)],
            }
        )
    print(json.dumps({"threads": arguments.threads, "repeats": arguments.repeats, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
