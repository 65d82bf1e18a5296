"""What the runtime at hand does with every kind of weights, against what the rule table counts on."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tfmpq.deploy.devices.pushed_runner import device
from tfmpq.deploy.runtime.convolution_models import UnfoldedCase, unfolded_cases, unfolded_probe
from tfmpq.deploy.runtime.interpreter import Kernels, open_interpreter
from tfmpq.deploy.runtime.known_kernels import kernel_for
from tfmpq.deploy.runtime.probe_models import Case, all_cases, make_probe
from tfmpq.deploy.runtime.sandbox import Sandbox
from tfmpq.errors import TfmpqError
from tfmpq.files import write_json
from tfmpq.progress import Reporter, SilentReporter
from tfmpq.results import Result

Answer = Literal["exact", "off by one", "close", "wrong", "refused", "crashed"]
"""`close` is for float activations, whose input the runtime quantizes on the way."""

_RUNS = 15
_CLOSE = 0.05
"""Root mean square error of float activations, relative to the answer, that quantizing the input explains."""

_OFF_SHARE = 1e-3
"""Share of a small output that may be off by one under XNNPACK; a single element of 4608 can be."""

_TIE = 1e-6
_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ProbedCase:
    """What the runtime did with one operator under one set of kernels.

    Attributes:
        operator: LiteRT operator; with `CAST + ` before it where the graph widens the weights; of an unfolded
            convolution its kernel, stride and order.
        weight_bits: Bits per weight in the file.
        activations: Type of its input and output.
        per_channel: Whether each output channel has a scale.
        fan_in: Weights that feed one output of FULLY_CONNECTED or of an unfolded convolution; else None.
        kernels: `default`, which applies XNNPACK, or `builtin`.
        answer: How its numbers compare with the exact ones.
        off_share: Share of the elements that are off; None where there are no integers to compare.
        delegated: Whether XNNPACK took it; None if it did not run.
        median_ms: Time of one run; None if it did not run.
        expected: What the rule table counts on; None where it says nothing.
        reason: What the runtime said when it refused or crashed.
    """

    operator: str
    weight_bits: int
    activations: str
    per_channel: bool
    fan_in: int | None
    kernels: Kernels
    answer: Answer
    off_share: float | None = None
    delegated: bool | None = None
    median_ms: float | None = None
    expected: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ProbeReport(Result, verb="probe"):
    """The matrix of a runtime.

    Attributes:
        runtime: Its name and version.
        device: Machine, CPU, cores, operating system.
        cases: Every operator, kind of weights and set of kernels.
        counts: How often each answer was given.
        contradictions: Where the runtime does other than the rule table counts on; empty if nowhere.
        out: File that holds this as JSON; None if none was asked for.
    """

    runtime: dict[str, str]
    device: dict[str, Any]
    cases: tuple[ProbedCase, ...]
    counts: dict[str, int]
    contradictions: tuple[str, ...]
    out: str | None = None


def probe(out: str | Path | None = None, *, reporter: Reporter | None = None) -> ProbeReport:
    """Run every kind of weights on the runtime at hand, each in a child process that may crash.

    Args:
        out: File for the result as JSON.
        reporter: Told about progress.

    Raises:
        OSError: The file cannot be written.
    """
    reporter = reporter or SilentReporter()
    cases = _cases()
    reporter.start("probe", 2 * len(cases))
    found: list[ProbedCase] = []
    with Sandbox("a single operator", _SECONDS) as sandbox:
        for number, case in enumerate(cases):
            for kernels in ("default", "builtin"):
                found.append(_probe(sandbox, number, case, kernels))
                reporter.advance()
    reporter.finish()
    report = ProbeReport(
        runtime={"name": "ai-edge-litert", "version": metadata.version("ai-edge-litert")},
        device=device(),
        cases=tuple(found),
        counts=dict(Counter(case.answer for case in found)),
        contradictions=tuple(line for case in found if (line := contradiction(case))),
        out=None if out is None else str(out),
    )
    if out is not None:
        write_json(Path(out), report.to_json())
    return report


def contradiction(case: ProbedCase) -> str | None:
    """Where a case is not what the rule table counts on, and what follows; None if it is."""
    works = case.answer in ("exact", "off by one", "close")
    scales = "a scale per channel" if case.per_channel else "one scale"
    what = (
        f"{case.operator} with {case.weight_bits}-bit weights, {scales} and {case.activations} activations"
        + (f" (fan-in {case.fan_in})" if case.fan_in else "")
        + f" under {case.kernels} kernels"
    )
    if case.expected in ("delegated", "builtin") and not works:
        return f"{what} is counted on, but is {case.answer}"
    if case.expected == "delegated" and not case.delegated:
        return f"{what} is left to slow kernels, though XNNPACK is counted on"
    if case.expected == "delegated" and case.answer == "off by one" and (case.off_share or 0) > _OFF_SHARE:
        return f"{what} is off by one in {case.off_share:.2%} of the elements, though exactness is counted on"
    if case.expected in ("refused", "wrong") and works:
        return f"{what} works, though it is known as {case.expected}: it could be used"
    if case.expected == "refused" and case.answer == "wrong":
        return f"{what} gives wrong numbers where an error is known"
    return None


def _cases() -> tuple[Case | UnfoldedCase, ...]:
    return (*all_cases(), *unfolded_cases())


def _known(case: Case | UnfoldedCase) -> dict[str, Any]:
    """What a case is, and what the rule table counts on."""
    if isinstance(case, UnfoldedCase):
        return {
            "operator": case.operator,
            "weight_bits": case.weight_bits,
            "activations": "int8",
            "per_channel": True,
            "fan_in": case.window.fan_in,
            "expected": kernel_for("FULLY_CONNECTED", case.weight_bits, fan_in=case.window.fan_in),
        }
    fan_in = case.fan_in if case.operator == "FULLY_CONNECTED" else 0
    read = kernel_for(case.operator, case.weight_bits, case.activations, case.per_channel, fan_in)
    return {
        "operator": f"CAST + {case.operator}" if case.cast else case.operator,
        "weight_bits": case.weight_bits,
        "activations": case.activations,
        "per_channel": case.per_channel,
        "fan_in": fan_in or None,
        "expected": "builtin" if case.cast else read,
    }


def _probe(sandbox: Sandbox, number: int, case: Case | UnfoldedCase, kernels: Kernels) -> ProbedCase:
    known = _known(case) | {"kernels": kernels}
    if kernels == "builtin" and known["expected"] == "delegated":
        known["expected"] = "builtin"  # without the delegate, what it takes is run by other kernels
    try:
        return ProbedCase(**known, **sandbox.call("tfmpq.deploy.runtime.probe:probe_case", number, kernels))
    except TfmpqError as error:
        answer: Answer = "crashed" if "on which it crashed" in str(error) else "refused"
        return ProbedCase(**known, answer=answer, reason=str(error))


def probe_case(number: int, kernels: Kernels) -> dict[str, Any]:
    """Run one case in this process: answer, share of elements off, whether delegated, time.

    Raises:
        TfmpqError: The runtime refuses it.
    """
    case = _cases()[number]
    unfolded = isinstance(case, UnfoldedCase)
    model = unfolded_probe(case) if isinstance(case, UnfoldedCase) else make_probe(case)
    interpreter = open_interpreter(model.content, kernels)
    source, output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    interpreter.set_tensor(source["index"], model.source)
    try:
        interpreter.invoke()
    except RuntimeError as error:
        raise TfmpqError(f"refused when it is run: {error}") from error
    found = interpreter.get_tensor(output["index"]).astype(np.float64)
    times = []
    for _ in range(_RUNS):
        begin = time.perf_counter()
        interpreter.invoke()
        times.append(1e3 * (time.perf_counter() - begin))
    answer, share = _compare(found, model.expected, source["dtype"] == np.float32)
    delegates = sum(node["op_name"] == "DELEGATE" for node in interpreter._get_ops_details())
    return {
        "answer": answer,
        "off_share": share,
        # Of an unfolding all operators have to be taken, in one go.
        "delegated": delegates == 1 if unfolded else delegates > 0,
        "median_ms": statistics.median(times),
    }


def _compare(found: np.ndarray, expected: np.ndarray, real: bool) -> tuple[Answer, float | None]:
    if real:
        error = float(np.sqrt(np.mean((found - expected) ** 2)) / expected.std())
        return ("close" if error <= _CLOSE else "wrong"), None  # NaN is wrong
    off = np.maximum(np.ceil(np.abs(found - expected) - 0.5 - _TIE), 0)
    share = float((off > 0).mean())
    return ("exact" if not share else "off by one" if off.max() == 1 else "wrong"), share
