"""A latency table of a network on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from tfmpq.api.device_options import ProfileOptions
from tfmpq.api.given import given_model, name_of, refuse_other_than_model
from tfmpq.bars import reporting
from tfmpq.deploy.profiling import profile as profiling
from tfmpq.deploy.profiling.profile import Profile
from tfmpq.progress import Reporter
from tfmpq.scratch import Scratch


def profile(
    model: Any,
    *,
    on: str = "local",
    input_shape: tuple[int, int, int] | None = None,
    classes: int | None = None,
    out: str | Path | None = None,
    options: ProfileOptions | None = None,
    progress: bool | Reporter | None = None,
    **changes: Any,
) -> Profile:
    """Measure a network's layers on a device and write a latency table for budgets of latency.

    Args:
        model: A Keras model, a built-in name, `.keras` file or `MODULE:FUNCTION`.
        on: The device: `local`, `ssh:HOST`, `adb` or `adb:SERIAL`.
        input_shape: (height, width, channels); a Keras model or one from a file has its own.
        classes: Number of classes; a Keras model or one from a file has its own.
        out: File to write; None for a temporary one that lives as long as the result.
        options: All other options.
        progress: True shows progress, False none, None only on terminals and in IPython; or a reporter.
        **changes: Single options, such as `threads=4`; see `tfmpq.ProfileOptions`.

    Raises:
        UsageError: A value is out of range or unknown, or the size of the network is not given.
        DeviceError: The device, the way to it or the runtime fails.
        TfmpqError: The network cannot be deployed, or the table cannot be written.
    """
    chosen = ProfileOptions.of(options, changes)
    scratch = Scratch()
    refuse_other_than_model(model)
    own = f"{name_of(model)}.keras" if isinstance(model, keras.Model) else ""
    network = given_model(model, scratch.path, own)
    path = scratch.path / f"{network.name}.latency.json" if out is None else Path(out)
    with reporting(progress) as reporter:
        found = profiling.profile(
            network.word,
            on=on,
            input_shape=input_shape,
            classes=classes,
            out=path,
            **chosen.values,
            reporter=reporter,
        )
    return found.keeping(scratch) if out is None else found
