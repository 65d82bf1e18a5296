"""What of data becomes a network's input: their shape, and how pixels are scaled."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np

from tfmpq.data.dataset import Dataset, Split
from tfmpq.data.preprocess import given, is_given
from tfmpq.errors import UsageError
from tfmpq.keras_internals import operation_of, readers_of
from tfmpq.models.registry import LoadedModel


def chosen_preprocessing(dataset: Dataset, loaded: LoadedModel, asked: str | None) -> str:
    """What is done with the pixels of these data: what is asked for, or what the network expects.

    A user's own arrays are model inputs already: nothing is done, and only their range has to be known.

    Raises:
        UsageError: The network was made for arrays that these data are not, or arrays that are no pixels
            should be scaled.
    """
    if loaded.takes_integers and asked not in (None, "none"):
        raise UsageError(
            f"A model of whole numbers takes pixels as they are. Received: the preprocessing {asked} for "
            f"{loaded.name}, which would cut off what it makes of them. Leave it out."
        )
    if dataset.seen is None:
        name = asked or loaded.preprocessing
        refuse_unknown_scaling(dataset, name)
        return name
    if asked is None or is_given(asked):
        return given(dataset.seen, pixels=_scales_pixels(loaded.model))
    array = dataset.test.array
    if array is not None and array.dtype != np.uint8:
        raise UsageError(
            f"A preprocessing is for pixels, uint8 of 0 to 255. Received: {asked} for {array.dtype}. Leave "
            "it out: arrays are taken as the model's inputs."
        )
    return asked


def refuse_unknown_scaling(dataset: Dataset, name: str) -> None:
    """Refuse pixels of a named data set for a network that was made with a user's own arrays.

    Raises:
        UsageError: It was.
    """
    if dataset.seen is None and is_given(name):
        raise UsageError(
            f"A network that was made with a user's own arrays gets such arrays. Received: {dataset.name}, "
            "and nobody knows how its pixels become inputs. Give arrays, or a preprocessing (--preprocess)."
        )


def _scales_pixels(model: keras.Model) -> bool:
    """Whether a model begins by scaling its inputs itself."""
    readers = readers_of(operation_of(model.inputs[0]))
    return bool(readers) and all(type(reader) is keras.layers.Rescaling for reader in readers)


def fitted(dataset: Dataset, shape: tuple[int, int, int]) -> Dataset:
    """Arrays in the shape of the network's images, which they have but for axes of length one.

    Pixels of another size stay as they are, to be resized.

    Raises:
        UsageError: They are of another shape.
    """
    array = dataset.test.array
    if array is None or array.shape[1:] == shape:
        return dataset
    other = [size for size in array.shape[1:] if size > 1] != [size for size in shape if size > 1]
    if other and dataset.seen is None:
        return dataset
    if other:
        raise UsageError(
            f"Arrays are the model's inputs as they are. Received: images {array.shape[1:]} for a model that "
            f"takes {shape}. Resize them in the data's own pipeline, or build the model for them."
        )
    train, test = (
        Split(part.labels, None if part.array is None else part.array.reshape(-1, *shape))
        for part in (dataset.train, dataset.test)
    )
    return replace(dataset, train=train, test=test)
