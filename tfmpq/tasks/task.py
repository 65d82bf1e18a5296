"""What every stage begins with: data, a float network that fits them, and how pixels become inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import keras
import numpy as np

from tfmpq.data import Dataset, ImageBatches, Split
from tfmpq.data.batches import Augmentation
from tfmpq.data.preprocess import value_range
from tfmpq.errors import UsageError
from tfmpq.graph.fusion import analyse
from tfmpq.graph.network import Network
from tfmpq.models.registry import LoadedModel, is_model_file, load_model
from tfmpq.progress import Reporter
from tfmpq.tasks.fitting import chosen_preprocessing, fitted
from tfmpq.tasks.kinds import objective_for
from tfmpq.tasks.model_outputs import outputs_of
from tfmpq.tasks.noise import random_dataset
from tfmpq.tasks.objective import CLASSES, Objective
from tfmpq.tasks.preprocessing_choice import check_choice
from tfmpq.tasks.sampling import sample

IMAGENET_SIDE = 224
"""Side to which data sets of encoded photographs are brought."""

CALIBRATION_IMAGES = 256
_ANSWERED = 64


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A float network and the data that it is for.

    Attributes:
        dataset: Images, and labels if there are any.
        loaded: The float network.
        network: Its analysis.
        preprocessing: Name of the preprocessing.
        begins_trained: Whether its weights were learned, though perhaps for other classes.
        objective: What it is trained for.
        scored_by: The same for the labels of the test images.
    """

    dataset: Dataset
    loaded: LoadedModel
    network: Network
    preprocessing: str
    begins_trained: bool
    objective: Objective = CLASSES
    scored_by: Objective = CLASSES

    @property
    def model(self) -> keras.Model:
        """The float Keras model."""
        return self.loaded.model

    @property
    def is_trained(self) -> bool:
        """Whether the network has learned this task, so that there is something to learn from it."""
        return self.begins_trained and not self.loaded.new_classifier

    def batches(
        self, batch_size: int, seed: int, steps_per_epoch: int | None = None, augment: bool = True
    ) -> ImageBatches:
        """Training batches, augmented as is usual for this size; a user's own arrays stay as they are."""
        side = min(self.network.input_shape[:2])
        # A mirrored digit is another sign.
        usual: Augmentation = (
            "crop" if self.dataset.name == "digits" else "crop_flip" if side < 96 else "imagenet"
        )
        # An image one pixel high is a sequence, which has a direction. Maps and boxes would have to follow.
        augmented = augment and side > 1 and self.dataset.seen is None and not self.dataset.numeric
        return ImageBatches(
            self.dataset.train,
            min(batch_size, len(self.dataset.train)),
            image_shape=self.network.input_shape,
            preprocessing=self.preprocessing,
            seed=seed,
            augment=usual if augmented else "none",
            steps_per_epoch=steps_per_epoch,
        )

    def calibration_images(self, count: int = CALIBRATION_IMAGES) -> np.ndarray:
        """Training images, drawn at random with a fixed seed, preprocessed and not augmented.

        Returns:
            float32 (at most `count`, height, width, channels).
        """
        return sample(self.dataset.train, count, self.network.input_shape, self.preprocessing)[0]

    def test_images(self, count: int) -> np.ndarray:
        """Test images, drawn in the same way: float32 (at most `count`, height, width, channels)."""
        return self.test_sample(count)[0]

    def test_sample(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The images of `test_images` with their labels, int32 (N,)."""
        return sample(self.dataset.test, count, self.network.input_shape, self.preprocessing)


def load_task(
    model: str,
    dataset: Dataset | None,
    *,
    weights: str | None = None,
    preprocessing: str | None = None,
    reporter: Reporter,
    name: str | None = None,
    classes: int | None = None,
    trains: bool = True,
    dynamic: bool = False,
) -> Task:
    """Load a float network for data.

    Args:
        model: Built-in name, `.keras` file or `MODULE:FUNCTION`.
        dataset: The data; None for images of noise.
        weights: File of float weights, "none" or None.
        preprocessing: Name; None for what the network expects. A user's own arrays stay as they are.
        reporter: Told what is left out or new.
        name: What the network is called; None for its own name.
        classes: Outputs of the network; None for the classes of the data.
        trains: Whether labels are learned: data without labels get the answers of the float network. Else
            the network may have several outputs.
        dynamic: Whether activations are float.

    Raises:
        UsageError: A name is unknown, the two do not fit, or the data have one class only or a part without
            images.
        TfmpqError: A file is damaged, or the network has layers that cannot be quantized.
    """
    if dataset is not None:
        _refuse_unusable(dataset, trains)
    loaded = load_model(
        model,
        input_shape=image_shape(dataset) if dataset else (IMAGENET_SIDE, IMAGENET_SIDE, 3),
        classes=classes or (_numbers_wanted(dataset) if dataset else 0),
        weights=weights,
        skip_classifier=None,
        several_outputs=not trains,
    )
    loaded = replace(loaded, name=name or loaded.name)
    _announce(loaded, weights, reporter)
    learned, noise = begins_trained(model, weights), dataset is None
    dataset = fitted(dataset, loaded.input_shape) if dataset else random_dataset(loaded.input_shape)
    chosen = chosen_preprocessing(dataset, loaded, preprocessing)
    network = fused(loaded.model, chosen, dynamic)
    if preprocessing is None and dataset.seen is None:
        knows = learned and not loaded.new_classifier and not noise
        check_choice(loaded, dataset if knows else None, reporter, learns=trains)
    task = Task(dataset, loaded, network, chosen, learned)
    if not trains:
        return task
    return with_objective(task) if dataset.labelled else _with_answers(task, reporter)


def with_objective(task: Task, answers: bool = False) -> Task:
    """The task with what labels and network make of it.

    Args:
        task: A task with labels.
        answers: Whether they are what its float network gives.

    Raises:
        UsageError: The labels do not fit the network.
    """
    output, data = outputs_of(task.model)[0], task.dataset
    trained_for, scored_by = (
        objective_for(output, part.labels, data.classes, answers) for part in (data.train, data.test)
    )
    return replace(task, objective=trained_for, scored_by=scored_by)


def _numbers_wanted(dataset: Dataset) -> int:
    """How many numbers a network gives at the end for such labels."""
    shape = dataset.test.labels.shape
    return dataset.classes if not dataset.numeric else shape[-1] if len(shape) > 1 else 1


def fused(model: keras.Model, preprocessing: str, dynamic: bool = False) -> Network:
    """The analysis of a model, float or quantized, for inputs of a preprocessing.

    Args:
        model: Functional model.
        preprocessing: Name of the preprocessing.
        dynamic: Whether activations are float.

    Raises:
        TfmpqError: It has layers that cannot be quantized.
    """
    return analyse(model, value_range(preprocessing)[0] < 0, dynamic)


def _refuse_unusable(dataset: Dataset, trains: bool) -> None:
    """Refuse data that lack images to learn from or to measure on, or classes to tell apart."""
    for part in ("train", "test"):
        if not len(getattr(dataset, part)):
            raise UsageError(
                "A network is fitted to the training images of a data set and measured on its test images. "
                f"Received: {dataset.name}, whose {part} part is empty. Give data with both."
            )
    if trains and dataset.classes == 1:
        raise UsageError(
            f"A classifier learns to tell classes apart. Received: {dataset.name} with 1 class. "
            "Check its labels or sub-folders."
        )


def _with_answers(task: Task, reporter: Reporter) -> Task:
    """A task whose labels are the answers of its trained float network.

    Raises:
        UsageError: It is not trained.
    """
    if not task.is_trained:
        raise UsageError(
            "Without labels a network learns from a trained one. Received: images alone, and a network "
            "without trained weights. Give labels or weights."
        )
    chooses = task.loaded.stripped_softmax or task.loaded.source is None
    reporter.log(
        "The data have no labels: the float network's own "
        f"{'classes' if chooses else 'outputs, as they are,'} stand for them."
    )
    train, test = (_answered(task, part, chooses) for part in (task.dataset.train, task.dataset.test))
    dataset = replace(task.dataset, classes=task.loaded.classes if chooses else 0, train=train, test=test)
    return with_objective(replace(task, dataset=dataset), answers=True)


def _answered(task: Task, split: Split, chooses: bool) -> Split:
    """Images with the float network's answers: its classes, or its outputs as they are."""
    batches = ImageBatches(
        split,
        _ANSWERED,
        image_shape=task.network.input_shape,
        preprocessing=task.preprocessing,
        shuffle=False,
        drop_remainder=False,
    )
    found = (
        np.asarray(task.model.predict_on_batch(batches.batch(0, index)[0]))
        for index in range(batches.steps_per_pass)
    )
    if chooses:
        return replace(split, labels=np.concatenate([x.argmax(-1) for x in found]).astype(np.int64))
    return replace(split, labels=np.concatenate(list(found)).astype(np.float32))


def _announce(loaded: LoadedModel, weights: str | None, reporter: Reporter) -> None:
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
    return weights not in (None, "none") or is_model_file(model)


def image_shape(dataset: Dataset) -> tuple[int, int, int]:
    """(height, width, channels) of a network for these images."""
    array = dataset.test.array
    if array is None:
        side = dataset.side or IMAGENET_SIDE
        return (side, side, 3)
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
    network = fused(loaded.model, task.preprocessing, task.network.dynamic)
    names, found = ([node.name for node in n.weighted] for n in (task.network, network))
    if names != found:
        raise UsageError(
            "The deployed network has the layers of the searched one. Received: "
            f"{len(found)} layers instead of {len(names)} for {model} at {shape}. Use a built-in network."
        )
    return network
