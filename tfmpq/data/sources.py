"""Data sets by specification: `digits`, a name, `npz:PATH`, `folder:DIR` or `tfrecord:GLOB`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from tfmpq.data.array_sources import find_pair, load_digits, load_npz, load_npz_pair
from tfmpq.data.catalogue import load_tfds
from tfmpq.data.damaged import note_taker
from tfmpq.data.dataset import Dataset
from tfmpq.data.file_sources import load_folder, load_tfrecord_files
from tfmpq.data.file_sources import load_tfrecords as _load_tfrecords
from tfmpq.data.published import load_published, with_side
from tfmpq.errors import UsageError
from tfmpq.progress import Reporter, SilentReporter

DATA_DIR_VARIABLE = "TFMPQ_DATA_DIR"


def load_dataset(
    spec: str, *, data_dir: str | Path | None = None, reporter: Reporter | None = None
) -> Dataset:
    """Load a data set.

    Args:
        spec: `digits` (comes with scikit-learn); the name of a data set, looked for in `data_dir` as
            `NAME_train.npz` and `NAME_test.npz`, as such `.tfrecord` files, as a single file or, of
            `published.NAMES`, as its authors' unpacked archive, then among tensorflow-datasets; `npz:PATH`;
            `folder:DIR`; or `tfrecord:GLOB`.
        data_dir: Folder to look in first; by default that of the environment variable TFMPQ_DATA_DIR.
        reporter: Hears of downloads, before they begin, and of splits that had to be made.

    Damaged images are errors when they are read, or left out if it is loaded within `damaged.skip_damaged`.

    Raises:
        UsageError: The specification names nothing.
        TfmpqError: The files are damaged or do not hold images and labels.
    """
    reporter = reporter or SilentReporter()
    loaded = _load(spec, data_dir, reporter)
    taker = note_taker(reporter)
    train, test = (replace(split, damaged=taker) for split in (loaded.train, loaded.test))
    return replace(loaded, train=train, test=test)


def _load(spec: str, data_dir: str | Path | None, reporter: Reporter) -> Dataset:
    kind, colon, where = spec.partition(":")
    path = Path(where).expanduser()
    if spec == "digits":
        return load_digits()
    if kind == "npz" and where:
        return load_npz(path, reporter)
    if kind == "folder" and where:
        return load_folder(path, reporter)
    if kind == "tfrecord" and where:
        return _load_tfrecords(str(path), reporter)
    if colon or not spec:
        raise UsageError(
            "Data is digits, the name of a data set, npz:PATH, folder:DIR or tfrecord:GLOB. "
            f"Received: {spec!r}. Choose one of these forms."
        )
    return with_side(_load_named(spec, _folder(data_dir), reporter), spec)


def _folder(data_dir: str | Path | None) -> Path | None:
    named = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise UsageError(f"The data folder must exist. Received: {folder}. Check the path.")
    return folder


def _load_named(name: str, folder: Path | None, reporter: Reporter) -> Dataset:
    if folder is not None:
        if pair := find_pair(folder, name, ".npz"):
            return load_npz_pair(*pair)
        if pair := find_pair(folder, name, ".tfrecord"):
            return load_tfrecord_files(name, pair[:1], pair[1:], reporter)
        if (folder / f"{name}.npz").is_file():
            return load_npz(folder / f"{name}.npz", reporter)
        if (folder / f"{name}.tfrecord").is_file():
            return _load_tfrecords(str(folder / f"{name}.tfrecord"), reporter)
        if published := load_published(name, folder, reporter):
            return published
    return load_tfds(name, folder, reporter)
