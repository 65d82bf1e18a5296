"""`tfmpq measure`: latency of files on this machine or on a device."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from . import options
from .task import perform

# Names of the library, which is too heavy to import for a help text; a test compares them.
PROTOCOLS = ("quick", "mlperf-like")


def _cpus(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"\d+(,\d+)*", value):
        raise click.BadParameter(f"CPUs are numbers with commas. Received: {value}. Write 0,1.", ctx, param)
    return value


device_options = options.stack(
    click.option(
        "--python",
        metavar="PATH",
        help="Python on the device that has numpy and ai-edge-litert or tflite-runtime.  [default: the one "
        "that 'tfmpq devices --setup' made, else python3; local: this one; adb: none, or a bundle FILE.tar]",
    ),
    click.option(
        "--ssh-config",
        metavar="FILE",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        envvar="TFMPQ_SSH_CONFIG",
        show_envvar=True,
        help="Configuration file for ssh and scp (their -F).  [default: ~/.ssh/config]",
    ),
    click.option("--adb", metavar="PATH", help="The adb client.  [default: $ADB, or the one on the PATH]"),
)

benchmark_model_option = click.option(
    "--benchmark-model",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="LiteRT's benchmark_model for the device; what measures on Android.",
)


@click.command(
    short_help="Measure the latency of .tflite files, here or on a device.",
    epilog=options.example("tfmpq measure mobilenet_v2.tflite --on ssh:pi --threads 4 --out latency.json"),
)
@click.argument(
    "paths",
    metavar="FILE.tflite...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option(
    "--on",
    metavar="TARGET",
    default="local",
    show_default=True,
    help="local, ssh:HOST with a host of your ssh configuration or user@host, or adb[:SERIAL].",
)
@click.option(
    "--threads",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Threads of the runtime.",
)
@click.option(
    "--runs",
    metavar="N",
    type=click.IntRange(min=1),
    help="Least number of timed runs of a process.  [default: 50; mlperf-like: 1024]",
)
@click.option(
    "--affinity",
    metavar="CPUS",
    callback=_cpus,
    help="CPUs to keep to, as 0,1; the fast ones of a big.LITTLE processor, for example.",
)
@click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    default="quick",
    show_default=True,
    help="quick: at least 50 runs and a second in each of 3 processes; mlperf-like: 1024 and a minute.",
)
@device_options
@benchmark_model_option
@click.option(
    "--out", metavar="FILE.json", type=options.output_path(), help="Write the result there as well."
)
@options.json_option
def measure(as_json: bool, paths: tuple[Path, ...], **choices: Any) -> None:
    """Measure the latency of .tflite files, one image at a time.

    Every file is timed in 3 fresh processes. Several files take turns and are compared with the first: a
    difference smaller than that between processes of one file is called none.
    """
    perform(
        "measure",
        "tfmpq.deploy.measure",
        as_json,
        lambda function, reporter: function(paths, **choices, reporter=reporter),
    )
