"""Data sets whose images stay on disk: folders of image files and TFRecord files."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from tfmpq.data.dataset import Dataset, Split, make_dataset, split_in_two
from tfmpq.data.indexing import cached, index_records
from tfmpq.data.places import Paths, Places
from tfmpq.data.tfrecord import Records
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.progress import Reporter

_IMAGE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"})
_TEST_WORDS = ("test", "val")
_IMAGENET_CLASSES = 1000
_SHOWN = 4
"""Names of files that are left out."""


def load_folder(root: Path, reporter: Reporter) -> Dataset:
    """Load a folder with one sub-folder a class, or with `train` and `test` (or `val`) folders of such.

    Labels are the positions of the sub-folders in alphabetical order. A folder without sub-folders holds
    images without labels. Hidden files and folders do not count.

    Args:
        root: The folder.
        reporter: Hears if the images had to be split, and which files are left out.

    Raises:
        UsageError: There is no such folder, or it holds no images.
        TfmpqError: It holds a class for testing that training does not know.
    """
    if not root.is_dir():
        raise UsageError(f"folder:DIR must name a folder. Received: {root}. Check the path.")
    tests = [root / word for word in (*_TEST_WORDS, "validation") if (root / word).is_dir()]
    if (root / "train").is_dir() and tests:
        names = _class_names(root / "train")
        parts = [_folder_split(folder, names, reporter) for folder in (root / "train", tests[0])]
    else:
        names = _class_names(root)
        parts = list(split_in_two(root.name, _folder_split(root, names, reporter), reporter))
    if names:
        return make_dataset(root.name, *parts, class_names=names)
    return replace(make_dataset(root.name, *parts, classes=1), classes=0)


def _class_names(root: Path) -> list[str]:
    """Sub-folders that are not hidden; none where images have no labels."""
    return sorted(f.name for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))


def _folder_split(root: Path, names: Sequence[str], reporter: Reporter) -> Split:
    if unknown := sorted(set(_class_names(root)) - set(names)):
        raise TfmpqError(
            f"Test images must be of classes that have training images. Received: {root} with "
            f"{', '.join(unknown[:8])}. Add training images or remove the folders."
        )
    labelled = [(label, root / name) for label, name in enumerate(names or [""]) if (root / name).is_dir()]
    folders = [folder for _, folder in labelled]
    stamps = [(0, folder.stat().st_mtime_ns) for folder in folders]
    found = cached(folders, stamps, lambda: _image_files(root, folders))
    _say_left_out(root, names, found, reporter)
    paths = Paths(root, found["text"], found["ends"])
    if not len(paths):
        raise UsageError(
            f"Images must be {', '.join(sorted(_IMAGE_ENDINGS))} files. Received: {root} without any. "
            "Convert them."
        )
    labels = np.array([label for label, _ in labelled], np.int64)
    return Split(np.repeat(labels, found["counts"]), encoded=Places.whole_files(paths))


def _image_files(root: Path, folders: Sequence[Path]) -> dict[str, np.ndarray]:
    """Paths of images in folders, how many each has, how many other files there are, and a few of these."""

    def names(folder: Path) -> tuple[list[str], list[str]]:
        above = "" if folder == root else f"{folder.name}/"
        seen = sorted(above + name for name in os.listdir(folder) if not name.startswith("."))
        return [name for name in seen if _is_image(name)], [name for name in seen if not _is_image(name)]

    with ThreadPoolExecutor() as pool:  # disks far away answer several questions at once
        found = list(pool.map(names, folders))
    paths = Paths.of(name for images, _ in found for name in images)
    others = sorted(name for _, rest in found for name in rest)
    shown = os.fsencode("\0".join(others[:_SHOWN]))
    return {
        "text": paths.text,
        "ends": paths.ends,
        "counts": np.array([len(images) for images, _ in found]),
        "others": np.array(len(others)),
        "shown": np.frombuffer(shown, np.uint8),
    }


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _IMAGE_ENDINGS and not name.startswith(".")


def _say_left_out(
    root: Path, names: Sequence[str], found: Mapping[str, np.ndarray], reporter: Reporter
) -> None:
    """Tell of files that lie among the images and are none that can be read, or have no class."""
    beside = [f.name for f in root.iterdir() if _is_image(f.name)] if names else []
    shown = os.fsdecode(found["shown"].tobytes()).split("\0") if found["others"] else []
    if count := len(beside) + int(found["others"]):
        shown = sorted(beside + shown)[:_SHOWN]
        more = f" and {count - len(shown)} more" if count > len(shown) else ""
        reporter.log(
            f"{root}: left out {count} files or folders that are no "
            f"{', '.join(sorted(_IMAGE_ENDINGS))} in a class: {', '.join(shown)}{more}."
        )


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
