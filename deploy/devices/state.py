"""What the state of a device says about numbers that were measured on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

EMULATION_MARKS = ("Emulated by qemu-user", "standin")
"""What the stand-ins of the tests write into /proc/cpuinfo and ro.hardware; nothing is guessed."""

_DRIFT, _STDDEV, _CPU = 1.1, 0.1, 0.8
_THROTTLED_NOW = ("undervoltage", "capped clock", "throttled", "soft temperature limit")
"""Bits 0 to 3 of a Raspberry Pi's get_throttled; bits 16 to 19 say the same since the start."""


def emulated(device: Mapping[str, Any]) -> bool:
    """Whether the device says that it is an emulation, on which times mean nothing."""
    return any(mark in str(device.get("board")) for mark in EMULATION_MARKS)


def throttling(flags: str | None) -> list[str]:
    """The reasons in a Raspberry Pi's get_throttled, for example `throttled now`."""
    try:
        value = int(flags or "0", 16)
    except ValueError:
        return []
    now = [f"{name} now" for bit, name in enumerate(_THROTTLED_NOW) if value >> bit & 1]
    before = [
        f"{name} since the start"
        for bit, name in enumerate(_THROTTLED_NOW)
        if value >> (bit + 16) & 1 and not value >> bit & 1
    ]
    return now + before


def drift(times: Sequence[float]) -> float | None:
    """Median of the last quarter over that of the first."""
    quarter = len(times) // 4
    return float(np.median(times[-quarter:]) / np.median(times[:quarter])) if quarter else None


def state_warnings(process: Mapping[str, Any], threads: int) -> list[str]:
    """Reasons in the state of the device to doubt what one process measured.

    Args:
        process: Its record: times, state before and after.
        threads: Threads of the runtime.
    """
    found = []
    times = np.asarray(process["latency_ms_raw"])
    if (process["drift_last_over_first_quarter"] or 0) > _DRIFT:
        found.append("latency rose within a process: throttling or other load")
    if times.size and times.std() > _STDDEV * times.mean():
        found.append("the standard deviation is more than 10% of the mean")
    share = process.get("cpu_seconds_over_wall")
    if threads == 1 and share is not None and share < _CPU:
        found.append("a process got less than 80% of a CPU: other load, or waiting")
    before, after = process.get("state_before") or {}, process.get("state_after") or {}
    governors = {policy.get("scaling_governor") for policy in (before.get("cpufreq") or {}).values()}
    found += [f"the governor is {name}" for name in sorted(governors - {None, "performance"})]
    found += [f"the board reports: {reason}" for reason in throttling(after.get("throttled"))]
    if after.get("thermal_status"):
        found.append(f"the phone reports thermal status {after['thermal_status']}: it throttles")
    return found
