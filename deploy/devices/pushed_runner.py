"""Runs one `.tflite` on the machine that it is on and times it: a program of its own, pushed to devices.

It needs Python 3.7, NumPy and ai-edge-litert or tflite-runtime, and imports nothing of this package. Its
last line on stdout is `TFMPQ_RESULT` and a JSON object, or `TFMPQ_ERROR` and {kind, message}. It states
facts only; what they are worth is judged on the host. Times are those of `invoke()` alone.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import importlib
import json
import os
import platform
import struct
import subprocess
import sys
import time
from importlib.util import find_spec
from typing import Any

MAX_RUNS = 10000
RUNTIMES = (("ai-edge-litert", "ai_edge_litert"), ("tflite-runtime", "tflite_runtime"))
EXIT_CODES = {
    "bad_affinity": 2,
    "no_numpy": 3,
    "wrong_architecture": 3,
    "no_runtime": 4,
    "model_invalid": 5,
    "invoke_failed": 6,
}


class Failure(Exception):
    """An end that the host has a name for."""

    def __init__(self, kind: str, message: object) -> None:
        super().__init__(kind)
        self.kind, self.message = kind, " ".join(str(message).split())[:2000]


def read(path: str) -> str | None:
    """Text of a small file of the system, None where it is missing or not to be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip().strip("\0")
    except OSError:
        return None


def first_field(text: str | None, *keys: str) -> str | None:
    """Value of the first line `key : value` of any of these keys, for example in /proc/cpuinfo."""
    for key in keys:
        for line in (text or "").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key and value.strip():
                return value.strip()
    return None


def device() -> dict[str, Any]:
    """What this machine is."""
    cpuinfo = read("/proc/cpuinfo")
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    system = [
        line.split("=", 1)[1].strip('"')
        for line in (read("/etc/os-release") or "").splitlines()
        if line.startswith("PRETTY_NAME=")
    ]
    memory = first_field(read("/proc/meminfo"), "MemTotal")
    return {
        "machine": platform.machine(),
        "cpu": first_field(cpuinfo, "model name", "Hardware", "CPU part") or platform.processor() or None,
        "board": read("/proc/device-tree/model") or first_field(cpuinfo, "Model"),
        "features": first_field(cpuinfo, "flags", "Features") or features_elsewhere(),
        "cores": len(cores),
        "cpu_count": os.cpu_count(),
        "os": system[0] if system else platform.platform(),
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()) or None,
        "python": platform.python_version(),
        "pointer_bits": 8 * struct.calcsize("P"),
        "memory_kb": int(memory.split()[0]) if memory else None,
    }


def features_elsewhere() -> str | None:
    """Features of the processor on macOS, by the names that /proc/cpuinfo has for them.

    Windows does not tell the one that matters: it has no name for VNNI.
    """
    if sys.platform == "darwin":
        keys = ("machdep.cpu.features", "machdep.cpu.leaf7_features", "hw.optional.arm.FEAT_DotProd")
        told = [_sysctl(key) for key in keys]
        names = " ".join(told[:2]).lower().split() + ["asimddp"] * (told[2] == "1")
        return " ".join(names) or None
    return None


