"""`tfmpq profile`: every layer of a network in every container of the search space, timed on a device.

Operators are timed where they run: whole networks of one width each run under the runtime's profiler, so that
caches, merged padding and the cost of leaving a delegate are those of the deployed network. Only where a
runtime has no profiler, operators are cut out and timed by themselves.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.devices.state import emulated
from tfmpq.deploy.devices.transports import transport
from tfmpq.deploy.latency.measure import binary_for, program_for
from tfmpq.deploy.latency.operator_times import operator_profile
from tfmpq.deploy.latency.profilers import operator_profiler
from tfmpq.deploy.profiling.networks import PlannedNetwork, planned_networks
from tfmpq.deploy.profiling.parts import Parts, SampledNetwork, parts_of
from tfmpq.deploy.profiling.random_network import StandIn, stand_in
from tfmpq.deploy.profiling.session import Session, Whole
from tfmpq.deploy.profiling.single_operators import single_parts
from tfmpq.deploy.runtime.processor import kernels_for
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.files import write_json
from tfmpq.graph.containers import TARGETS, Target
from tfmpq.models.registry import is_model_file
from tfmpq.policy.latency_table import ALONE, FORMAT, RESOLUTION_MS, LatencyTable, ProfiledNetwork
from tfmpq.progress import Reporter, SilentReporter
from tfmpq.provenance import versions
from tfmpq.results import Result

REPEATS = 5
_LARGE_ERROR = 0.08
_ANY_SHAPE = (32, 32, 3)
"""For models from files, which keep their own."""


@dataclass(frozen=True, slots=True, eq=False)
class Profile(Result, verb="profile"):
    """What was measured.

    Attributes:
        table: The latency table.
        out: The file that holds it.
        seconds: How long it took.
    """

    table: LatencyTable
    out: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The facts of the table, a row for each layer, and the check against whole networks."""
        table = self.table
        rows = [
            {
                "name": layer.name,
                "operator": layer.operator,
                **{f"int{item.bits}_ms": item.ms for item in sorted(layer.times, key=lambda t: -t.bits)},
                "spread": max(item.spread for item in layer.times),
            }
            for layer in table.layers
        ]
        return {
            "out": self.out,
            **{key: getattr(table, key) for key in ("model", "classes", "form", "threads", "source")},
            "input_shape": list(table.input_shape),
            "runtime": table.runtime,
            "device": {key: value for key, value in table.device.items() if key != "features"},
            "emulated": table.emulated,
            "operators": sum(len(layer.times) for layer in table.layers),
            "base_ms": table.base_ms,
            "resolution_ms": None if table.source == ALONE else RESOLUTION_MS,
            "layers": rows,
            "tensors": [tensor.model_dump() for tensor in table.tensors if tensor.ms],
            "networks": [network.model_dump() for network in table.networks],
            "profile_seconds": self.seconds,
            "warnings": list(table.warnings),
        }


