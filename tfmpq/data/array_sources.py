"""Data sets whose images lie in memory: scikit-learn's digits and `.npz` files."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tfmpq.data.dataset import Dataset, Split, make_dataset, split_in_two
from tfmpq.data.images import decode_image, resample
from tfmpq.data.npz import read_npz
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.progress import Reporter

_IMAGE_NAMES = ("images", "x")
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
    """Load `PATH`, or the pair of files `<PATH>_train.npz` and `<PATH>_test.npz`.

    Args:
        path: One of the files, or what the names of the pair have in common.
        reporter: Hears if a single file had to be split.

    Raises:
        UsageError: There is no such file.
        TfmpqError: A file is damaged, or its arrays are not images and labels.
    """
    stem = path.name.removesuffix(".npz")
    if pair := find_pair(path.parent, stem.removesuffix("_train").removesuffix("_test"), ".npz"):
        return load_npz_pair(*pair)
    if path.with_name(f"{stem}.npz").is_file():
        split, names = _read_split(path.with_name(f"{stem}.npz"))
        return make_dataset(stem, *split_in_two(stem, split, reporter), class_names=names)
    raise UsageError(
        "npz:PATH must name a file, or a pair PATH_train.npz and PATH_test.npz. "
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
    train_split, names = _read_split(train)
    test_split, _ = _read_split(test)
    return make_dataset(train.stem.removesuffix("_train"), train_split, test_split, class_names=names)


def _read_split(path: Path) -> tuple[Split, list[str] | None]:
    arrays = read_npz(path)
    images, labels = _images(path, arrays), _labels(path, arrays)
    if len(images) != len(labels):
        raise TfmpqError(
            f"Images and labels must be equally many. Received: {path} with {len(images)} images and "
            f"{len(labels)} labels. Write the file again."
        )
    names = arrays.get("class_names")
    return Split(labels, images), None if names is None else [str(name) for name in names.ravel()]


def _images(path: Path, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    if tiles := sorted(name for name in arrays if name.startswith("tile_")):
        return _untile(path, [arrays[name] for name in tiles])
    images = _first(path, arrays, _IMAGE_NAMES)
    if images.ndim == 3:
        images = images[..., None]
    # What is one pixel high is a sequence, of as many channels as there are signals.
    fits = images.ndim == 4 and (images.shape[3] in (1, 3) or images.shape[1] == 1)
    if images.dtype != np.uint8 or not fits:
        raise TfmpqError(
            "Images must be uint8 of 0 to 255 with shape (N, height, width) or (N, height, width, 1 or 3), "
            f"sequences (N, 1, length, channels). Received: {path} with {images.dtype} {images.shape}. "
            "Convert them."
        )
    return images


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


def _labels(path: Path, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    labels = _first(path, arrays, _LABEL_NAMES)
    if labels.dtype.kind not in "iu" or labels.shape not in ((labels.size,), (labels.size, 1)):
        raise TfmpqError(
            f"Labels must be integers with shape (N,). Received: {path} with {labels.dtype} {labels.shape}. "
            "Convert them."
        )
    return labels.reshape(-1).astype(np.int64)


def _first(path: Path, arrays: Mapping[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    for name in names:
        if name in arrays:
            return arrays[name]
    raise TfmpqError(
        f"An .npz data set needs an array named {' or '.join(names)}. Received: {path} with "
        f"{', '.join(sorted(arrays)[:8]) or 'no arrays'}. Rename its arrays."
    )
