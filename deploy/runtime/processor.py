"""Which form of a file suits a processor and a runtime."""

from __future__ import annotations

from tfmpq.graph.containers import Target
from tfmpq.graph.forms import Processor

_X86 = ("x86_64", "amd64", "i686", "i386")


def target_for(machine: str, features: str | None, runtime: str = "ai-edge-litert") -> Target:
    """What to write for a machine: see `tfmpq.graph.containers` for what each form is.

    Args:
        machine: As `platform.machine()` says it.
        features: The line `flags` or `Features` of /proc/cpuinfo; None where there is none.
        runtime: Package that executes the file.
    """
    if runtime == "tflite-runtime":
        return "tflite-runtime"
    known = None if features is None else features.split()
    machine = machine.lower()
    if machine in _X86:
        # Systems that do not tell, Windows and macOS, have run on such processors only for years.
        fast = known is None or "avx2" in known
    else:
        # ARM cores without the dot product, and 32-bit systems, have no fast kernels for packed weights;
        # `arm64` is what Apple calls its own, which all have it.
        fast = machine == "arm64" or (machine == "aarch64" and known is not None and "asimddp" in known)
    return "litert" if fast else "litert-int8"


def kernels_for(machine: str, features: str | None) -> Processor:
    """Kind of a processor by XNNPACK's kernels for it; an x86 that does not tell counts as one with VNNI.

    Args:
        machine: As `platform.machine()` says it.
        features: The line `flags` or `Features` of /proc/cpuinfo; None where there is none.
    """
    if machine.lower() not in _X86:
        return "arm-dotprod"
    known = None if features is None else features.split()
    return "x86-vnni" if known is None or {"avx_vnni", "avx512_vnni"} & set(known) else "x86-avx2"
