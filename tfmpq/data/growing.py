"""An array of images that grows batch by batch: in memory, and on disk from some size on."""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path

import numpy as np

from tfmpq.errors import UsageError

MEMORY_BYTES = 2**31
"""Size from which on images lie in a temporary file."""


class GrowingArray:
    """Takes batches of equal images; `finished` gives all of them as one array.

    Args:
        memory: Bytes that are held in memory; images beyond them go to a temporary file, which is removed
            with the array.
    """

    def __init__(self, memory: int = MEMORY_BYTES) -> None:
        self._memory = memory
        self._parts: list[np.ndarray] = []
        self._path: Path | None = None
        self._shape: tuple[int, ...] | None = None
        self._dtype: np.dtype | None = None
        self._count = 0
        self.nbytes = 0

    def append(self, batch: np.ndarray) -> None:
        """Add images, (N, ...).

        Raises:
            UsageError: They are of another shape or type than those before.
        """
        shape, dtype = batch.shape[1:], batch.dtype
        if (self._shape or shape, self._dtype or dtype) != (shape, dtype):
            raise UsageError(
                f"All images have one shape and type. Received: {self._dtype} {self._shape}, then {dtype} "
                f"{shape}. Resize and cast them in the data's own pipeline."
            )
        self._shape, self._dtype = shape, dtype
        self._parts.append(batch)
        self._count += len(batch)
        self.nbytes += batch.nbytes
        if self.nbytes > self._memory:
            self._spill()

    def _spill(self) -> None:
        if self._path is None:
            handle, name = tempfile.mkstemp(prefix="tfmpq-images-")
            os.close(handle)
            self._path = Path(name)
            weakref.finalize(self, self._path.unlink, missing_ok=True)
        with self._path.open("ab") as file:
            for part in self._parts:
                file.write(np.ascontiguousarray(part).data)
        self._parts.clear()

    def finished(self) -> np.ndarray:
        """All images, (N, ...); of type uint8 with no images where nothing was added."""
        if self._path is None:
            return np.concatenate(self._parts) if self._parts else np.zeros((0, 0, 0, 0), np.uint8)
        self._spill()
        shape = (self._count, *(self._shape or ()))
        # The mapping keeps the pages of a file whose name is gone already, on every system that has `mmap`.
        return np.memmap(self._path, self._dtype or np.uint8, "r", shape=shape)


def reordered(images: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Images in another order; those of a file go to another file, a part at a time."""
    if not isinstance(images, np.memmap):
        return images[order]
    made = GrowingArray(memory=0)
    for start in range(0, len(order), 1024):
        made.append(images[order[start : start + 1024]])
    return made.finished()
