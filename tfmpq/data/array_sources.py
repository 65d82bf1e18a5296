"""Data sets whose images lie in memory: scikit-learn's digits, `.npz` and `.npy` files."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from tfmpq.data.dataset import Dataset, Split, make_dataset, split_in_two
from tfmpq.data.images import decode_image, resample
from tfmpq.data.labels import as_labels, same_form
from tfmpq.data.npz import read_npy, read_npz
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.progress import Reporter

_IMAGE_NAMES = ("images", "x", "arr_0")
_LABEL_NAMES = ("labels", "y")
_TEST_ENDINGS = ("test", "val")
_DIGITS_SIDE, _DIGITS_TEST = 16, 360


def load_digits() -> Dataset:
    """The 1797 handwritten digits that come with scikit-learn (a part of UCI's Optical Recognition data).

    The 8x8 grey images are scaled to 0..255, enlarged to 16x16 (bilinear) and repeated on 3 channels. The
    split is stratified and fixed: 1437 images for training, 360 for testing. scikit-learn has only the test
    part of the original, so that the same writers appear in both.
    """
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    grey, labels = load(return_X_y=True)
    grey = np.round(grey.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    images = np.stack([resample(image, (_DIGITS_SIDE, _DIGITS_SIDE)) for image in grey])
    images = np.repeat(images, 3, axis=3)
    whole = Split(labels.astype(np.int64), images)
    train, test = train_test_split(
        np.arange(len(whole)), test_size=_DIGITS_TEST, stratify=labels, random_state=0
    )
    return make_dataset("digits", whole.take(train), whole.take(test), class_names="0123456789")


def load_npz(path: Path, reporter: Reporter) -> Dataset:
    """Load `PATH`, or the pair of files `<PATH>_train.npz` and `<PATH>_test.npz` (or `.npy`).

    Arrays of other types than uint8 are model inputs as they are. Without labels, images are for calibration.

    Args:
        path: One of the files, or what the names of the pair have in common.
        reporter: Hears if a single file had to be split.

    Raises:
        UsageError: There is no such file.
        TfmpqError: A file is damaged, or its arrays are not images and labels.
    """
    stem = path.name.removesuffix(".npz").removesuffix(".npy")
    for ending in (".npz", ".npy"):
        if path.suffix in (".npz", ".npy") and path.suffix != ending:
            continue
        if pair := find_pair(path.parent, stem.removesuffix("_train").removesuffix("_test"), ending):
            return load_npz_pair(*pair)
        if (file := path.with_name(stem + ending)).is_file():
            whole, labelled, names = _read_split(file)
            return _dataset(stem, *split_in_two(stem, whole, reporter), labelled, names)
    raise UsageError(
        "npz:PATH must name a .npz or .npy file, or a pair PATH_train.npz and PATH_test.npz. "
        f"Received: {path}. Check the path."
    )


def find_pair(folder: Path, name: str, suffix: str) -> tuple[Path, Path] | None:
    """Find `<name>_train` and `<name>_test` (or `_val`) in a folder."""
    train = folder / f"{name}_train{suffix}"
    for ending in _TEST_ENDINGS:
        test = folder / f"{name}_{ending}{suffix}"
        if train.is_file() and test.is_file():
            return train, test
    return None


def load_npz_pair(train: Path, test: Path) -> Dataset:
    """Load a training and a test file.

    Raises:
        TfmpqError: A file is damaged, or its arrays are not images and labels.
    """
    train_split, labelled, names = _read_split(train)
    test_split, labelled_there, _ = _read_split(test)
    labelled = labelled and labelled_there
    return _dataset(train.stem.removesuffix("_train"), train_split, test_split, labelled, names)


def _dataset(name: str, train: Split, test: Split, labelled: bool, names: list[str] | None) -> Dataset:
    """The record of two splits; without labels it has no classes, and the range of values if no pixels."""
    both = same_form(train.labels, test.labels, name)
    train, test = (replace(part, labels=labels) for part, labels in zip((train, test), both, strict=True))
    made = make_dataset(name, train, test, classes=None if labelled else 1, class_names=names)
    arrays = [part.array for part in (train, test) if part.array is not None and len(part)]
    seen = None
    if any(array.dtype != np.uint8 for array in arrays):
        seen = (float(min(a.min() for a in arrays)), float(max(a.max() for a in arrays)))
    return replace(made, classes=made.classes if labelled else 0, seen=seen)


def _read_split(path: Path) -> tuple[Split, bool, list[str] | None]:
    """Images with labels, whether these mean something (else they are zeros), and names of classes."""
    arrays = {_IMAGE_NAMES[0]: read_npy(path)} if path.suffix == ".npy" else read_npz(path)
    images = _images(path, arrays)
    labels = _labels(path, arrays)
    labelled = labels is not None
    if labels is None:
        labels = np.zeros(len(images), np.int64)
    if len(images) != len(labels):
        raise TfmpqError(
            f"Images and labels must be equally many. Received: {path} with {len(images)} images and "
            f"{len(labels)} labels. Write the file again."
        )
    names = arrays.get("class_names")
    return Split(labels, images), labelled, None if names is None else [str(name) for name in names.ravel()]


def _images(path: Path, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    if tiles := sorted(name for name in arrays if name.startswith("tile_")):
        return _untile(path, [arrays[name] for name in tiles])
    images = _array_of(path, arrays, _IMAGE_NAMES)
    if images.ndim not in (2, 3, 4) or images.dtype.kind not in "buif":
        raise TfmpqError(
            "Images are numbers (N, height, width) or (N, height, width, channels), sequences (N, length, "
            f"channels), vectors (N, length). Received: {path} with {images.dtype} {images.shape}. Convert "
            "them."
        )
    if images.dtype != np.uint8:
        images = images.astype(np.float32)
        if not np.isfinite(images).all():
            raise TfmpqError(
                f"Images are finite numbers. Received: {path} with NaN or infinity. Leave these images out."
            )
    if images.ndim == 2:  # a vector is one pixel
        return images[:, None, None, :]
    return images[..., None] if images.ndim == 3 else images


def _untile(path: Path, tiles: list[np.ndarray]) -> np.ndarray:
    """Decode lossless WebP pictures, each a square of 50x50 images of 32x32 pixels."""
    grid, side = 50, 32
    try:
        # Pillow releases the interpreter lock while it decodes.
        with ThreadPoolExecutor() as pool:
            pictures = list(pool.map(lambda tile: decode_image(tile.tobytes()), tiles))
        squares = [picture.reshape(grid, side, grid, side, 3).swapaxes(1, 2) for picture in pictures]
    except Exception as error:
        raise TfmpqError(
            f"Tiles must be WebP pictures of {grid}x{grid} images of {side}x{side} pixels. Received: {path} "
            f"({type(error).__name__}). Check that it was copied completely."
        ) from error
    return np.concatenate([square.reshape(-1, side, side, 3) for square in squares])


def _labels(path: Path, arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Labels, classes or numbers; None without any."""
    if not any(name in arrays for name in _LABEL_NAMES):
        return None
    return as_labels(_array_of(path, arrays, _LABEL_NAMES), str(path))


def _array_of(path: Path, arrays: Mapping[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    """The array of one of these names."""
    for name in names:
        if name in arrays:
            return arrays[name]
    raise TfmpqError(
        f"An .npz data set needs an array named {' or '.join(names[:2])}. Received: {path} with "
        f"{', '.join(sorted(arrays)[:8]) or 'no arrays'}. Rename its arrays."
    )