def profile(
    model: str,
    *,
    on: str = "local",
    input_shape: tuple[int, int, int] | None = None,
    classes: int | None = None,
    target: Target = "litert",
    weight_bits: Sequence[int] = (2, 4, 8),
    activation_bits: Sequence[int] = (8,),
    threads: int = 1,
    affinity: str | None = None,
    repeats: int = REPEATS,
    alone: bool = False,
    python: str | None = None,
    ssh_config: str | Path | None = None,
    adb: str | Path | None = None,
    benchmark_model: str | Path | None = None,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
) -> Profile:
    """Measure a network's layers on a device and write a latency table.

    Args:
        model: Built-in name, `.keras` file or `MODULE:FUNCTION`.
        on: The device: `local`, `ssh:HOST`, `adb` or `adb:SERIAL`.
        input_shape: (height, width, channels); a model from a file has its own.
        classes: Number of classes; a model from a file has its own.
        target: Form of the file that is to be deployed.
        weight_bits: Widths of weights to choose from later.
        activation_bits: Widths of activations to choose from later.
        threads: Threads of the runtime.
        affinity: CPUs that the process keeps to, as `0,1`.
        repeats: Fresh processes for every network, which take turns.
        alone: Time operators by themselves even where there is a profiler.
        python: How Python is called on the device; by default found.
        ssh_config: Configuration file for ssh instead of the user's.
        adb: The adb client; by default found.
        benchmark_model: LiteRT's program of that name; what measures on Android.
        out: File to write; by default `MODEL.SIDE.TARGET.latency.json` here.
        reporter: Told about progress.

    Raises:
        UsageError: A value is out of range or unknown, or the size of the network is not given.
        DeviceError: The device, the way to it or the runtime fails.
        TfmpqError: The network cannot be deployed, or the table cannot be written.
    """
    begin = time.monotonic()
    reporter = reporter or SilentReporter()
    _check_call(model, input_shape, classes, target, threads, repeats)
    way = transport(on, python=python, ssh_config=ssh_config, adb=adb)
    binary = binary_for(way, benchmark_model)
    with tempfile.TemporaryDirectory() as folder, way as device:
        program = program_for(device, binary)
        program.require_runtime()
        subject = stand_in(model, input_shape or _ANY_SHAPE, classes or 2)
        facts = program.probe()["device"]
        processor = kernels_for(facts["machine"], facts["features"])
        plans = planned_networks(subject, target, weight_bits, activation_bits, processor)
        files = _written(plans, target, Path(folder), reporter)
        session = Session(device, program, threads, affinity)
        session.measure(files, repeats, reporter)
        if not alone:
            session.profile(files, operator_profiler(device, binary), repeats, reporter)
        parts, warnings = _parts(subject, session, plans, files, reporter)
        table = _table(subject, target, session, plans, files, parts, warnings)
    if way.left_behind:
        reporter.log(f"The work folder {way.left_behind} could not be removed.")
    path = Path(out or f"{table.model}.{table.input_shape[0]}.{target}.latency.json")
    _write(path, table)
    return Profile(table, str(path), round(time.monotonic() - begin, 1))


def _check_call(
    model: str,
    input_shape: tuple[int, int, int] | None,
    classes: int | None,
    target: str,
    threads: int,
    repeats: int,
) -> None:
    if target not in TARGETS:
        raise UsageError(f"A target is one of {', '.join(TARGETS)}. Received: {target}. Choose one of them.")
    if threads < 1 or repeats < 1:
        raise UsageError(
            f"Threads and repeats are at least 1. Received: threads={threads}, repeats={repeats}. Raise them."
        )
    if not is_model_file(model) and (input_shape is None or classes is None):
        raise UsageError(
            "A latency is that of a network at one size. "
            f"Received: {model} without {'an input size' if input_shape is None else 'a number of classes'}. "
            "Give --input N and --classes N, for example 224 and 1000."
        )


def _written(plans: Sequence[PlannedNetwork], target: Target, folder: Path, reporter: Reporter) -> list[Path]:
    reporter.start("write networks", len(plans))
    paths = []
    for number, plan in enumerate(plans):
        paths.append(folder / f"network{number}.tflite")
        paths[-1].write_bytes(build_tflite(plan.frozen, target, plan.options))
        reporter.advance()
    reporter.finish()
    return paths


