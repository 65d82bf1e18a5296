"""What quantization without training begins with: a float network, and images to calibrate it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfmpq.data import Dataset, load_dataset
from tfmpq.data.preprocess import preprocess, value_range
from tfmpq.graph.fusion import analyse
from tfmpq.graph.network import Network
from tfmpq.models.registry import LoadedModel, load_model
from tfmpq.progress import Reporter
from tfmpq.tasks.preprocessing_choice import choose_preprocessing
from tfmpq.tasks.sampling import sample_images
from tfmpq.tasks.task import IMAGENET_SIDE, announce, begins_trained, image_shape, refuse_empty_parts

RANDOM = "random"
"""Name that stands for images of noise in the place of a data set."""

_PATCH = 8


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A float network, and the images that it is quantized with.

    Attributes:
        loaded: The network.
        network: Its analysis.
        preprocessing: Name of the preprocessing.
        dataset: Data; None for random images.
    """

    loaded: LoadedModel
    network: Network
    preprocessing: str
    dataset: Dataset | None

    def images(self, count: int, split: str = "train") -> np.ndarray:
        """Preprocessed images of a split: float32 (at most `count`, height, width, channels)."""
        shape = self.network.input_shape
        if self.dataset is None:
            return preprocess(random_images(count, shape), self.preprocessing)
        return sample_images(getattr(self.dataset, split), count, shape, self.preprocessing)


def random_images(count: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Images of noise in which neighbouring pixels are alike, so that deep layers see differences as well.

    Args:
        count: Number of images.
        shape: (height, width, channels).

    Returns:
        uint8 (count, height, width, channels), the same in every call.
    """
    generator = np.random.default_rng(0)
    height, width, channels = shape
    coarse = generator.integers(0, 256, (count, -(-height // _PATCH), -(-width // _PATCH), channels))
    patches = coarse.repeat(_PATCH, axis=1).repeat(_PATCH, axis=2)[:, :height, :width]
    fine = generator.integers(-40, 41, patches.shape)
    return np.clip(patches + fine, 0, 255).astype(np.uint8)


def load_subject(
    model: str,
    calibration: str,
    *,
    weights: str | None,
    data_dir: str | Path | None,
    preprocessing: str | None,
    reporter: Reporter,
) -> Subject:
    """Load a float network and the data that it is calibrated with.

    Args:
        model: Built-in name, `.keras` file or `MODULE:FUNCTION`; it may have several outputs.
        calibration: Data set, or `random`.
        weights: File of float weights, "none" or None.
        data_dir: Folder that is looked in first for data.
        preprocessing: Name; None for what the network expects.
        reporter: Told what is left out or new.

    Raises:
        UsageError: A name is unknown, the two do not fit, or a part of the data has no images.
        TfmpqError: A file is damaged, or the network has layers that cannot be quantized.
    """
    dataset = None
    if calibration != RANDOM:
        dataset = load_dataset(calibration, data_dir=data_dir, reporter=reporter)
        refuse_empty_parts(calibration, dataset)
    loaded = load_model(
        model,
        input_shape=image_shape(dataset) if dataset else (IMAGENET_SIDE, IMAGENET_SIDE, 3),
        classes=dataset.classes if dataset else 0,
        weights=weights,
        skip_classifier=None,
        several_outputs=True,
    )
    announce(loaded, weights, reporter)
    learned = begins_trained(model, weights) and not loaded.new_classifier
    chosen = choose_preprocessing(loaded, preprocessing, dataset, reporter, trained=learned, learns=False)
    return Subject(loaded, analyse(loaded.model, value_range(chosen)[0] < 0), chosen, dataset)
