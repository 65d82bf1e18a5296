"""Data sets of the literature by name, as their authors distribute them, with the papers' split and size.

An unpacked archive is looked for in the data folder. A set that is not there comes from tensorflow-datasets,
with the same split and size (`TRAIN_PARTS`, `SIDES`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tfmpq.data.cifar import CIFAR10, CIFAR100, load_cifar
from tfmpq.data.dataset import Dataset, Split, make_dataset
from tfmpq.data.file_sources import load_folder
from tfmpq.data.places import Paths, Places
from tfmpq.errors import TfmpqError
from tfmpq.progress import Reporter

SIDES: Mapping[str, int] = {"cifar10": 32, "cifar100": 32, "tiny_imagenet": 64}
"""Side in pixels of the networks that a data set is for, where it is not 224."""

TRAIN_PARTS: Mapping[str, tuple[str, ...]] = {"oxford_flowers102": ("train", "validation")}
"""Parts that are trained on where it is not `train` alone: 2,040 flowers, as in the papers on transfer."""

_PETS, _FLOWERS = 37, 102


def load_published(name: str, folder: Path, reporter: Reporter) -> Dataset | None:
    """The data set of a name, if its unpacked archive lies in a folder; None otherwise.

    Args:
        name: One of `NAMES`; None is returned for others.
        folder: Data folder. The files may lie in a sub-folder that is called as the archive or as the set.
        reporter: Hears which files are left out.

    Raises:
        TfmpqError: A file is missing or damaged.
    """
    loader = _LOADERS.get(name)
    return loader(name, folder, reporter) if loader else None


def with_side(dataset: Dataset, name: str) -> Dataset:
    """The data set with the side of the networks that it is for, where its name tells."""
    return replace(dataset, side=SIDES[name]) if name in SIDES else dataset


def _cifar10(name: str, folder: Path, reporter: Reporter) -> Dataset | None:
    return load_cifar(name, CIFAR10, folder)


def _cifar100(name: str, folder: Path, reporter: Reporter) -> Dataset | None:
    return load_cifar(name, CIFAR100, folder)


def _flowers(name: str, folder: Path, reporter: Reporter) -> Dataset | None:
    """`jpg/image_00001.jpg`, ..., `imagelabels.mat` and `setid.mat`."""
    root = _place(folder, ("flowers-102", name), "setid.mat")
    if root is None:
        return None
    labels = _matrix(root / "imagelabels.mat", "labels")
    parts = [_matrix(root / "setid.mat", part) for part in ("trnid", "valid", "tstid")]
    if not 1 <= min(part.min() for part in parts) <= max(part.max() for part in parts) <= len(labels):
        raise _damaged(root / "setid.mat", f"numbers beyond the {len(labels)} labels")

    def split(numbers: np.ndarray) -> Split:
        files = [f"jpg/image_{number:05d}.jpg" for number in numbers]
        return _files(root, files, labels[numbers - 1] - 1)

    return make_dataset(name, split(np.concatenate(parts[:2])), split(parts[2]), classes=_FLOWERS)


def _matrix(path: Path, name: str) -> np.ndarray:
    """A row of whole numbers in a MATLAB file, int64 (N,)."""
    from scipy.io import loadmat

    try:
        return np.asarray(loadmat(path)[name]).reshape(-1).astype(np.int64)
    except Exception as error:  # SciPy raises many kinds for a damaged file
        raise _damaged(path, f"no row {name} ({type(error).__name__})") from error


def _pets(name: str, folder: Path, reporter: Reporter) -> Dataset | None:
    """`images/NAME.jpg`, `annotations/trainval.txt` and `annotations/test.txt`."""
    root = _place(folder, ("oxford-iiit-pet", name), "annotations/trainval.txt")
    if root is None:
        return None
    names: dict[int, str] = {}

    def split(part: str) -> Split:
        path = root / "annotations" / f"{part}.txt"
        rows = [line.split() for line in _lines(path) if not line.startswith("#")]
        if not all(len(row) >= 2 and row[1].isdecimal() and 1 <= int(row[1]) <= _PETS for row in rows):
            raise _damaged(path, f"a line that is no name and a class of 1 to {_PETS}")
        names.update({int(row[1]): row[0].rpartition("_")[0] for row in rows})
        return _files(root, [f"images/{row[0]}.jpg" for row in rows], [int(row[1]) - 1 for row in rows])

    train, test = split("trainval"), split("test")
    told = [names[number] for number in sorted(names)] if len(names) == _PETS else None
    return make_dataset(name, train, test, classes=_PETS, class_names=told)


def _food(name: str, folder: Path, reporter: Reporter) -> Dataset | None:
    """`images/CLASS/NUMBER.jpg`, `meta/classes.txt`, `meta/train.txt` and `meta/test.txt`."""
    root = _place(folder, ("food-101", name), "meta/classes.txt")
    if root is None:
        return None
    names = _lines(root / "meta" / "classes.txt")
    label_of = {word: label for label, word in enumerate(names)}

    def split(part: str) -> Split:
        path = root / "meta" / f"{part}.txt"
        images = _lines(path)
        labels = _labels(path, [image.partition("/")[0] for image in images], label_of)
        return _files(root, [f"images/{image}.jpg" for image in images], labels)

    return make_dataset(name, split("train"), split("test"), class_names=names)


def _tiny_imagenet(name: str, folder: Path, reporter: Reporter) -> Dataset | None:
    """`train/WNID/images/*.JPEG`, `val/images/*.JPEG` with `val/val_annotations.txt`, and `wnids.txt`.

    The test part of this competition has no labels; what is measured on is the validation part.
    """
    root = _place(folder, ("tiny-imagenet-200", name), "val/val_annotations.txt")
    if root is None:
        return None
    names = sorted(_lines(root / "wnids.txt"))
    label_of = {word: label for label, word in enumerate(names)}
    train = [
        (f"train/{word}/images/{path.name}", label_of[word])
        for word in names
        for path in sorted((root / "train" / word / "images").glob("*.JPEG"))
    ]
    notes = root / "val" / "val_annotations.txt"
    rows = [line.split("\t") for line in _lines(notes)]
    labels = _labels(notes, [row[1] if len(row) > 1 else "" for row in rows], label_of)
    return make_dataset(
        name,
        _files(root, [path for path, _ in train], [label for _, label in train]),
        _files(root, [f"val/images/{row[0]}" for row in rows], labels),
        class_names=names,
    )


def _imagenet(name: str, folder: Path, reporter: Reporter) -> Dataset | None:
    """`train/WNID/*.JPEG`, and `val` with such folders too, or as Kaggle has it, beside a table of labels."""
    root = _place(folder, (name, "ILSVRC/Data/CLS-LOC", "imagenet"), "train")
    if root is None or not (root / "val").is_dir():
        return None
    tables = (place / "LOC_val_solution.csv" for place in (root, folder))
    table = next((path for path in tables if path.is_file()), None)
    if table is None or any(path.is_dir() for path in (root / "val").iterdir()):
        return replace(load_folder(root, reporter), name=name)
    names = sorted(path.name for path in (root / "train").iterdir() if path.is_dir())
    label_of = {word: label for label, word in enumerate(names)}
    rows = [line.split(",") for line in _lines(table)[1:]]
    if not all(len(row) == 2 and row[1].strip() for row in rows):
        raise _damaged(table, "a line that is no image and its boxes")
    labels = _labels(table, [row[1].split()[0] for row in rows], label_of)
    train = [
        (f"train/{word}/{path.name}", label_of[word])
        for word in names
        for path in sorted((root / "train" / word).glob("*.JPEG"))
    ]
    return make_dataset(
        name,
        _files(root, [path for path, _ in train], [label for _, label in train]),
        _files(root, [f"val/{row[0]}.JPEG" for row in rows], labels),
        class_names=names,
    )


_LOADERS: Mapping[str, Callable[[str, Path, Reporter], Dataset | None]] = {
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "food101": _food,
    "imagenet2012": _imagenet,
    "oxford_flowers102": _flowers,
    "oxford_iiit_pet": _pets,
    "tiny_imagenet": _tiny_imagenet,
}
NAMES = tuple(_LOADERS)
"""The data sets that are known as their authors distribute them."""


def _place(folder: Path, below: Sequence[str], marker: str) -> Path | None:
    """The folder that holds a file or folder: one of some sub-folders."""
    return next((folder / name for name in below if (folder / name / marker).exists()), None)


def _files(root: Path, names: Iterable[str], labels: Iterable[int]) -> Split:
    paths = Paths.of(names, root)
    return Split(np.asarray(list(labels), np.int64), encoded=Places.whole_files(paths))


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, type(error).__name__) from error


def _labels(path: Path, words: Sequence[str], label_of: Mapping[str, int]) -> list[int]:
    unknown = next((word for word in words if word not in label_of), None)
    if unknown is not None:
        raise _damaged(path, f"the class {unknown!r}, which training images lack")
    return [label_of[word] for word in words]


def _damaged(path: Path, what: str) -> TfmpqError:
    return TfmpqError(
        f"A data set's files are as its authors distribute them. Received: {path}: {what}. Unpack it again."
    )
