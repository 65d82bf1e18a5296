"""Seconds to rewrite a file in storage form for a processor, without TensorFlow.

    python benchmarks/specialize_time.py --model resnet18 --side 224 --repeats 20

The network has random integers of mixed widths: the time depends on shapes and widths only. Beside the time
on the clock stands that of this process, which other programs on the machine do not lengthen.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time

from tfmpq.deploy.conversion.specialize import specialize
from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.profiling.random_network import stand_in
from tfmpq.graph.containers import SPECIALIZED


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--target", default="litert", choices=SPECIALIZED)
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    subject = stand_in(arguments.model, (arguments.side, arguments.side, 3), 1000)
    cycle = itertools.cycle((8, 4, 2, 4))
    bits = {node.name: next(cycle) for node in subject.network.weighted}
    content = build_tflite(subject.with_bits(bits), "storage")
    written = specialize(content, arguments.target)  # the first one imports what it needs
    clock, own = [], []
    for _ in range(arguments.repeats):
        begin, begin_own = time.perf_counter(), time.process_time()
        specialize(content, arguments.target)
        clock.append(time.perf_counter() - begin)
        own.append(time.process_time() - begin_own)
    seconds = {
        name: {"median": round(statistics.median(v), 3), "spread": [round(min(v), 3), round(max(v), 3)]}
        for name, v in {"clock_s": clock, "process_s": own}.items()
    }
    facts = {"model": arguments.model, "side": arguments.side, "target": arguments.target}
    sizes = {"storage_bytes": len(content), "bytes": len(written)}
    print(json.dumps(facts | sizes | seconds, indent=2))


if __name__ == "__main__":
    main()
