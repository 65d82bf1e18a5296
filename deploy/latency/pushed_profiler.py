"""Times every operator of one `.tflite` by LiteRT's own profiler: a program of its own, pushed to devices.

It needs Python 3.7 and ai-edge-litert 2.x, and imports nothing of this package. The wheel has no Python
binding of the profiler, but its libLiteRt.so exports the C API (litert/c/litert_profiler.h), which is called
here by ctypes. A release with another layout of these structures may crash, so this is always a process of
its own. Its last line on stdout is `TFMPQ_RESULT` and a JSON object, or `TFMPQ_ERROR` and {kind, message}.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import time
from importlib.util import find_spec
from typing import Any

MAX_RUNS = 10000
WARMUP_RUNS = 5
# Types of events: an operator that LiteRT itself runs, one that a delegate reports; and a whole run.
OPERATOR, DELEGATED = 2, 8
WHOLE = ("Invoke", 1)
EXIT_CODES = {"no_profiler": 4, "model_invalid": 5, "bad_affinity": 2}

Pointer = ctypes.c_void_p


class Failure(Exception):
    """An end that the host has a name for."""

    def __init__(self, kind: str, message: object) -> None:
        super().__init__(kind)
        self.kind, self.message = kind, " ".join(str(message).split())[:2000]


class Memory(ctypes.Structure):
    """Memory use as an event records it."""

    _fields_ = [("total", ctypes.c_size_t), ("in_use", ctypes.c_size_t), ("private", ctypes.c_size_t)]


class Event(ctypes.Structure):
    """ProfiledEventData of litert/c/litert_profiler_event.h."""

    _fields_ = [
        ("tag", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("memory_before", Memory),
        ("memory_after", Memory),
        ("index", ctypes.c_uint64),
        ("subgraph", ctypes.c_uint64),
        ("source", ctypes.c_int),
    ]


class Profiler:
    """A compiled model on the CPU with the profiler switched on.

    Args:
        path: A `.tflite` with one signature, or with none.
        threads: Threads of XNNPACK.
    """

    def __init__(self, path: str, threads: int) -> None:
        spec = find_spec("ai_edge_litert")
        library = os.path.join(os.path.dirname(spec.origin or ""), "libLiteRt.so") if spec else ""
        if not os.path.exists(library):
            raise Failure("no_profiler", "this runtime has no libLiteRt.so; ai-edge-litert 2.x brings one")
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise Failure("no_profiler", error) from None
        self._kept: list[Any] = []
        environment, self._model, self._compiled = Pointer(), Pointer(), Pointer()
        self._call("LiteRtCreateEnvironment", 0, None, ctypes.byref(environment))
        try:
            model = ctypes.byref(self._model)
            self._call("LiteRtCreateModelFromFile", environment, os.fsencode(path), model)
        except Failure as failure:
            raise Failure("model_invalid", failure.message) from None
        options = self._options(threads)
        compiled = ctypes.byref(self._compiled)
        self._call("LiteRtCreateCompiledModel", environment, self._model, options, compiled)
        self._inputs, self._outputs = self._buffers(environment)
        self._profiler = Pointer()
        self._call("LiteRtCompiledModelGetProfiler", self._compiled, ctypes.byref(self._profiler))

    def run(self) -> None:
        """One inference, not recorded."""
        self._call(
            "LiteRtRunCompiledModel", self._compiled, ctypes.c_size_t(0), *self._inputs, *self._outputs
        )

    def profile(self) -> list[tuple[str, int, int, int]]:
        """One inference; returns tag, type, index and microseconds of its events in order."""
        self._call("LiteRtStartProfiler", self._profiler)  # forgets the events before
        self.run()
        self._call("LiteRtStopProfiler", self._profiler)
        count = ctypes.c_int()
        self._call("LiteRtGetNumProfilerEvents", self._profiler, ctypes.byref(count))
        events = (Event * max(count.value, 0))()
        if count.value > 0:
            self._call("LiteRtGetProfilerEvents", self._profiler, count, events)
        return [
            ((event.tag or b"").decode(errors="replace"), event.type, event.index, event.elapsed_us)
            for event in events
        ]

    def _call(self, name: str, *arguments: Any) -> None:
        try:
            status = getattr(self._library, name)(*arguments)
        except AttributeError:
            raise Failure("no_profiler", f"libLiteRt.so has no {name}") from None
        if status:
            raise Failure("no_profiler", f"{name}: LiteRT status {status}")

    def _options(self, threads: int) -> Pointer:
        """CPU only, that many threads, with profiling."""
        options = Pointer()
        self._call("LiteRtCreateOptions", ctypes.byref(options))
        self._call("LiteRtSetOptionsHardwareAccelerators", options, 1)
        release = ctypes.CFUNCTYPE(None, Pointer)(lambda payload: None)
        for name, text in (
            (b"runtime_options_string", "enable_profiling = true\n"),
            (b"xnnpack", f"num_threads = {threads}\n"),
        ):
            payload, opaque = ctypes.create_string_buffer(text.encode()), Pointer()
            self._kept += [name, payload, release]  # LiteRT holds the addresses only
            pointer = ctypes.cast(payload, Pointer)
            self._call("LiteRtCreateOpaqueOptions", name, pointer, release, ctypes.byref(opaque))
            self._call("LiteRtAddOpaqueOptions", options, opaque)
        return options

    def _buffers(self, environment: Pointer) -> tuple[Any, Any]:
        """Count and array of the input buffers, and of the output buffers."""
        signature = Pointer()
        self._call("LiteRtGetModelSignature", self._model, ctypes.c_size_t(0), ctypes.byref(signature))
        found = []
        for kind in ("Input", "Output"):
            count = ctypes.c_size_t()
            self._call(f"LiteRtGetNumSignature{kind}s", signature, ctypes.byref(count))
            array = (Pointer * count.value)()
            for index in range(count.value):
                array[index] = self._buffer(environment, signature, kind, index)
            found.append((count, array))
        return found[0], found[1]

    def _buffer(self, environment: Pointer, signature: Pointer, kind: str, index: int) -> Any:
        tensor, needs, buffer = Pointer(), Pointer(), Pointer()
        ranked = (ctypes.c_char * 256)()  # LiteRtRankedTensorType, 72 bytes in 2.3
        number, zero = ctypes.c_size_t(index), ctypes.c_size_t(0)
        self._call(f"LiteRtGetSignature{kind}TensorByIndex", signature, number, ctypes.byref(tensor))
        self._call("LiteRtGetRankedTensorType", tensor, ranked)
        requirements = f"LiteRtGetCompiledModel{kind}BufferRequirements"
        self._call(requirements, self._compiled, zero, number, ctypes.byref(needs))
        create = "LiteRtCreateManagedTensorBufferFromRequirements"
        self._call(create, environment, ranked, needs, ctypes.byref(buffer))
        return buffer


def collect(profiler: Profiler, options: argparse.Namespace) -> dict[str, Any]:
    """Profile at least `runs` inferences and `seconds`, at most `limit` seconds."""
    events: list[dict[str, Any]] = []
    totals: list[int] = []
    begin = time.perf_counter()
    while len(totals) < MAX_RUNS:
        passed = time.perf_counter() - begin
        if totals and (passed > options.limit or (len(totals) >= options.runs and passed >= options.seconds)):
            break
        found = profiler.profile()
        totals.append(max([us for tag, kind, _, us in found if (tag, kind) == WHOLE] or [0]))
        kept = [event for event in found if event[1] in (OPERATOR, DELEGATED)]
        if not events:
            events = [{"tag": tag, "type": kind, "index": index, "us": []} for tag, kind, index, _ in kept]
        check(events, kept, totals[-1])
        for number, event in enumerate(events):
            event["us"].append(kept[number][3])
    return {"invoke_us": totals, "events": events}


def check(events: list[dict[str, Any]], found: list[tuple[str, int, int, int]], total: int) -> None:
    """Refuse what cannot be times of operators, as another layout of the structures would give.

    Raises:
        Failure: It cannot be.
    """
    names = [(event["tag"], event["type"], event["index"]) for event in events]
    if not names or names != [event[:3] for event in found]:
        raise Failure("no_profiler", "the profiler tells no operators, or others in every run")
    if total <= 0 or sum(us for *_, us in found) > 2 * total:
        raise Failure("no_profiler", "the profiler's times do not fit together")
    if not all(tag and tag.isprintable() for tag, _, _ in names):
        raise Failure("no_profiler", "the profiler's names cannot be read")


def parse() -> argparse.Namespace:
    """The command line, which the host writes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--limit", type=float, default=150.0)
    parser.add_argument("--affinity")
    return parser.parse_args()


def main() -> None:
    """Do what the command line says."""
    options = parse()
    try:
        if options.affinity:
            try:
                os.sched_setaffinity(0, {int(cpu) for cpu in options.affinity.split(",")})
            except (OSError, ValueError, AttributeError) as error:
                raise Failure("bad_affinity", f"{options.affinity}: {error}") from None
        profiler = Profiler(options.model, options.threads)
        for _ in range(WARMUP_RUNS):
            profiler.run()
        result = collect(profiler, options)
    except Failure as failure:
        print("TFMPQ_ERROR " + json.dumps({"kind": failure.kind, "message": failure.message}), flush=True)
        os._exit(EXIT_CODES[failure.kind])  # what is half made crashes when it is destroyed
    print("TFMPQ_RESULT " + json.dumps(result), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
