"""Options of the verbs that work on devices."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from . import options


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

threads_option = click.option(
    "--threads",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Threads of the runtime.",
)

affinity_option = click.option(
    "--affinity",
    metavar="CPUS",
    callback=_cpus,
    help="CPUs to keep to, as 0,1; the fast ones of a big.LITTLE processor, for example.",
)

_SSH_CONFIG: dict[str, Any] = {
    "metavar": "FILE",
    "type": click.Path(exists=True, dir_okay=False, path_type=Path),
    "envvar": "TFMPQ_SSH_CONFIG",
    "show_envvar": True,
    "help": "Configuration file for ssh and scp (their -F).  [default: ~/.ssh/config]",
}

device_options = options.stack(
    click.option(
        "--python",
        metavar="PATH",
        help="Python on the device that has numpy and ai-edge-litert or tflite-runtime.  [default: the one "
        "that 'tfmpq devices --setup' made, else python3; local: this one; adb: none, or a bundle FILE.tar]",
    ),
    click.option("--ssh-config", **_SSH_CONFIG),
    click.option("--adb", metavar="PATH", help="The adb client.  [default: $ADB, or the one on the PATH]"),
)

benchmark_model_option = click.option(
    "--benchmark-model",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="LiteRT's benchmark_model for the device; what measures on Android.",
)


def _latency(*names: str, **attributes: Any) -> options.Decorator:
    """An option of budgets of latency."""
    return click.option(*names, cls=options.Sectioned, section="Budgets of latency", **attributes)


latency_options = options.stack(
    _latency(
        "--latency-table",
        metavar="FILE.json",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="What tfmpq profile has measured, for --budget latency=2.5ms or latency=0.9x.",
    ),
    _latency(
        "--on",
        metavar="TARGET",
        help="Device that the latency is for: local, ssh:HOST or adb[:SERIAL]; the table has to be that of "
        "its processor and runtime.  [default: local for a table that was measured so, else not asked]",
    ),
    _latency(
        "--threads",
        metavar="N",
        type=click.IntRange(min=1),
        help="Threads of the runtime that the latency is for.  [default: the table's]",
    ),
    _latency("--ssh-config", **_SSH_CONFIG),
)
