"""Data sets whose images stay on disk: folders of image files and TFRecord files."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tfmpq.data.dataset import Dataset, Split, make_dataset, split_in_two
from tfmpq.data.images import EncodedImage
from tfmpq.data.tfrecord import LabelledImage, read_tfrecord
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.progress import Reporter

_IMAGE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"})
_TEST_WORDS = ("test", "val")
_IMAGENET_CLASSES = 1000


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
    files = [
        (EncodedImage(file), label)
        for label, name in enumerate(names or [""])
        for file in (sorted((root / name).iterdir()) if (root / name).is_dir() else ())
        if _is_image(file)
    ]
    _say_left_out(root, names, reporter)
    if not files:
        raise UsageError(
            f"Images must be {', '.join(sorted(_IMAGE_ENDINGS))} files. Received: {root} without any. "
            "Convert them."
        )
    return Split(np.array([label for _, label in files], np.int64), encoded=[image for image, _ in files])


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in _IMAGE_ENDINGS and not file.name.startswith(".")


def _say_left_out(root: Path, names: Sequence[str], reporter: Reporter) -> None:
    """Tell of files that lie among the images and are none that can be read, or have no class."""
    beside = [root] if names else []
    left_out = [file for folder in beside for file in folder.iterdir() if _is_image(file)]
    for folder in (root / name for name in names or [""] if (root / name).is_dir()):
        left_out += [f for f in folder.iterdir() if not _is_image(f) and not f.name.startswith(".")]
    if left_out:
        shown = ", ".join(sorted(str(file.relative_to(root)) for file in left_out)[:4])
        more = f" and {len(left_out) - 4} more" if len(left_out) > 4 else ""
        reporter.log(
            f"{root}: left out {len(left_out)} files or folders that are no "
            f"{', '.join(sorted(_IMAGE_ENDINGS))} in a class: {shown}{more}."
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
    name: str, train: Iterable[Path], test: Iterable[Path], reporter: Reporter
) -> Dataset:
    """Load training and test files; without test files the training images are split.

    Raises:
        TfmpqError: A file is damaged.
    """
    learned, measured = (
        [record for path in paths for record in read_tfrecord(path)] for paths in (train, test)
    )
    classes = _imagenet_classes([*learned, *measured])
    if measured:
        return make_dataset(name, records_split(learned), records_split(measured), classes=classes)
    return make_dataset(name, *split_in_two(name, records_split(learned), reporter), classes=classes)


def records_split(records: Sequence[LabelledImage]) -> Split:
    """The split of these records."""
    labels = np.array([record.label for record in records], np.int64)
    return Split(labels, encoded=[record.image for record in records])


def _imagenet_classes(records: Sequence[LabelledImage]) -> int | None:
    # A selection of ImageNet's classes keeps their numbers; a data set numbered anew has no gaps.
    labels = {record.label for record in records}
    gaps = bool(labels) and len(labels) <= max(labels) < _IMAGENET_CLASSES
    return _IMAGENET_CLASSES if gaps and all(record.has_synset for record in records) else None
