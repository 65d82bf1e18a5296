"""Runs one `.tflite` and times it; a program of its own, so that a crash of the runtime takes nothing along.

It needs Python, NumPy and ai-edge-litert only, and imports nothing of this package. The first line that
it writes says what it loaded; then, for every line "RUNS SECONDS" that it reads, it invokes the model at
least so often and so long, and answers with the times. All lines are JSON; the times are those of
`invoke()` alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

MAX_RUNS = 10_000


def device() -> dict[str, Any]:
    """What this machine is."""
    facts: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
        board = Path("/proc/device-tree/model")
        facts["board"] = board.read_text().strip("\0\n") if board.exists() else ""
    except OSError:
        pass  # not Linux, or not allowed: the fields stay empty
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return {
        "machine": platform.machine(),
        "cpu": facts.get("model name") or facts.get("Hardware") or platform.processor() or None,
        "board": facts.get("board") or None,
        "cores": len(cores),
        "os": platform.platform(),
        "python": platform.python_version(),
    }


def random_input(detail: dict[str, Any]) -> np.ndarray:
    """Noise over the range of an input tensor; latency does not depend on values."""
    generator = np.random.default_rng(0)
    dtype, shape = detail["dtype"], tuple(detail["shape"])
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        return generator.integers(max(limits.min, -128), min(limits.max, 127), shape, dtype, endpoint=True)
    return generator.uniform(-1, 1, shape).astype(dtype)


def timed(interpreter: Any, runs: int, seconds: float) -> list[int]:
    """Nanoseconds of single invocations, at least `runs` of them and for at least `seconds`."""
    times: list[int] = []
    end = time.perf_counter_ns() + int(seconds * 1e9)
    while len(times) < MAX_RUNS and (len(times) < runs or time.perf_counter_ns() < end):
        start = time.perf_counter_ns()
        interpreter.invoke()
        times.append(time.perf_counter_ns() - start)
    return times


def main(path: str, threads: int) -> None:
    """Serve one file until standard input ends."""
    from ai_edge_litert.interpreter import Interpreter

    content = Path(path).read_bytes()
    start = time.perf_counter_ns()
    interpreter = Interpreter(model_path=path, num_threads=threads)
    interpreter.allocate_tensors()
    loaded = time.perf_counter_ns()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], random_input(detail))
    first = timed(interpreter, 1, 0)[0]
    facts = {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "runtime": {"name": "ai-edge-litert", "version": metadata.version("ai-edge-litert")},
        "device": device(),
        "delegate_partitions": sum(node["op_name"] == "DELEGATE" for node in interpreter._get_ops_details()),
        "load_ms": (loaded - start) / 1e6,
        "first_inference_ms": first / 1e6,
    }
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        runs, seconds = line.split()
        print(json.dumps(timed(interpreter, int(runs), float(seconds))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
