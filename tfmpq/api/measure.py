"""Latency of files, here or on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfmpq.api.device_options import MeasureOptions
from tfmpq.api.sources import file_of
from tfmpq.bars import reporting
from tfmpq.deploy.latency import measure as measuring
from tfmpq.deploy.latency.measurement import Measurements
from tfmpq.progress import Reporter

_FILES = "Latency is that of .tflite files, or of what tfmpq.export or tfmpq.quantize returned."


def measure(
    files: Any,
    *,
    on: str = "local",
    ops: bool = False,
    out: str | Path | None = None,
    options: MeasureOptions | None = None,
    progress: bool | Reporter | None = None,
    **changes: Any,
) -> Measurements:
    """Measure a file, or several in alternation.

    Whatever slows the device down slows all files that are measured together. Each file is timed in several
    fresh processes; differences between files that are smaller than those between processes of one file are
    called none.

    Args:
        files: A `.tflite`, what `export` or `quantize` returned, or several of them.
        on: The device: `local`, `ssh:HOST`, `adb` or `adb:SERIAL`.
        ops: Measure single operators as well.
        out: File for the result as JSON.
        options: All other options.
        progress: True shows progress, False none, None only on terminals and in IPython; or a reporter.
        **changes: Single options, such as `threads=4`; see `tfmpq.MeasureOptions`.

    Raises:
        UsageError: A file is missing, or a value is out of range or unknown.
        DeviceError: The device, the way to it or the runtime fails.
        TfmpqError: A file has operators that the runtime answers with wrong numbers, or `out` cannot be
    written.
    """
    chosen = MeasureOptions.of(options, changes)
    several = files if isinstance(files, list | tuple) else (files,)
    paths = [file_of(file, _FILES) for file in several]
    with reporting(progress) as reporter:
        return measuring.measure(paths, on=on, ops=ops, out=out, **chosen.values, reporter=reporter)
