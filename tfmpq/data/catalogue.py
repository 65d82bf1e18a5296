"""Data sets of tensorflow-datasets: prepared by it, then read from its files of records as any others are."""

from __future__ import annotations

import contextlib
import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfmpq.data.dataset import Dataset, Split, make_dataset
from tfmpq.data.file_sources import records_split
from tfmpq.data.published import NAMES, TRAIN_PARTS
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.progress import Reporter


def load_tfds(name: str, folder: Path | None, reporter: Reporter) -> Dataset:
    """Load a data set by its name in tensorflow-datasets, downloading it if it is not there yet.

    Args:
        name: For example `cifar10`, `imagenette`, `imagenet2012`.
        folder: Searched first for a prepared data set; then tensorflow-datasets' own folder.
        reporter: Hears what will be downloaded, and how large it is, before that begins.

    Raises:
        UsageError: There is no such data set, or it does not hold images with labels.
        TfmpqError: It cannot be downloaded or read, or tensorflow-datasets is missing.
    """
    builder = _builder(name, folder)
    features = builder.info.features
    if features is None or not {"image", "label"} <= set(features):
        raise UsageError(
            f"A data set needs the features image and label. Received: {name}. "
            "Choose one for image classification."
        )
    _prepare(name, builder, reporter)
    names = list(builder.info.features["label"].names)
    train = _split(builder, TRAIN_PARTS.get(name, ("train",)), reporter)
    return make_dataset(name, train, _test_split(name, builder, reporter), class_names=names)


def _builder(name: str, folder: Path | None) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ModuleNotFoundError as error:
        raise TfmpqError(
            f"A data set that is in no folder needs tensorflow-datasets. Received: {name}, in an environment "
            f"without {error.name}. Install it, or use npz:, folder: or tfrecord:."
        ) from error

    base = name.split("/")[0].split(":")[0]
    own = folder if folder is not None and (folder / base).is_dir() else None
    try:
        return tfds.builder(name, data_dir=own)
    except Exception as error:
        known = ["digits", *tfds.list_builders(with_community_datasets=False)]
        if base in known:
            raise _failure(name, error) from error
        near = nearest(base, [*known, *NAMES])
        hint = f"Did you mean {near}?" if near else "Name a folder with --data-dir, or use npz: or folder:."
        if base in NAMES:
            hint = "Unpack its archive in the folder that --data-dir names."
        raise UsageError(
            "A data set must be in the data folder or known to tensorflow-datasets. "
            f"Received: {name} (data folder: {folder or 'none'}). {hint}"
        ) from error


_MEANT = {"imagenet": "imagenet2012", "ilsvrc2012": "imagenet2012"}
"""What people call data sets beside the names that these have."""


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The data set that a name is probably for; case, spaces, dashes and underscores do not count."""
    spelled = {_plain(other): other for other in reversed(known)} | _MEANT
    plain = _plain(name)
    if plain in spelled:
        return spelled[plain]
    near = difflib.get_close_matches(plain, spelled, n=1)
    return spelled[near[0]] if near else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _prepare(name: str, builder: Any, reporter: Reporter) -> None:
    if Path(builder.data_dir).is_dir():
        return
    reporter.log(
        f"Downloading {name} with tensorflow-datasets: {builder.info.download_size} "
        f"(prepared {builder.info.dataset_size}) to {builder.data_dir}."
    )
    try:
        # It announces itself on stdout, which is for results.
        with contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare()
    except Exception as error:
        raise _failure(name, error) from error


def _test_split(name: str, builder: Any, reporter: Reporter) -> Split:
    # The test part of competitions has labels of -1.
    for part in ("test", "validation"):
        if part in builder.info.splits:
            split = _split(builder, (part,), reporter)
            if split.labels.size and split.labels.min() >= 0:
                return split
    raise UsageError(
        f"A data set needs a test or validation part with labels. Received: {name} with "
        f"{', '.join(builder.info.splits)}. Choose another."
    )


def _split(builder: Any, parts: Sequence[str], reporter: Reporter) -> Split:
    return records_split(
        [Path(path) for part in parts for path in builder.info.splits[part].filepaths], reporter
    )


def _failure(name: str, error: Exception) -> TfmpqError:
    first = (str(error).strip().splitlines() or [""])[0][:160]
    advice = "Check the network" if isinstance(error, OSError) else "Install what it needs"
    return TfmpqError(
        f"tensorflow-datasets must be able to prepare the data set. Received: {name} "
        f"({type(error).__name__}: {first}). {advice}, or name a folder that has it with --data-dir."
    )
