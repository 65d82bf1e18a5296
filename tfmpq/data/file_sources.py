"""Data sets whose images stay on disk: folders of image files and TFRecord files."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tfmpq.data.dataset import Dataset, Split, make_dataset, split_in_two
from tfmpq.data.indexing import cached, index_records
from tfmpq.data.places import Paths, Places
from tfmpq.data.tfrecord import Records
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.progress import Reporter

_IMAGE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp"})
_TEST_WORDS = ("test", "val")
_IMAGENET_CLASSES = 1000


def load_folder(root: Path, reporter: Reporter) -> Dataset:
    """Load a folder with one sub-folder a class, or with `train` and `test` (or `val`) folders of such.

    Labels are the positions of the sub-folders in alphabetical order.

    Args:
        root: The folder.
        reporter: Hears if the images had to be split.

    Raises:
        UsageError: There is no such folder, or it holds no images.
        TfmpqError: It holds a class for testing that training does not know.
    """
    if not root.is_dir():
        raise UsageError(f"folder:DIR must name a folder. Received: {root}. Check the path.")
    tests = [root / word for word in (*_TEST_WORDS, "validation") if (root / word).is_dir()]
    if (root / "train").is_dir() and tests:
        names = _class_names(root / "train")
        train, test = _folder_split(root / "train", names), _folder_split(tests[0], names)
    else:
        names = _class_names(root)
        train, test = split_in_two(root.name, _folder_split(root, names), reporter)
    return make_dataset(root.name, train, test, class_names=names)


def _class_names(root: Path) -> list[str]:
    names = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
    if not names:
        raise UsageError(
            f"A folder of images needs one sub-folder per class. Received: {root} without any. "
            "Sort the images into folders."
        )
    return names


def _folder_split(root: Path, names: Sequence[str]) -> Split:
    if unknown := sorted(set(_class_names(root)) - set(names)):
        raise TfmpqError(
            f"Test images must be of classes that have training images. Received: {root} with "
            f"{', '.join(unknown[:8])}. Add training images or remove the folders."
        )
    folders = [root / name for name in names if (root / name).is_dir()]
    stamps = [(0, folder.stat().st_mtime_ns) for folder in folders]
    found = cached(folders, stamps, lambda: _image_files(root, folders))
    paths = Paths(root, found["text"], found["ends"])
    if not len(paths):
        raise UsageError(
            f"Images must be {', '.join(sorted(_IMAGE_ENDINGS))} files. Received: {root} without any. "
            "Convert them."
        )
    labels = np.array([names.index(folder.name) for folder in folders], np.int64)
    return Split(np.repeat(labels, found["counts"]), encoded=Places.whole_files(paths))


def _image_files(root: Path, folders: Sequence[Path]) -> dict[str, np.ndarray]:
    """Files with images in folders, and how many there are in each."""

    def names(folder: Path) -> list[str]:
        return sorted(
            f"{folder.name}/{name}" for name in os.listdir(folder) if _ending(name) in _IMAGE_ENDINGS
        )

    with ThreadPoolExecutor() as pool:  # disks far away answer several questions at once
        found = list(pool.map(names, folders))
    paths = Paths.of(name for part in found for name in part)
    return {"text": paths.text, "ends": paths.ends, "counts": np.array([len(part) for part in found])}


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def load_tfrecords(pattern: str, reporter: Reporter) -> Dataset:
    """Load all TFRecord files that match a pattern.

    Files with "test" or "val" in their names are the test part; without such files the images are split.
    Labels of ImageNet (records with a synset whose numbers leave gaps) count as 1000 classes.

    Args:
        pattern: Path with wildcards.
        reporter: Hears if the images had to be split.

    Raises:
        UsageError: Nothing matches.
        TfmpqError: A file is damaged.
    """
    paths = sorted(Path(name) for name in glob.glob(pattern, recursive=True))
    if not paths:
        raise UsageError(f"tfrecord:GLOB must match files. Received: {pattern}. Check the path.")
    test = [path for path in paths if any(word in path.name for word in _TEST_WORDS)]
    name = Path(pattern).name.split(".")[0].rstrip("*_-") or "tfrecord"
    return load_tfrecord_files(name, [path for path in paths if path not in test], test, reporter)


def load_tfrecord_files(
    name: str, train: Sequence[Path], test: Sequence[Path], reporter: Reporter
) -> Dataset:
    """Load training and test files; without test files the training images are split.

    Raises:
        TfmpqError: A file is damaged.
    """
    paths = [*train, *test]
    found = index_records(paths, reporter)
    classes = _imagenet_classes(found)
    whole = Split(found.label, encoded=Places(Paths.of(paths), found.number, found.offset, found.length))
    count = int(np.count_nonzero(found.number < len(train)))
    learned, measured = whole.take(slice(count)), whole.take(slice(count, None))
    if test:
        return make_dataset(name, learned, measured, classes=classes)
    return make_dataset(name, *split_in_two(name, learned, reporter), classes=classes)


def records_split(paths: Sequence[Path], reporter: Reporter) -> Split:
    """The images and labels of files of records.

    Raises:
        TfmpqError: A file is damaged.
    """
    found = index_records(paths, reporter)
    return Split(found.label, encoded=Places(Paths.of(paths), found.number, found.offset, found.length))


def _imagenet_classes(records: Records) -> int | None:
    # A selection of ImageNet's classes keeps their numbers; a data set numbered anew has no gaps.
    labels = np.unique(records.label)
    gaps = bool(len(labels)) and len(labels) <= labels[-1] < _IMAGENET_CLASSES
    return _IMAGENET_CLASSES if gaps and records.synset.all() else None
