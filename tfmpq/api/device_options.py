"""What the verbs that work on devices can be asked for: one record each.

Nothing heavy is imported here, so that the command line can read the names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tfmpq.methods.common_options import FolderOptions, WidthOptions, target_option
from tfmpq.options import Options, option

PROTOCOLS = ("quick", "mlperf-like")
"""Names of `tfmpq.deploy.devices.protocol`, which is too heavy to import here; a test compares them."""


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options):
    """How a device is reached, and what runs there; see docs/devices.md."""

    python: str | None = option(
        None,
        "text",
        "Python on the device that has numpy and ai-edge-litert or tflite-runtime.",
        shown="the one that 'tfmpq devices --setup' made, else python3; local: this one; adb: none, or a "
        "bundle FILE.tar",
        metavar="PATH",
    )
    ssh_config: str | Path | None = option(
        None,
        "file",
        "Configuration file for ssh and scp (their -F).",
        shown="~/.ssh/config",
        metavar="FILE",
        envvar="TFMPQ_SSH_CONFIG",
    )
    adb: str | Path | None = option(
        None, "text", "The adb client.", shown="$ADB, or the one on the PATH", metavar="PATH"
    )


@dataclass(frozen=True, kw_only=True)
class BenchmarkModelOptions(Options):
    """What measures on Android."""

    benchmark_model: str | Path | None = option(
        None, "file", "LiteRT's benchmark_model for the device; what measures on Android.", metavar="FILE"
    )


@dataclass(frozen=True, kw_only=True)
class AffinityOptions(Options):
    """Which CPUs are used."""

    affinity: str | None = option(
        None,
        "text",
        "CPUs to keep to, as 0,1; the fast ones of a big.LITTLE processor, for example.",
        metavar="CPUS",
    )


@dataclass(frozen=True, kw_only=True)
class ThreadOptions(Options):
    """Threads of the runtime."""

    threads: int = option(1, "whole", "Threads of the runtime.", metavar="N", least=1)


@dataclass(frozen=True, kw_only=True)
class DeployOptions(BenchmarkModelOptions, DeviceOptions, ThreadOptions, FolderOptions):
    """The options of `tfmpq.deploy`, each described in `tfmpq deploy --help` and docs/cli.md."""


@dataclass(frozen=True, kw_only=True)
class MeasureOptions(BenchmarkModelOptions, DeviceOptions, AffinityOptions, ThreadOptions):
    """The options of `tfmpq.measure`, each described in `tfmpq measure --help` and docs/cli.md."""

    runs: int | None = option(
        None,
        "whole",
        "Least number of timed runs of a process.",
        shown="50; mlperf-like: 1024",
        metavar="N",
        least=1,
    )
    protocol: str = option(
        "quick",
        "text",
        "quick: at least 50 runs and a second in each of 3 processes; mlperf-like: 1024 and a minute.",
        choices=PROTOCOLS,
    )


@dataclass(frozen=True, kw_only=True)
class ProfileOptions(BenchmarkModelOptions, DeviceOptions, AffinityOptions, ThreadOptions, WidthOptions):
    """The options of `tfmpq.profile`, each described in `tfmpq profile --help` and docs/cli.md."""

    target: str = target_option()
    repeats: int = option(
        5, "whole", "Fresh processes for every network; they take turns.", metavar="N", least=1
    )
    alone: bool = option(
        False,
        "switch",
        "Time operators by themselves, without a profiler: less true, but possible everywhere.",
    )
