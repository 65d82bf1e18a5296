"""What the runtime of this machine does with every kind of weights."""

from __future__ import annotations

from pathlib import Path

from tfmpq.bars import reporting
from tfmpq.deploy.runtime import probe as probing
from tfmpq.deploy.runtime.probe import ProbeReport
from tfmpq.progress import Reporter


def probe(*, out: str | Path | None = None, progress: bool | Reporter | None = None) -> ProbeReport:
    """Run single operators with every kind of weights and compare them with exact numbers.

    Args:
        out: File for the result as JSON.
        progress: True shows progress, False none, None only on terminals and in IPython; or a reporter.
    """
    with reporting(progress) as reporter:
        return probing.probe(out=out, reporter=reporter)
