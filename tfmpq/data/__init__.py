"""Images in: sources, preprocessing, and deterministic batches.

Nothing heavy is imported before it is used: the processes that index files need none of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfmpq.data.batches import ImageBatches
    from tfmpq.data.dataset import Dataset, Split
    from tfmpq.data.sources import load_dataset

__all__ = ["Dataset", "ImageBatches", "Split", "load_dataset"]

_HOME = {
    "Dataset": "dataset",
    "ImageBatches": "batches",
    "Split": "dataset",
    "load_dataset": "sources",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"tfmpq.data.{_HOME[name]}"), name)
    globals()[name] = found
    return found
