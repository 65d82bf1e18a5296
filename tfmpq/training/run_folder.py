"""The run folder: what a stage was asked, where it stands, what came out; resumable, never half-written."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tfmpq.errors import TfmpqError, UsageError
from tfmpq.files import _TEMPORARY, read_json, write_atomically, write_json
from tfmpq.progress import Reporter, SilentReporter
from tfmpq.training import checkpoints

FORMAT = "tfmpq-run/1"

OWN_MODEL = "model.keras"
"""File of a run folder that holds the model object that a verb was given, as the user made it."""


def default_folder(model: str, data: str) -> Path:
    """Run folder of a call that names none: `runs/MODEL_DATA`, with what paths cannot hold replaced."""
    parts = (Path(text).stem if "/" in text or "." in text else text for text in (model, data))
    return Path("runs") / re.sub(r"[^A-Za-z0-9_.-]+", "-", "_".join(parts)).strip("-")


def proof_path(run: Path, file: Path) -> Path:
    """Where a run folder keeps what an export of it said, proof included, about the file that it wrote."""
    return run / f"export.{file.stem}.json"


class Stage:
    """One stage (`search`, `finetune`, ...) of a run folder; its files begin with the stage's name.

    `NAME.json` holds the options, `NAME.npz` the last checkpoint, `NAME.previous.npz` the one before it,
    `NAME.csv` the metrics of each step, `NAME.keras` the model and `NAME.result.json` the result, which is
    written last.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name

    def path(self, suffix: str) -> Path:
        """File of this stage."""
        return self.folder / f"{self.name}{suffix}"

    @property
    def finished(self) -> bool:
        """Whether the stage has its result, which is written last."""
        return self.path(".result.json").exists()

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
            self._sweep()
            options = json.loads(json.dumps({"format": FORMAT, **options}))
            begun, before = self.path(".json").exists(), self._checkpoints()
            if begun:
                _refuse_other_options(self.folder, read_json(self.path(".json")), options)
            else:
                write_json(self.path(".json"), options)
            try:
                yield read_json(self.path(".result.json")) if self.finished else None
                self._sweep()
            except BaseException:
                # Nothing to resume yet: a corrected command must not be refused for the wrong one's options.
                if not begun and self._checkpoints() == before:
                    self.path(".json").unlink(missing_ok=True)
                raise

    def _checkpoints(self) -> set[Path]:
        """Checkpoints of all stages: float training belongs to the search."""
        return {path for path in self.folder.glob("*.npz") if _TEMPORARY not in path.name}

    def _sweep(self) -> None:
        """Remove what a killed process has left unfinished, and the older checkpoints of a finished stage.

        Float training has no result of its own: what comes after it has.
        """
        for name in (self.name, "float", "policy"):
            for path in self.folder.glob(f".{name}*{_TEMPORARY}*"):
                path.unlink(missing_ok=True)
        for name in (self.name, "float") if self.finished else ():
            checkpoints.previous(self.folder / f"{name}.npz").unlink(missing_ok=True)

    def save_checkpoint(
        self, variables: Sequence[Any], position: Mapping[str, int], network: Sequence[Any] = ()
    ) -> None:
        """Store all variables and the position in the data; the checkpoint before is kept as well."""
        path = self.path(".npz")

        def write(temporary: Path) -> None:
            checkpoints.write(temporary, variables, position, network)
            checkpoints.keep_previous(path, self.folder / f".{self.name}{_TEMPORARY}link")

        write_atomically(path, write)

    def load_checkpoint(
        self, variables: Sequence[Any], network: Sequence[Any] = (), reporter: Reporter | None = None
    ) -> dict[str, int] | None:
        """Restore all variables from the last checkpoint, or from the one before it if the last is damaged.

        Args:
            variables: Keras variables, in the order in which they were stored.
            network: What `checkpoints.described` says of the network; nothing is compared if empty.
            reporter: Told if the last one is damaged.

        Returns:
            The position that was stored, or None if there is no checkpoint.

        Raises:
            TfmpqError: The checkpoints are damaged or of another network; the first difference is named.
        """
        reporter = reporter or SilentReporter()
        return checkpoints.restore(self.path(".npz"), variables, network, reporter.log)

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

    import tfmpq.graph.activations
    import tfmpq.graph.shortcut
    import tfmpq.graph.slicing
    import tfmpq.quantizers.wrapper
    import tfmpq.training.optimizer  # noqa: F401 registers the classes that the file names

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
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise TfmpqError(
            f"A run folder is used by one process at a time. Received: {folder}, in use by another. "
            "Wait for it, or choose another --out."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _refuse_other_options(folder: Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    for key in [*asked, *(k for k in stored if k not in asked)]:
        if stored.get(key) != asked.get(key):
            raise UsageError(
                f"A run folder is resumed with the options that it was begun with. Received: {key}="
                f"{asked.get(key)!r} where {folder} has {stored.get(key)!r}. "
                "Repeat the first command, or choose another --out."
            )
