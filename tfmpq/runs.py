"""The run folder: what a stage was asked, where it stands, what came out; resumable, never half-written."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfmpq.errors import TfmpqError, UsageError

FORMAT = "tfmpq-run/1"


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill a temporary file beside `path`, then move it there: nothing half-written is seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of a run folder.

    Raises:
        TfmpqError: Missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise TfmpqError(
            f"A run folder holds '{path.name}'. Received: {path.parent}, which has none."
        ) from error
    except (ValueError, OSError) as error:
        raise TfmpqError(f"'{path.name}' of a run folder is JSON. Received: {path}: {error}.") from error


def default_folder(model: str, data: str) -> Path:
    """Run folder of a call that names none: `runs/MODEL_DATA`, with what paths cannot hold replaced."""
    parts = (Path(text).stem if "/" in text or "." in text else text for text in (model, data))
    return Path("runs") / re.sub(r"[^A-Za-z0-9_.-]+", "-", "_".join(parts)).strip("-")


class Stage:
    """One stage (`search`, `finetune`, ...) of a run folder; its files begin with the stage's name.

    `NAME.json` holds the options, `NAME.npz` the last checkpoint, `NAME.csv` the metrics of each step,
    `NAME.keras` the model and `NAME.result.json` the result, which is written last.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name

    def path(self, suffix: str) -> Path:
        """File of this stage."""
        return self.folder / f"{self.name}{suffix}"

    @contextlib.contextmanager
    def opened(self, options: Mapping[str, Any]) -> Iterator[dict[str, Any] | None]:
        """Lock the folder and match the options with those of an earlier call.

        Args:
            options: JSON-able options that decide the result.

        Yields:
            The stored result if the stage is finished, else None.

        Raises:
            TfmpqError: Another process uses the folder.
            UsageError: The folder holds a run with other options.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder):
            options = json.loads(json.dumps({"format": FORMAT, **options}))
            begun, checkpoints = self.path(".json").exists(), self._checkpoints()
            if begun:
                _refuse_other_options(self.folder, read_json(self.path(".json")), options)
            else:
                write_json(self.path(".json"), options)
            finished = self.path(".result.json").exists()
            try:
                yield read_json(self.path(".result.json")) if finished else None
            except BaseException:
                # Nothing to resume yet: a corrected command must not be refused for the wrong one's options.
                if not begun and self._checkpoints() == checkpoints:
                    self.path(".json").unlink(missing_ok=True)
                raise

    def _checkpoints(self) -> set[Path]:
        """Checkpoints of all stages: float training belongs to the search."""
        return set(self.folder.glob("*.npz"))

    def save_checkpoint(self, variables: Sequence[Any], position: Mapping[str, int]) -> None:
        """Store all variables and the position in the data, atomically."""
        arrays = {name: np.asarray(v) for name, v in zip(_names(variables), variables, strict=True)}
        numbers = {f"position {key}": np.asarray(value) for key, value in position.items()}

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez(file, **arrays, **numbers)  # type: ignore[arg-type]

        write_atomically(self.path(".npz"), write)

    def load_checkpoint(self, variables: Sequence[Any]) -> dict[str, int] | None:
        """Restore all variables from the last checkpoint.

        Returns:
            The position that was stored, or None if there is no checkpoint.

        Raises:
            TfmpqError: The checkpoint is damaged or of another network; the first difference is named.
        """
        path = self.path(".npz")
        if not path.exists():
            return None
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                content = {key: stored[key] for key in stored.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise TfmpqError(
                f"A checkpoint is an npz file. Received: {path}: {error}. Delete it to start over."
            ) from error
        numbers = {key: content.pop(key) for key in list(content) if key.startswith("position ")}
        _refuse_other_network(path, content, variables)
        for variable, value in zip(variables, content.values(), strict=True):
            variable.assign(value)
        return {key.removeprefix("position "): int(value) for key, value in numbers.items()}

    def save_model(self, model: Any, suffix: str = ".keras") -> None:
        """Store a Keras model, atomically."""
        write_atomically(self.path(suffix), lambda temporary: model.save(temporary))

    def load_model(self, suffix: str = ".keras") -> Any:
        """Load a Keras model of this stage.

        Raises:
            TfmpqError: Missing or damaged.
        """
        return load_keras(self.path(suffix))


def load_keras(path: Path) -> Any:
    """Load a `.keras` file in safe mode, quantized layers included.

    Raises:
        TfmpqError: Missing or damaged.
    """
    import keras

    import tfmpq.models.shortcut
    import tfmpq.optimizer
    import tfmpq.wrapper  # noqa: F401 registers the classes that the file names

    if not path.exists():
        raise TfmpqError(f"A run folder holds '{path.name}'. Received: {path.parent}, which has none.")
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many kinds for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TfmpqError(f"'{path.name}' is a Keras model. Received: {path}: {reason}") from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process.

    Raises:
        TfmpqError: Another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # not on this platform: two processes are the user's to avoid
        yield
        return
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise TfmpqError(
                f"A run folder is used by one process at a time. Received: {folder}, in use by another. "
                "Wait for it, or choose another --out."
            ) from error
        yield


def _names(variables: Sequence[Any]) -> list[str]:
    """Names of variables, by position and path.

    Keras numbers what has no name of its own by what else the process has made before, so a number at the end
    of a layer's or model's name says nothing about the network and is left out.
    """
    return [f"{i:05d} {re.sub(r'_[0-9]+(?![A-Za-z0-9])', '', v.path)}" for i, v in enumerate(variables)]


def _refuse_other_network(path: Path, stored: Mapping[str, np.ndarray], variables: Sequence[Any]) -> None:
    expected = [f"{n} {tuple(v.shape)}" for n, v in zip(_names(variables), variables, strict=True)]
    found = [f"{name} {array.shape}" for name, array in stored.items()]
    for wanted, received in itertools.zip_longest(expected, found, fillvalue="nothing"):
        if wanted != received:
            raise TfmpqError(
                f"A checkpoint belongs to its network. Received: '{received}' where the network has "
                f"'{wanted}' in {path}. Use the network that it was made with, or delete it to start over."
            )


def _refuse_other_options(folder: Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    for key in [*asked, *(k for k in stored if k not in asked)]:
        if stored.get(key) != asked.get(key):
            raise UsageError(
                f"A run folder is resumed with the options that it was begun with. Received: {key}="
                f"{asked.get(key)!r} where {folder} has {stored.get(key)!r}. "
                "Repeat the first command, or choose another --out."
            )


class StepLog:
    """Appends the metrics of every step to a CSV file; on resume, drops what lies beyond the checkpoint."""

    def __init__(self, path: Path, steps_done: int) -> None:
        self.path = path
        rows: list[dict[str, str]] = []
        if steps_done and path.exists():
            with path.open(newline="") as file:
                # A last row without all its values was cut off, its step's number perhaps too.
                complete = (row for row in csv.DictReader(file) if None not in row.values())
                rows = [row for row in complete if int(row["step"]) < steps_done]
        self._fields = list(rows[0]) if rows else []
        self._pending: list[dict[str, Any]] = list(rows)
        self._fresh = True

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Remember one row; `flush` writes it."""
        self._pending.append({"step": step, **{key: f"{value:.7g}" for key, value in metrics.items()}})
        self._fields = self._fields or list(self._pending[0])

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