def _parts(
    subject: StandIn,
    session: Session,
    plans: Sequence[PlannedNetwork],
    files: Sequence[Path],
    reporter: Reporter,
) -> tuple[Parts, list[str]]:
    """What a latency is the sum of, and reasons to doubt it."""
    contents = [path.read_bytes() for path in files]
    whole = session.wholes[files[0]].median_ms
    if not session.processes:
        networks = [
            (plan.containers, plan.activation_bits, content)
            for plan, content in zip(plans, contents, strict=True)
        ]
        folder = files[0].parent
        parts = single_parts(subject, networks, whole, lambda cut: session.times(cut, folder, reporter))
        return parts, ["operators were timed by themselves, not within the network"]
    sampled = [
        SampledNetwork(
            plan.weight_bits,
            plan.activation_bits,
            plan.containers,
            plan.frozen,
            operator_profile(content, session.processes[path], session.source),
            session.wholes[path].median_ms,
        )
        for plan, path, content in zip(plans, files, contents, strict=True)
    ]
    loose = any(net.operators.unattributed for net in sampled)
    left_out = (
        ["some kernels could not be told apart: the table leaves them out; use --alone"] if loose else []
    )
    return parts_of(subject.network, sampled), left_out


def _table(
    subject: StandIn,
    target: Target,
    session: Session,
    plans: Sequence[PlannedNetwork],
    files: Sequence[Path],
    parts: Parts,
    warnings: Sequence[str],
) -> LatencyTable:
    table = LatencyTable(
        format=FORMAT,
        model=subject.name,
        input_shape=subject.network.input_shape,
        classes=subject.classes,
        form=target,
        runtime=session.facts["runtime"],
        device=session.facts["device"],
        target=session.target,
        emulated=emulated(session.facts["device"]),
        threads=session.threads,
        affinity=session.affinity,
        source=session.source,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions=versions(),
        base_ms=parts.base_ms,
        layers=list(parts.layers),
        tensors=list(parts.tensors),
        networks=[],
        warnings=[*warnings, *_warnings(list(session.wholes.values()), parts)],
    )
    checks = [_check(table, plan, session.wholes[path]) for plan, path in zip(plans, files, strict=True)]
    found = [*table.warnings, *_disagreement(checks), *_resolution(table)]
    return table.model_copy(update={"networks": checks, "warnings": found})


def _check(table: LatencyTable, plan: PlannedNetwork, whole: Whole) -> ProfiledNetwork:
    """What the table says about a network that was measured."""
    bits = {tensor.name: plan.activation_bits for tensor in table.tensors}
    return ProfiledNetwork(
        weight_bits=plan.weight_bits,
        activation_bits=plan.activation_bits,
        median_ms=whole.median_ms,
        p10_ms=whole.p10_ms,
        spread=whole.spread,
        predicted_ms=table.held_ms(plan.containers, bits),
    )


def _disagreement(checks: Sequence[ProfiledNetwork]) -> list[str]:
    """Whether the sums miss what whole networks took by more than the machine's unrest explains."""
    missed = max(max(0.0, abs(check.predicted_ms / check.median_ms - 1) - check.spread) for check in checks)
    if missed <= _LARGE_ERROR:
        return []
    return [f"the table misses whole networks by {missed:.0%} more than they differ between processes"]


def _resolution(table: LatencyTable) -> list[str]:
    """Whether the profiler's whole microseconds are too coarse for the layers."""
    if not table.too_short:
        return []
    return [
        "most layers take less than 1 us, too short for the profiler's whole microseconds: the table cannot "
        "tell their widths apart; use --alone"
    ]


def _warnings(wholes: Sequence[Whole], parts: Parts) -> list[str]:
    found = []
    spread = max(whole.spread for whole in wholes)
    if spread > 0.1:
        found.append(
            f"whole networks differ by {spread:.0%} between processes: other load or changing clocks; "
            "operators are affected less"
        )
    times = [time for layer in parts.layers for time in layer.times]
    wide = [time for time in times if time.spread > 0.2 and time.ms > 0.01]
    if wide:
        found.append(f"{len(wide)} of {len(times)} times differ by more than 20% between processes")
    return found


def _write(path: Path, table: LatencyTable) -> None:
    try:
        write_json(path, table.model_dump(mode="json"))
    except OSError as error:
        raise TfmpqError(
            f"The table has to be written. Received: {path} ({error.strerror}). Choose another path."
        ) from error
