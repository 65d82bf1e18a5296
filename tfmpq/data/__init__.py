"""Images in: sources, preprocessing, and deterministic batches."""

from tfmpq.data.batches import ImageBatches
from tfmpq.data.dataset import Dataset, Split
from tfmpq.data.preprocess import preprocess
from tfmpq.data.sources import load_dataset

__all__ = ["Dataset", "ImageBatches", "Split", "load_dataset", "preprocess"]
