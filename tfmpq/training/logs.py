"""The metrics of every step as TensorBoard's event files, beside the CSV file."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from tfmpq.files import write_atomically
from tfmpq.progress import Reporter
from tfmpq.training.run_folder import Stage


def event_log(stage: Stage, rows: Sequence[Mapping[str, Any]], reporter: Reporter) -> EventLog | None:
    """The event log of a stage; None on other backends, where TensorFlow may be missing.

    Args:
        stage: Whose metrics; the files go to `tensorboard/STAGE` in its run folder.
        rows: Metrics of earlier steps, with their `step`.
        reporter: Told, once in a run folder, that there will be none.
    """
    if keras.backend.backend() == "tensorflow":
        return EventLog(stage.folder / "tensorboard" / stage.name, rows)
    if not any(stage.folder.glob("*.csv")):
        reporter.log(
            "TensorBoard's files are written on the TensorFlow backend; metrics are in the CSV files."
        )
    return None


class EventLog:
    """Writes event files with TensorFlow; `tensorboard --logdir RUN/tensorboard` shows them.

    Event files cannot be cut at a checkpoint, so a resumed training begins them anew from the rows of the CSV
    file that it has kept.

    Args:
        folder: Where the event files go; what is there is replaced by the first `flush`.
        rows: Metrics of earlier steps, with their `step`.
    """

    def __init__(self, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        self._folder = folder
        self._pending = list(rows)
        self._writer: Any = None

    def add(self, row: Mapping[str, Any]) -> None:
        """Remember the metrics of a step; `flush` writes them."""
        self._pending.append(row)

    def flush(self) -> None:
        """Write what was added."""
        import tensorflow as tf

        if self._writer is None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._writer = tf.summary.create_file_writer(str(self._folder))
        with self._writer.as_default():
            for row in self._pending:
                # All metrics of a step in one record: one call for each would take longer than a small step.
                values = [
                    tf.compat.v1.Summary.Value(tag=name, simple_value=float(value))
                    for name, value in row.items()
                    if name != "step"
                ]
                record = tf.compat.v1.Summary(value=values).SerializeToString()
                tf.summary.experimental.write_raw_pb(record, step=int(row["step"]))
        self._writer.flush()
        self._pending = []


class StepLog:
    """Appends the metrics of every step to a CSV file; on resume, drops what lies beyond the checkpoint.

    Attributes:
        kept: The rows that a resumed training begins with.
    """

    def __init__(self, path: Path, steps_done: int) -> None:
        self.path = path
        rows: list[dict[str, str]] = []
        if steps_done and path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                # A last row without all its values was cut off, its step's number perhaps too.
                complete = (row for row in csv.DictReader(file) if None not in row.values())
                rows = [row for row in complete if int(row["step"]) < steps_done]
        self.kept = rows
        self._fields = list(rows[0]) if rows else []
        self._pending: list[dict[str, Any]] = list(rows)
        self._fresh = True

    def add(self, step: int, metrics: Mapping[str, float]) -> dict[str, Any]:
        """Remember one row, which `flush` writes; returns it."""
        row = {"step": step, **{key: f"{value:.7g}" for key, value in metrics.items()}}
        self._pending.append(row)
        self._fields = self._fields or list(row)
        return row

    def flush(self) -> None:
        """Write what was added."""
        if not self._pending:
            return
        if self._fresh:
            write_atomically(self.path, lambda temporary: self._write(temporary, "w"))
        else:
            self._write(self.path, "a")
        self._fresh, self._pending = False, []

    def _write(self, path: Path, mode: str) -> None:
        with path.open(mode, newline="") as file:
            writer = csv.DictWriter(file, self._fields, extrasaction="ignore")
            if mode == "w":
                writer.writeheader()
            writer.writerows(self._pending)
