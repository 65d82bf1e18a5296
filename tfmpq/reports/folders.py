"""What lies in a run folder, as far as a report shows it."""

from __future__ import annotations

import csv
import hashlib
import math
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel

from tfmpq.errors import TfmpqError, UsageError
from tfmpq.files import read_json
from tfmpq.policy.policy import Policy, load_policy
from tfmpq.reports.reading import checked, read_result
from tfmpq.reports.results import Finetune, Job, Search
from tfmpq.training.run_folder import Stage

Steps = Mapping[str, np.ndarray]
"""Columns of a step log, float64 of shape (steps,); NaN where a value is missing."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One run folder.

    Attributes:
        folder: Where it is.
        name: What it is called in the report.
        search: Result of the search; None if there is none.
        search_options: What the search was asked for; empty without one.
        search_steps: Its step log; empty without one.
        finetune: Result of the fine-tuning; None if there is none.
        finetune_options: What the fine-tuning was asked for.
        finetune_steps: Its step log.
        job: The closing table, if `tfmpq run` made the folder.
        policy: The policy; None if there is none.
        weights: Number of weights by layer; empty where no checkpoint tells.
        results: Results of other verbs that lie in the folder, with their files.
    """

    folder: Path
    name: str
    search: Search | None
    search_options: dict[str, Any]
    search_steps: Steps
    finetune: Finetune | None
    finetune_options: dict[str, Any]
    finetune_steps: Steps
    job: Job | None
    policy: Policy | None
    weights: dict[str, int]
    results: tuple[tuple[Path, Any], ...]

    @property
    def model(self) -> str:
        """Name of the network."""
        stage = self.finetune or self.search
        return stage.model if stage else self.folder.name


def read_run(folder: Path, name: str) -> Run:
    """Read a run folder.

    Args:
        folder: Where it is.
        name: What to call it.

    Raises:
        UsageError: It holds no finished stage.
        TfmpqError: A file is damaged.
    """
    searched, tuned = (Stage(folder, stage) for stage in ("search", "finetune"))
    search = _optional(searched.path(".result.json"), Search)
    finetune = _optional(tuned.path(".result.json"), Finetune)
    if search is None and finetune is None:
        raise UsageError(
            f"A run is reported once its search or its fine-tuning is finished. Received: {folder}, which has"
            " neither. Give a run folder, or finish it with the command that began it."
        )
    policy = folder / "policy.yaml"
    job = _optional(folder / "job.json", Job)
    # The whole job keeps its 8-bit baseline in a folder within its own.
    baseline = sorted(folder.glob("int8/export.*.json")) if job else []
    files = (path for path in [*sorted(folder.glob("*.json")), *baseline] if not _is_stage_file(path))
    return Run(
        folder=folder,
        name=name,
        search=search,
        search_options=_options(searched),
        search_steps=read_steps(searched.path(".csv")) if search else {},
        finetune=finetune,
        finetune_options=_options(tuned),
        finetune_steps=read_steps(tuned.path(".csv")) if finetune else {},
        job=job,
        policy=load_policy(policy) if policy.exists() else None,
        weights=_weight_counts(tuned.path(".npz")) or _weight_counts(searched.path(".npz")),
        results=tuple((path, found) for path in files if (found := read_result(path)) is not None),
    )


def _is_stage_file(path: Path) -> bool:
    return path.name.partition(".")[0] in ("search", "finetune", "float", "job", "sensitivity")


Kind = TypeVar("Kind", bound=BaseModel)


def _optional(path: Path, kind: type[Kind]) -> Kind | None:
    return checked(kind, read_json(path), path) if path.exists() else None


def _options(stage: Stage) -> dict[str, Any]:
    """The options of a stage; those of an older format are shown as they are."""
    path = stage.path(".json")
    found = read_json(path) if path.exists() else {}
    if not isinstance(found, dict):
        raise TfmpqError(
            f"A run folder holds its options. Received: {path}, which holds a {type(found).__name__}. "
            "Take the run from a backup, or leave it out."
        )
    return found


def read_steps(path: Path) -> Steps:
    """Read a step log.

    Args:
        path: CSV file; a missing one is empty.

    Raises:
        TfmpqError: It is no table of text.
    """
    if not path.exists():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if None not in row and None not in row.values()]
    except (UnicodeDecodeError, csv.Error) as error:
        raise TfmpqError(
            f"A step log is a table of text. Received: {path}: {error}. Take it from a backup, or remove it."
        ) from error
    names = list(rows[0]) if rows else []
    return {name: np.array([_number(row[name]) for row in rows]) for name in names}


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _weight_counts(checkpoint: Path) -> dict[str, int]:
    """Number of weights by layer, from the shapes of the kernels in a checkpoint."""
    if not checkpoint.exists():
        return {}
    found: dict[str, int] = {}
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            for entry in archive.namelist():
                *path, variable = entry.removesuffix(".npy").partition(" ")[2].split("/")
                if path and variable in ("kernel", "depthwise_kernel"):
                    with archive.open(entry) as file:
                        found[path[-1]] = math.prod(_shape(file))
    except (zipfile.BadZipFile, ValueError, OSError, EOFError):
        return {}
    return found


def _shape(file: Any) -> tuple[int, ...]:
    """Shape in the header of an npy file; its content is not read."""
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in read:
        raise ValueError(f"version {version}")
    return read[version](file)[0]


def places(path: str, source: Path) -> tuple[Path, Path]:
    """Where the file of a result may be: where it was, and of its name beside the result.

    Args:
        path: The file, as the result has it.
        source: File of the result.
    """
    return Path(path), source.parent / Path(path).name


def digests(files: Iterable[Path]) -> list[str]:
    """SHA-256 of those files that can be read."""
    made = []
    for path in files:
        try:
            made.append(hashlib.sha256(path.read_bytes()).hexdigest())
        except OSError:
            continue
    return made


def replaced(sha256: str | None, files: Iterable[Path]) -> bool:
    """Whether files are at hand, but none with the bytes that a result is about; False if it records none."""
    if sha256 is None:
        return False
    found = digests(files)
    return bool(found) and sha256 not in found
