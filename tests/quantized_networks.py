"""Small networks, random weights and images that the tests of several rooms share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfmpq.graph.fusion import analyse
from tfmpq.graph.network import Network
from tfmpq.policy.expected_cost import ExpectedCost
from tfmpq.policy.network_cost import cost_model
from tfmpq.quantization.insertion import quantize_model
from tfmpq.quantizers.choices import quantize_wrappers
from tfmpq.training.step import BudgetTerm, Distillation, QuantizedTraining, SharpnessOptions

SHAPE = (8, 8, 3)
CLASSES = 4


def residual_network(dropout: float = 0.0) -> keras.Model:
    """Every kind of fused node with weights, a residual sum and a pooling; 5 weighted layers."""
    image = keras.Input(SHAPE, name="image")
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = skip = layers.ReLU(name="stem_relu")(x)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="dw")(x)
    x = layers.BatchNormalization(name="dw_bn")(x)
    x = layers.ReLU(6.0, name="dw_relu")(x)
    x = layers.Conv2D(6, 1, name="pw")(x)
    x = layers.Add(name="add")([skip, x])
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = layers.Conv2D(5, 3, strides=2, padding="valid", name="down", activation="relu")(x)
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    return keras.Model(image, layers.Dense(CLASSES, name="logits")(x), name="residual")


def grouped_network() -> keras.Model:
    """Groups, a depth multiplier and transposed convolutions, with a bias or BatchNorm before the ReLU."""
    image = keras.Input((8, 8, 4), name="image")
    x = layers.Conv2D(8, 3, groups=2, padding="same", name="grouped")(image)
    x = layers.ReLU(name="grouped_relu")(x)
    x = layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2, use_bias=False, name="multiplied")(x)
    x = layers.BatchNormalization(name="multiplied_bn")(x)
    x = layers.ReLU(name="multiplied_relu")(x)
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", name="up")(x)
    x = layers.ReLU(name="up_relu")(x)
    x = layers.Conv2DTranspose(5, (2, 3), strides=(3, 2), use_bias=False, name="sparse")(x)
    x = layers.BatchNormalization(name="sparse_bn")(x)
    x = layers.ReLU(name="sparse_relu")(x)
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return keras.Model(image, layers.Dense(4, name="logits")(x), name="grouped_network")


def randomise(model: keras.Model, seed: int) -> keras.Model:
    """Random weights; BatchNorm with factors of both signs and one channel that is switched off."""
    generator = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.moving_mean.shape[0]
            gamma = generator.uniform(0.5, 1.5, size) * generator.choice([-1.0, 1.0], size)
            gamma[0] = 0.0
            affine = [gamma] * layer.scale + [generator.normal(0.3, 0.5, size)] * layer.center
            layer.set_weights([*affine, generator.normal(0, 0.3, size), generator.uniform(0.2, 2.0, size)])
        elif layer.weights:
            layer.set_weights([w + generator.normal(0, 0.1, w.shape) for w in layer.get_weights()])
    return model


@dataclass(frozen=True)
class Searchable:
    """A float network, its analysis, the quantized one and what it was calibrated with."""

    model: keras.Model
    network: Network
    quantized: keras.Model
    images: np.ndarray
    labels: np.ndarray


def images_of(count: int, seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, *shape)).astype("float32")


def quantize(
    model: keras.Model, weight_bits: Sequence[int], activation_bits: Sequence[int], images: np.ndarray
) -> tuple[Network, keras.Model]:
    network = analyse(model)
    weights = {node.name: tuple(weight_bits) for node in network.weighted}
    activations = {name: tuple(activation_bits) for name in network.tensors}
    activations[network.tensors[0]] = (8,)  # the image is not part of a search
    return network, quantize_model(model, network, weights, activations, images, (-1.0, 1.0))


@pytest.fixture(scope="session")
def searchable() -> Callable[..., Searchable]:
    """Makes a quantized residual network; the same arguments give the same weights."""

    def make(
        weight_bits: Sequence[int] = (2, 4, 8),
        activation_bits: Sequence[int] = (4, 8),
        *,
        dropout: float = 0.0,
        seed: int = 0,
        build: Callable[[], keras.Model] | None = None,
    ) -> Searchable:
        keras.utils.set_random_seed(seed)
        model = randomise(build() if build else residual_network(dropout), seed)
        images = images_of(16, seed, model.input_shape[1:])
        network, quantized = quantize(model, weight_bits, activation_bits, images)
        labels = np.random.default_rng(seed).integers(0, CLASSES, len(images)).astype("int32")
        return Searchable(model, network, quantized, images, labels)

    return make


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Keras computes in double precision while the test runs."""
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


# -- one training step ---------------------------------------------------------------------------------------

TRAINED_BITS = (2, 4, 8)


@dataclass
class Trainer:
    """A configured training model with a batch."""

    model: QuantizedTraining
    made: Any

    def update(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, float]]:
        """Gradients and new state by path, and metrics, of one step from the present variables."""
        trainable, state = self.tensors()
        gradients, new, metrics = self.model.compute_update(
            trainable, state, ops.convert_to_tensor(self.made.images), ops.convert_to_tensor(self.made.labels)
        )
        return (
            {v.path: np.asarray(g) for v, g in zip(self.model.trainable_variables, gradients, strict=True)},
            {
                short(v.path): np.asarray(s)
                for v, s in zip(self.model.non_trainable_variables, new, strict=True)
            },
            {name: float(value) for name, value in metrics.items()},
        )

    def tensors(self) -> tuple[list[Any], list[Any]]:
        model = self.model
        return [
            [ops.convert_to_tensor(v.value) for v in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        ]

    def wrapper(self, name: str) -> Any:
        return self.made.quantized.get_layer(name)


def short(path: str) -> str:
    """Names of the model's own state without the model's name, which Keras numbers."""
    return path.split("/")[-1] if path.startswith("quantized_training") else path


@pytest.fixture
def trainer(searchable) -> Callable[..., Trainer]:
    def make(
        options: SharpnessOptions | None = None,
        *,
        limits: dict[str, float] | None = None,
        rate: float = 0.1,
        distillation: bool = False,
        share: float = 0.5,
        **network: Any,
    ) -> Trainer:
        made = searchable(TRAINED_BITS, (4, 8), **network)
        for i, wrapper in enumerate(quantize_wrappers(made.quantized)):
            for variables in (wrapper.weight_variables, wrapper.output_variables):
                if "bit_logits" in variables:
                    size = variables["bit_logits"].shape[0]
                    generator = np.random.default_rng(i)
                    variables["bit_logits"].assign(generator.normal(0, 0.5, size))
                    steps = variables["log_step"]
                    # A fitted step may put the largest weight on the very edge of clipping.
                    steps.assign(steps.numpy() + generator.uniform(-0.2, -0.1, steps.shape))
        model = QuantizedTraining(made.quantized.inputs[0], made.quantized.outputs[0])
        budget = None
        if limits:
            weights = {node.name: TRAINED_BITS for node in made.network.weighted}
            activations = {name: (4, 8) for name in made.network.tensors} | {"image": (8,)}
            expected = ExpectedCost(cost_model(made.network), weights, activations)
            budget = BudgetTerm(expected, limits, rate)
        model.configure(options, budget, Distillation(made.model, share) if distillation else None)
        return Trainer(model, made)

    return make
