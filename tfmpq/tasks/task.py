"""What every stage begins with: data, a float network that fits them, and how pixels become inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np

from tfmpq.data import Dataset, ImageBatches, load_dataset
from tfmpq.data.batches import Augmentation
from tfmpq.data.preprocess import value_range
from tfmpq.errors import UsageError
from tfmpq.graph.fusion import analyse
from tfmpq.graph.network import Network
from tfmpq.models.registry import MODEL_FILES, LoadedModel, load_model
from tfmpq.progress import Reporter
from tfmpq.tasks.preprocessing_choice import choose_preprocessing
from tfmpq.tasks.sampling import sample_images

IMAGENET_SIDE = 224
"""Side to which data sets of encoded photographs are brought."""

CALIBRATION_IMAGES = 256


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A float network and the data it is to learn.

    Attributes:
        dataset: Images and labels.
        loaded: The float network.
        network: Its analysis.
        preprocessing: Name of the preprocessing.
    """

    dataset: Dataset
    loaded: LoadedModel
    network: Network
    preprocessing: str

    @property
    def model(self) -> keras.Model:
        """The float Keras model."""
        return self.loaded.model

    def batches(
        self, batch_size: int, seed: int, steps_per_epoch: int | None = None, augment: bool = True
    ) -> ImageBatches:
        """Training batches, augmented as is usual for this size of image."""
        side = min(self.network.input_shape[:2])
        # A mirrored digit is another sign.
        usual: Augmentation = (
            "crop" if self.dataset.name == "digits" else "crop_flip" if side < 96 else "imagenet"
        )
        return ImageBatches(
            self.dataset.train,
            min(batch_size, len(self.dataset.train)),
            image_shape=self.network.input_shape,
            preprocessing=self.preprocessing,
            seed=seed,
            # An image one pixel high is a sequence, which has a direction.
            augment=usual if augment and side > 1 else "none",
            steps_per_epoch=steps_per_epoch,
        )

    def calibration_images(self, count: int = CALIBRATION_IMAGES) -> np.ndarray:
        """A fixed random sample of the training images, preprocessed and not augmented.

        Returns:
            float32 (at most `count`, height, width, channels).
        """
        return sample_images(self.dataset.train, count, self.network.input_shape, self.preprocessing)


def load_task(
    model: str,
    data: str,
    *,
    data_dir: str | Path | None,
    weights: str | None,
    preprocessing: str | None,
    reporter: Reporter,
    name: str | None = None,
    classes: int | None = None,
) -> Task:
    """Load data and a float network for them.

    Args:
        model: Built-in name, `.keras` file or `MODULE:FUNCTION`.
        data: Data set.
        data_dir: Folder that is looked in first for data.
        weights: File of float weights, "none" or None.
        preprocessing: Name; None for what the network expects.
        reporter: Told what is left out or new.
        name: What the network is called; None for its own name.
        classes: Outputs of the network; None for the classes of the data.

    Raises:
        UsageError: A name is unknown, the two do not fit, or the data have one class only or a part without
            images.
        TfmpqError: A file is damaged, or the network has layers that cannot be quantized.
    """
    dataset = load_dataset(data, data_dir=data_dir, reporter=reporter)
    refuse_empty_parts(data, dataset)
    if dataset.classes < 2:
        raise UsageError(
            f"A classifier learns to tell classes apart. Received: {data} with {dataset.classes} class. "
            "Check its labels or sub-folders."
        )
    loaded = load_model(
        model,
        input_shape=image_shape(dataset),
        classes=classes or dataset.classes,
        weights=weights,
        skip_classifier=None,
    )
    loaded = replace(loaded, name=name or loaded.name)
    announce(loaded, weights, reporter)
    learned = begins_trained(model, weights) and not loaded.new_classifier
    chosen = choose_preprocessing(loaded, preprocessing, dataset, reporter, trained=learned, learns=True)
    network = analyse(loaded.model, input_signed=value_range(chosen)[0] < 0)
    return Task(dataset, loaded, network, chosen)


def refuse_empty_parts(data: str, dataset: Dataset) -> None:
    """Refuse data that lack images to learn from or to measure on, before any work.

    Raises:
        UsageError: They do.
    """
    for part in ("train", "test"):
        if not len(getattr(dataset, part)):
            raise UsageError(
                "A network is fitted to the training images of a data set and measured on its test images. "
                f"Received: {data}, whose {part} part is empty. Give data with both."
            )


def announce(loaded: LoadedModel, weights: str | None, reporter: Reporter) -> None:
    """Say what of a float network was left out, renamed or is new."""
    for note in loaded.notes:
        reporter.log(f"{loaded.name}: {note}")
    if loaded.stripped_softmax:
        reporter.log(f"{loaded.name}: the final softmax is left out; the network ends in logits.")
    if loaded.new_classifier:
        reporter.log(
            f"{weights}: made for another number of classes; the classifier starts from random weights."
        )


def begins_trained(model: str, weights: str | None) -> bool:
    """Whether a float network begins with weights that were learned: given ones, or those of a model file."""
    return weights not in (None, "none") or model.endswith(MODEL_FILES)


def is_trained(task: Task, model: str, weights: str | None, float_epochs: int) -> bool:
    """Whether the float network has learned its task, so that there is something to learn from it."""
    return float_epochs > 0 or (begins_trained(model, weights) and not task.loaded.new_classifier)


def image_shape(dataset: Dataset) -> tuple[int, int, int]:
    """(height, width, channels) of a network for these images."""
    array = dataset.train.array
    if array is None:
        return (IMAGENET_SIDE, IMAGENET_SIDE, 3)
    height, width, channels = array.shape[1:]
    return (int(height), int(width), int(channels))


def target_network(model: str, task: Task, side: int | None, classes: int | None) -> Network:
    """The network whose cost the budget counts: the proxy's, or the same topology as it will be deployed.

    Raises:
        UsageError: The two do not have the same layers.
    """
    if side is None and classes is None:
        return task.network
    shape = (side, side, task.network.input_shape[2]) if side else task.network.input_shape
    loaded = load_model(model, input_shape=shape, classes=classes or task.loaded.classes)
    network = analyse(loaded.model)
    names, found = ([node.name for node in n.weighted] for n in (task.network, network))
    if names != found:
        raise UsageError(
            "The deployed network has the layers of the searched one. Received: "
            f"{len(found)} layers instead of {len(names)} for {model} at {shape}. Use a built-in network."
        )
    return network
