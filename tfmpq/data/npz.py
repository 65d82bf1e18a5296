"""Reading `.npz` and `.npy` files of unknown origin: no pickles, one clear line for a damaged file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tfmpq.errors import TfmpqError, UsageError


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of a `.npz` file.

    Raises:
        UsageError: The file does not exist.
        TfmpqError: It is damaged, or holds Python objects.
    """
    if not path.is_file():
        raise UsageError(f"An .npz file must exist. Received: {path}. Check the path.")
    try:
        # NumPy leaves a damaged file open if it has opened it itself.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:
        pickled = "allow_pickle" in str(error)
        raise TfmpqError(
            f"An .npz file must be a whole archive of plain arrays. Received: {path}, which "
            f"{'holds Python objects' if pickled else 'cannot be read as one'}. "
            "Check that it was copied completely, or write it again with numpy.savez."
        ) from error


def read_npy(path: Path) -> np.ndarray:
    """Read the array of a `.npy` file.

    Raises:
        UsageError: The file does not exist.
        TfmpqError: It is damaged, or holds Python objects.
    """
    if not path.is_file():
        raise UsageError(f"An .npy file must exist. Received: {path}. Check the path.")
    try:
        with open(path, "rb") as stream:
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
    except Exception as error:
        raise TfmpqError(
            f"An .npy file must be a whole array of numbers. Received: {path}, which cannot be read as one. "
            "Check that it was copied completely, or write it again with numpy.save."
        ) from error
