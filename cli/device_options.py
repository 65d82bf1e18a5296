"""Options of the verbs that work on devices."""

from __future__ import annotations

import re

import click

from tfmpq.api.device_options import DeviceOptions, MeasureOptions

from .generated import options_of


def _cpus(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"\d+(,\d+)*", value):
        raise click.BadParameter(f"CPUs are numbers with commas. Received: {value}. Write 0,1.", ctx, param)
    return value


on_option = click.option(
    "--on",
    metavar="TARGET",
    default="local",
    show_default=True,
    help="local, ssh:HOST with a host of your ssh configuration or user@host, or adb[:SERIAL].",
)

threads_option = options_of(MeasureOptions, "threads")

affinity_option = options_of(MeasureOptions, "affinity", callbacks={"affinity": _cpus})

device_options = options_of(DeviceOptions)

benchmark_model_option = options_of(MeasureOptions, "benchmark_model")
