"""The metrics of every step as TensorBoard's event files, beside the CSV file."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

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
