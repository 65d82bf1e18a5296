"""CIFAR-10 and CIFAR-100 as their author distributes them: batches of Python arrays, or of bytes."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tfmpq.data.dataset import Dataset, Split, make_dataset
from tfmpq.errors import TfmpqError

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32


@dataclass(frozen=True, slots=True)
class Cifar:
    """Files of one of the two.

    Attributes:
        classes: Number of classes.
        pickled: Folder of the Python version.
        binary: Folder of the binary version.
        train: Files of training images, without their ending.
        test: File of test images, likewise.
        labels: Entry of a pickled batch that holds the labels.
        names: File and entry of the pickled names of classes.
        named: File of the names of classes in the binary version.
        label_bytes: Bytes in front of an image in the binary version; its label is the last of them.
    """

    classes: int
    pickled: str
    binary: str
    train: tuple[str, ...]
    test: str
    labels: bytes
    names: tuple[str, bytes]
    named: str
    label_bytes: int


CIFAR10 = Cifar(
    10,
    "cifar-10-batches-py",
    "cifar-10-batches-bin",
    tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test_batch",
    b"labels",
    ("batches.meta", b"label_names"),
    "batches.meta.txt",
    1,
)
CIFAR100 = Cifar(
    100,
    "cifar-100-python",
    "cifar-100-binary",
    ("train",),
    "test",
    b"fine_labels",
    ("meta", b"fine_label_names"),
    "fine_label_names.txt",
    2,
)


def load_cifar(name: str, files: Cifar, folder: Path) -> Dataset | None:
    """The data set whose unpacked archive lies in a folder; None if it does not.

    Raises:
        TfmpqError: A file is missing or damaged.
    """
    if (folder / files.pickled).is_dir():
        found = folder / files.pickled
        train = _joined([_pickled_batch(found / part, files) for part in files.train])
        test = _pickled_batch(found / files.test, files)
        told = _unpickled(found / files.names[0]).get(files.names[1], [])
        names = [bytes(word).decode() for word in told]
    elif (folder / files.binary).is_dir():
        found = folder / files.binary
        train = _joined([_binary_batch(found / f"{part}.bin", files) for part in files.train])
        test = _binary_batch(found / f"{files.test}.bin", files)
        names = _content(found / files.named).decode().split()
    else:
        return None
    return make_dataset(
        name,
        train,
        test,
        classes=files.classes,
        class_names=names if len(names) == files.classes else None,
    )


def _joined(parts: Sequence[Split]) -> Split:
    arrays = [part.array for part in parts if part.array is not None]
    return Split(np.concatenate([part.labels for part in parts]), np.concatenate(arrays))


def _pickled_batch(path: Path, files: Cifar) -> Split:
    content = _unpickled(path)
    return _split(path, content.get(b"data"), content.get(files.labels))


def _binary_batch(path: Path, files: Cifar) -> Split:
    content = np.frombuffer(_content(path), np.uint8)
    row = files.label_bytes + _PIXELS
    if not content.size or content.size % row:
        raise _damaged(path, f"{content.size} bytes, no multiple of {row}")
    rows = content.reshape(-1, row)
    return _split(path, rows[:, files.label_bytes :], rows[:, files.label_bytes - 1])


def _split(path: Path, data: Any, labels: Any) -> Split:
    """Rows of pixels, colour by colour, as images with their labels."""
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (_PIXELS,):
        raise _damaged(path, "no rows of 3,072 pixels")
    numbers = np.asarray(labels)
    if numbers.dtype.kind not in "iu" or numbers.shape != (len(data),):
        raise _damaged(path, f"no label for each of {len(data)} images")
    images = np.ascontiguousarray(data.reshape(-1, *_SHAPE).transpose(0, 2, 3, 1))
    return Split(numbers.astype(np.int64), images)


class _Arrays(pickle.Unpickler):
    """Unpickles texts, numbers, lists and NumPy arrays; a file that names anything else is refused."""

    _known: ClassVar[dict[tuple[str, str], Any]] = {
        # How NumPy pickles an array; the module has had several names.
        ("numpy", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        # How Python 3 writes bytes for Python 2.
        ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
    }

    def find_class(self, module: str, name: str) -> Any:
        """What arrays and bytes are made of."""
        key = module.split(".")[0], name
        if key not in self._known:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return self._known[key]


def _unpickled(path: Path) -> dict[bytes, Any]:
    try:
        with path.open("rb") as file:
            content = _Arrays(file, encoding="bytes").load()
    except Exception as error:  # damaged pickles raise many kinds
        raise _damaged(path, str(error) or type(error).__name__) from error
    if not isinstance(content, dict):
        raise _damaged(path, f"a {type(content).__name__}")
    return content


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _damaged(path, error.strerror or type(error).__name__) from error


def _damaged(path: Path, what: str) -> TfmpqError:
    return TfmpqError(
        f"CIFAR's files are as their author distributes them. Received: {path}: {what}. Unpack the archive "
        "again."
    )
