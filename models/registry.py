"""Which networks there are by name, and how any network specification becomes a model that ends in logits."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tfmpq.errors import TfmpqError, UsageError
from tfmpq.models.soundness import refuse_quantized, refuse_unfinite

if TYPE_CHECKING:
    import keras

    from tfmpq.models.preprocessing import Expected


@dataclass(frozen=True, slots=True)
class _Network:
    module: str
    preprocessing: str
    composite: bool = False  # whether its layers have to be lowered


# The function that builds a network has the network's name.
_NETWORKS = {
    "resnet8": _Network("resnet_cifar", "none"),
    "resnet20": _Network("resnet_cifar", "torch"),
    "resnet20_projection": _Network("resnet_cifar", "torch"),
    "resnet18": _Network("resnet", "torch"),
    "resnet50": _Network("resnet", "torch"),
    "mobilenet_v2": _Network("mobilenet", "tf"),
    "vgg16": _Network("vgg", "torch"),
    "vit_tiny": _Network("vit", "tf", composite=True),
    "deit_tiny": _Network("vit", "torch", composite=True),
    "vit_s16": _Network("vit", "tf", composite=True),
    "vit_b16": _Network("vit", "tf", composite=True),
    "vit_cifar": _Network("vit", "torch", composite=True),
    "convnext_tiny": _Network("vit", "torch", composite=True),
}

IMAGENET_CLASSES = 1000
"""Classes of a network that is built for no data."""

PUBLISHED_WEIGHTS = "imagenet"
"""What stands for the weights that Keras publishes, in the place of a file."""

MODEL_FILES = (".keras", ".h5", ".hdf5")
"""Endings of files that hold a whole model, weights included; a SavedModel is a folder."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A network ready for the toolchain.

    Attributes:
        model: Functional Keras model, float32 image batch (N, H, W, C) in, logits (N, classes) out.
        name: Registry name, stem of the file, or name of the function.
        preprocessing: Name of the preprocessing its weights expect (see `tfmpq.data.preprocess`).
        classes: Number of logits; of several outputs, the last axis of the first.
        softmax: For each output, whether a final softmax was taken off.
        new_classifier: Whether the classifier was left out of the weights that were loaded.
        expectation: Why the preprocessing is expected; None for built-in networks.
        source: The user's own model, which the network was made of and held against; None for built-in ones.
        notes: What to know of how the network was taken in, one line each.
        takes_integers: Whether the user's model takes whole numbers, so that pixels cannot be scaled before.
    """

    model: keras.Model
    name: str
    preprocessing: str
    classes: int
    softmax: tuple[bool, ...] = (False,)
    new_classifier: bool = False
    expectation: Expected | None = None
    source: keras.Model | None = None
    notes: tuple[str, ...] = ()
    takes_integers: bool = False

    @property
    def stripped_softmax(self) -> bool:
        """Whether a final softmax was taken off."""
        return any(self.softmax)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) that the model takes."""
        height, width, channels = self.model.inputs[0].shape[1:]
        return height, width, channels


def model_names() -> tuple[str, ...]:
    """Names of the built-in networks."""
    return tuple(_NETWORKS)


def is_model_file(spec: str) -> bool:
    """Whether a specification names a file, or the folder of a SavedModel, that holds a whole model."""
    return spec.endswith(MODEL_FILES) or (Path(spec) / "saved_model.pb").is_file()


def is_users_code(spec: str) -> bool:
    """Whether a specification is neither a built-in name nor a file, so that loading it imports code."""
    return spec not in _NETWORKS and not is_model_file(spec)


def display_name(spec: str) -> str:
    """Short name of a network: registry name, stem of the file, or name of the function."""
    return Path(spec).stem if is_model_file(spec) else spec.rpartition(":")[2]


def load_model(
    spec: str,
    *,
    input_shape: tuple[int, int, int],
    classes: int,
    weights: str | Path | None = None,
    skip_classifier: bool | None = False,
    several_outputs: bool = False,
) -> LoadedModel:
    """Build or load a network that ends in logits.

    Args:
        spec: Name of a built-in network, path of a `.keras` or `.h5` file, or `MODULE:FUNCTION`, which
            imports and calls code of the user's with `input_shape`, `classes`, `weights=None` and
            `classifier_activation=None` as far as its signature takes them.
        input_shape: (height, width, channels). A model from a file keeps its own.
        classes: Number of classes. A model from a file keeps its own number, which may be larger. With 0 any
            number will do; models that are built have 1,000 then.
        weights: File for `load_weights`, or "imagenet" for those that Keras publishes; None (or "none") keeps
            what the model has.
        skip_classifier: Keep the initial classifier when loading `weights`; None does so if they are for
            another number of classes.
        several_outputs: Whether to take models with outputs of any number and shape, whatever `classes` is.

    Raises:
        UsageError: The specification names nothing, or the model does not fit.
        TfmpqError: A file cannot be read, or the user's function fails.
    """
    loaded = _load(spec, input_shape, classes, several_outputs)
    if spec in _NETWORKS and _NETWORKS[spec].composite:
        loaded = _lowered(loaded)  # before its weights, which have the names of the layers that layers hold
    if str(weights) == PUBLISHED_WEIGHTS:
        loaded = _with_published(spec, loaded, skip_classifier)
    elif weights is not None and str(weights) != "none":
        loaded = _with_weights(loaded, weights, skip_classifier)
    refuse_unfinite(loaded.model, loaded.name)
    # Behind the weights, which are for the layers that the user's model has.
    return loaded if spec in _NETWORKS else _lowered(loaded)


