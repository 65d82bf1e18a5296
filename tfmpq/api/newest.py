"""The run or file that a command without an argument means: the newest of `runs/`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tfmpq.errors import UsageError
from tfmpq.progress import Reporter

RUNS = Path("runs")
_MOST = 8


def newest_run(stages: Sequence[str], what: str, reporter: Reporter, folder: Path = RUNS) -> Path:
    """The run folder in which one of some stages was finished last.

    Args:
        stages: Such as `search` or `finetune`.
        what: What the verb wants, for messages: "a finished search".
        reporter: Told which it is.
        folder: Where run folders lie.

    Raises:
        UsageError: There is none, or two were finished at the same time.
    """

    def finished(run: Path) -> list[Path]:
        return [run / f"{stage}.result.json" for stage in stages]

    return _newest(finished, what, reporter, folder)[0]


def newest_file(reporter: Reporter, folder: Path = RUNS) -> tuple[Path, Path]:
    """The `.tflite` that was written last into a run folder, and this folder.

    Raises:
        UsageError: There is none, or two were written at the same time.
    """
    run, file = _newest(lambda run: list(run.glob("*.tflite")), "an exported .tflite", reporter, folder)
    return file, run


def _newest(
    made: Callable[[Path], list[Path]], what: str, reporter: Reporter, folder: Path
) -> tuple[Path, Path]:
    """The run that has the newest of some files, and this file."""
    runs = sorted(path for path in folder.glob("*") if path.is_dir()) if folder.is_dir() else []
    found = [(path.stat().st_mtime_ns, run, path) for run in runs for path in made(run) if path.is_file()]
    if not found:
        listed = ", ".join(run.name for run in runs[:_MOST]) or "nothing"
        raise UsageError(f"Without an argument, {what} in {folder}/ is taken. Received: {listed}. Name one.")
    time, run, path = max(found)
    several = [str(other) for then, _, other in found if then == time]
    if len(several) > 1:
        raise UsageError(f"Several are as new as each other: {', '.join(several[:_MOST])}. Name one of them.")
    reporter.log(f"Taking {path if path.suffix == '.tflite' else run}, {what}, the newest in {folder}/.")
    return run, path