def _sysctl(key: str) -> str:
    try:
        return subprocess.run(["sysctl", "-n", key], capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def state() -> dict[str, Any]:
    """What may change while we measure: governor, clocks, temperatures, load, throttling."""
    policies = {}
    for path in sorted(glob.glob("/sys/devices/system/cpu/cpufreq/policy*")):
        names = ("scaling_governor", "scaling_cur_freq", "scaling_max_freq", "cpuinfo_max_freq")
        policies[os.path.basename(path)] = {name: read(os.path.join(path, name)) for name in names}
    celsius = {}
    for zone in sorted(glob.glob("/sys/class/thermal/thermal_zone*")):
        text = read(os.path.join(zone, "temp")) or ""
        if text.lstrip("-").isdigit():
            name = f"{os.path.basename(zone)}:{read(os.path.join(zone, 'type'))}"
            celsius[name] = int(text) / 1000
    load = (read("/proc/loadavg") or "").split()
    return {
        "cpufreq": policies,
        "celsius": celsius,
        "load_1min": float(load[0]) if load else None,
        "throttled": throttled(),
    }


def throttled() -> str | None:
    """The flags of a Raspberry Pi's firmware as a hexadecimal number; None on other boards."""
    flags = read("/sys/devices/platform/soc/soc:firmware/get_throttled")
    if flags is not None:
        return flags
    try:
        told = subprocess.run(["vcgencmd", "get_throttled"], stdout=subprocess.PIPE, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.decode(errors="replace").strip().partition("=")[2] or None


def memory(key: str) -> int | None:
    """Kilobytes of this process: VmRSS now, VmHWM at most."""
    value = first_field(read("/proc/self/status"), key)
    return int(value.split()[0]) if value else None


def foreign_libraries(package: str) -> list[str]:
    """Compiled files of a package that are for another processor than this Python."""

    def processor(path: str) -> bytes | None:
        with open(path, "rb") as file:
            head = file.read(20)
        return head[4:5] + head[18:20] if head[:4] == b"\x7fELF" else None

    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found: list[str] = []
    for folder in folders:
        found += glob.glob(os.path.join(folder, "**", "*.so"), recursive=True)
    try:
        mine = processor(os.path.realpath(sys.executable))
        return [os.path.basename(path) for path in found if mine and processor(path) not in (None, mine)]
    except OSError:
        return []


def load_package(package: str, module: str, missing: str) -> Any:
    """Import a module of a package.

    Raises:
        Failure: `missing`, or wrong_architecture where what is installed is for another processor.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:  # also OSError: a C library that is too old, ...
        foreign = foreign_libraries(package)
        if foreign:
            raise Failure("wrong_architecture", f"{package} has {foreign[0]}") from None
        raise Failure(missing, f"{type(error).__name__}: {error}") from None


def version(distribution: str, module: Any) -> str:
    """Version of an installed package."""
    try:
        return importlib.import_module("importlib.metadata").version(distribution)
    except Exception:  # Python 3.7 has no importlib.metadata, copied packages have no metadata
        return str(getattr(module, "__version__", "unknown"))


def load_runtime() -> tuple[Any, dict[str, str]]:
    """The Interpreter class of the first runtime that is there, and what it is."""
    numpy = load_package("numpy", "numpy", "no_numpy")
    failures = []
    for distribution, package in RUNTIMES:
        try:
            module = load_package(package, package + ".interpreter", "no_runtime")
        except Failure as failure:
            failures.append(failure)
            continue
        release = version(distribution, importlib.import_module(package))
        return module.Interpreter, {"name": distribution, "version": release, "numpy": numpy.__version__}
    foreign = [failure for failure in failures if failure.kind == "wrong_architecture"]
    raise (foreign or [Failure("no_runtime", "; ".join(failure.message for failure in failures))])[0]


def random_input(detail: dict[str, Any]) -> Any:
    """Noise over the range of an input tensor; latency does not depend on values."""
    import numpy as np

    generator = np.random.RandomState(0)
    dtype, shape = detail["dtype"], tuple(detail["shape"])
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        return generator.randint(max(limits.min, -128), min(limits.max, 127) + 1, shape).astype(dtype)
    return generator.uniform(-1, 1, shape).astype(dtype)


def timed(interpreter: Any, runs: int, seconds: float, limit: float) -> list[float]:
    """Milliseconds of single invocations: at least `runs` and `seconds`, at most `limit` seconds."""
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < MAX_RUNS:
        passed = time.perf_counter() - begin
        if times and (passed > limit or (len(times) >= runs and passed >= seconds)):
            break
        start = time.perf_counter_ns()
        interpreter.invoke()
        times.append((time.perf_counter_ns() - start) / 1e6)
    return times


def open_model(interpreter_class: Any, path: str, threads: int) -> tuple[Any, float, float]:
    """An interpreter with allocated tensors, and the milliseconds for both.

    Raises:
        Failure: The runtime refuses the file.
    """
    start = time.perf_counter_ns()
    try:
        interpreter = interpreter_class(model_path=path, num_threads=threads)
        loaded = time.perf_counter_ns()
        interpreter.allocate_tensors()
    except Exception as error:
        raise Failure("model_invalid", error) from None
    return interpreter, (loaded - start) / 1e6, (time.perf_counter_ns() - loaded) / 1e6


def partitions(interpreter: Any) -> int | None:
    """Number of delegated parts of the graph; None where the runtime does not tell."""
    try:
        return sum(node["op_name"] == "DELEGATE" for node in interpreter._get_ops_details())
    except Exception:  # not a public function
        return None


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Load the file, warm up, and time it."""
    interpreter_class, runtime = load_runtime()
    imported = memory("VmRSS")
    with open(options.model, "rb") as file:
        content = file.read()
    before = state()
    interpreter, load_ms, allocate_ms = open_model(interpreter_class, options.model, options.threads)
    inputs = interpreter.get_input_details()
    try:
        for detail in inputs:
            interpreter.set_tensor(detail["index"], random_input(detail))
        first = timed(interpreter, 1, 0, 0)[0]
        warmup = timed(interpreter, options.warmup_runs, options.warmup_seconds, options.limit)
        cpu, wall = time.process_time(), time.perf_counter()
        times = timed(interpreter, options.runs, options.seconds, options.limit)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    except Exception as error:
        raise Failure("invoke_failed", error) from None
    return {
        "model": {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "inputs": [[int(size) for size in detail["shape"]] for detail in inputs],
        },
        "runtime": runtime,
        "device": device(),
        "delegate_partitions": partitions(interpreter),
        "load_ms": load_ms,
        "allocate_ms": allocate_ms,
        "first_inference_ms": first,
        "warmup_ms_raw": warmup,
        "latency_ms_raw": times,
        "cpu_seconds_over_wall": cpu / wall if wall else None,
        "memory_kb": {"after_import": imported, "peak": memory("VmHWM")},
        "state_before": before,
        "state_after": state(),
    }


def infer(options: argparse.Namespace) -> dict[str, Any]:
    """Run the file on the inputs of an .npy file, one by one, and write its outputs to another."""
    interpreter_class, runtime = load_runtime()
    import numpy as np

    images = np.load(options.inputs)
    interpreter = open_model(interpreter_class, options.model, options.threads)[0]
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]
    outputs = []
    try:
        for index in range(len(images)):
            interpreter.set_tensor(source, images[index : index + 1])
            interpreter.invoke()
            outputs.append(interpreter.get_tensor(target)[0].copy())
    except Exception as error:
        raise Failure("invoke_failed", error) from None
    np.save(options.outputs, np.stack(outputs))
    return {"runtime": runtime, "count": len(outputs)}


def probe() -> dict[str, Any]:
    """What the machine is and which runtime it has, or what it lacks."""
    try:
        runtime, problem = load_runtime()[1], None
    except Failure as failure:
        runtime, problem = None, {"kind": failure.kind, "message": failure.message}
    return {"device": device(), "runtime": runtime, "problem": problem, "state": state()}


def pin(cpus: str) -> None:
    """Keep to some CPUs, given as 0,1."""
    try:
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    except (OSError, ValueError, AttributeError) as error:
        raise Failure("bad_affinity", f"{cpus}: {error}") from None


def parse() -> argparse.Namespace:
    """The command line, which the host writes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--limit", type=float, default=150.0)
    parser.add_argument("--warmup-runs", type=int, default=5)
    parser.add_argument("--warmup-seconds", type=float, default=0.5)
    parser.add_argument("--affinity")
    parser.add_argument("--inputs")
    parser.add_argument("--outputs")
    return parser.parse_args()


def main() -> int:
    """Do what the command line says; without a model, say what is here."""
    options = parse()
    try:
        if options.affinity:
            pin(options.affinity)
        act = infer if options.inputs else measure
        result = act(options) if options.model else probe()
    except Failure as failure:
        print("TFMPQ_ERROR " + json.dumps({"kind": failure.kind, "message": failure.message}), flush=True)
        return EXIT_CODES[failure.kind]
    print("TFMPQ_RESULT " + json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