def _lowered(loaded: LoadedModel) -> LoadedModel:
    """The network of layers that can be deployed, held against the user's model."""
    from tfmpq.graph.equivalence import lowered

    notes: list[str] = []
    model = lowered(loaded.model, loaded.source, loaded.softmax, notes.append)
    return replace(loaded, model=model, notes=(*loaded.notes, *notes))


def _with_published(spec: str, loaded: LoadedModel, skip_classifier: bool | None) -> LoadedModel:
    from tfmpq.models.published import published_arrays
    from tfmpq.models.weights import take_weights

    layers = published_arrays(spec)
    origin = f"published weights of {loaded.name}"
    skipped = take_weights(loaded.model, origin, layers, skip_classifier=skip_classifier)
    # Keras trained VGG-16 on other inputs than torchvision did.
    preprocessing = "caffe" if spec == "vgg16" else loaded.preprocessing
    return replace(loaded, new_classifier=skipped, preprocessing=preprocessing)


def _with_weights(loaded: LoadedModel, weights: str | Path, skip_classifier: bool | None) -> LoadedModel:
    from tfmpq.models.weights import load_weights

    try:
        skipped = load_weights(loaded.model, weights, skip_classifier=skip_classifier)
    except TfmpqError as error:
        # Files of this toolchain hold the layers that the user's became.
        loaded = replace(_lowered(loaded), source=None)
        try:
            skipped = load_weights(loaded.model, weights, skip_classifier=skip_classifier)
        except TfmpqError:
            raise error from None
    if (source := loaded.source) is not None:
        for layer in loaded.model.layers:
            own = source.get_layer(layer.name)
            if own is not layer and layer.weights:  # the copy of a layer with a softmax in it
                own.set_weights(layer.get_weights())
    return replace(loaded, new_classifier=skipped)


def _load(spec: str, input_shape: tuple[int, int, int], classes: int, several_outputs: bool) -> LoadedModel:
    if spec in _NETWORKS:
        number = classes or IMAGENET_CLASSES
        network = _build(spec, input_shape, number)
        return LoadedModel(network, spec, _NETWORKS[spec].preprocessing, number)
    if is_model_file(spec):
        from tfmpq.models.model_files import read_model

        name, made = display_name(spec), read_model(Path(spec))
        return _adopt(made, name, input_shape, classes, several_outputs, exact=False)
    if ":" in spec:
        from tfmpq.models.user import call_function

        made = call_function(spec, input_shape, classes or IMAGENET_CLASSES)
        return _adopt(made, display_name(spec), input_shape, classes, several_outputs, exact=True)
    near = difflib.get_close_matches(spec, _NETWORKS, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Choose one of {', '.join(_NETWORKS)}."
    raise UsageError(
        f"A model is a built-in name, a {' or '.join(MODEL_FILES)} file, the folder of a Keras 2 SavedModel, "
        f"or MODULE:FUNCTION. Received: {spec}. {hint}"
    )


def _adopt(
    model: keras.Model,
    name: str,
    input_shape: tuple[int, int, int],
    classes: int,
    several_outputs: bool,
    *,
    exact: bool,
) -> LoadedModel:
    from tfmpq.models.preprocessing import expected
    from tfmpq.models.user import as_classifier

    refuse_quantized(model, name)
    source, model, softmax = as_classifier(model, input_shape, several_outputs)
    found = int(model.outputs[0].shape[-1])
    wrong = found < classes or (exact and classes not in (0, found))
    # A single number tells two classes apart, or is a value; the task says whether it fits the labels.
    if not several_outputs and found != 1 and wrong:
        raise UsageError(
            f"A model needs one output per class of the data. Received: {name} with {found} outputs for "
            f"{classes} classes. Choose a model with {classes} classes or other data."
        )
    integers = "int" in str(model.inputs[0].dtype)
    known = _built_in(model)
    expectation = None if known or integers else expected(source)
    preprocessing = (
        expectation.name if expectation else _NETWORKS[model.name].preprocessing if known else "none"
    )
    return LoadedModel(
        model,
        name,
        preprocessing,
        found,
        softmax,
        expectation=expectation,
        source=source,
        takes_integers=integers,
    )


def _built_in(model: keras.Model) -> bool:
    """Whether a model from a file is a built-in network: by its name, and by every layer."""
    if model.name not in _NETWORKS or model.inputs[0].name != "image":
        return False
    _, height, width, channels = model.inputs[0].shape
    built = _build(model.name, (height, width, channels), int(model.outputs[0].shape[-1]))
    if _NETWORKS[model.name].composite:
        built = _lowered(LoadedModel(built, model.name, "none", 0)).model
    pairs = zip(built.layers, model.layers, strict=False)
    return len(built.layers) == len(model.layers) and all(
        type(one) is type(other) and one.name == other.name for one, other in pairs
    )


def _build(name: str, shape: tuple[int, int, int], classes: int) -> keras.Model:
    build = getattr(importlib.import_module(f"tfmpq.models.{_NETWORKS[name].module}"), name)
    made: keras.Model = build(tuple(shape), classes)
    return made
