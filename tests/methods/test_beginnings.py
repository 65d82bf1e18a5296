"""A search from random weights is alive: its gradients are like those of float training, and it learns."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
import pytest
from keras import layers

from tfmpq.graph.fusion import analyse
from tfmpq.methods import load_method
from tfmpq.methods.gradient import search_trainer
from tfmpq.models import load_model, model_names
from tfmpq.policy.budget import parse_budgets
from tfmpq.policy.network_cost import cost_model
from tfmpq.policy.search_space import activation_candidates, weight_candidates
from tfmpq.progress import SilentReporter
from tfmpq.quantization.batch_statistics import with_fitting_statistics
from tfmpq.quantization.insertion import quantize_model
from tfmpq.training.backend import value_and_gradient
from tfmpq.training.descent import Descent
from tfmpq.training.float_training import FloatTraining
from tfmpq.training.sharpness import global_norm

BATCH, CLASSES, RATE = 32, 4, 0.05
RANGE = (-1.0, 1.0)


def batches(side: int, steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images of four patterns under noise, which a network learns in some tens of steps."""
    generator = np.random.default_rng(0)
    patterns = generator.uniform(-1, 1, (CLASSES, side, side, 3))
    for _ in range(steps):
        labels = generator.integers(0, CLASSES, BATCH)
        noise = generator.uniform(-1, 1, (BATCH, side, side, 3))
        yield (0.7 * patterns[labels] + 0.3 * noise).astype("float32"), labels.astype("int32")


def random_network(seed: int) -> keras.Model:
    """Five convolutions of random widths and kinds, whose weights are far from any good scale."""
    generator = np.random.default_rng(seed)
    image = x = keras.Input((16, 16, 3), name="image")
    for i in range(5):
        scale = keras.initializers.VarianceScaling(10.0 ** generator.uniform(-3, 3), seed=i)
        strides = 2 if i in (1, 3) else 1
        if i and generator.random() < 0.4:
            x = layers.DepthwiseConv2D(
                3, strides, "same", use_bias=False, depthwise_initializer=scale, name=f"conv{i}"
            )(x)
        else:
            width = int(generator.integers(4, 17))
            x = layers.Conv2D(
                width, 3, strides, "same", use_bias=False, kernel_initializer=scale, name=f"conv{i}"
            )(x)
        x = layers.ReLU(name=f"relu{i}")(layers.BatchNormalization(momentum=0.9, name=f"bn{i}")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(CLASSES, name="logits")(x))


def built_in(name: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    return load_model(name, input_shape=(32, 32, 3), classes=CLASSES).model


def searched(model: keras.Model, steps: int, compiled: bool) -> list[tuple[float, float]]:
    """Loss and norm of the gradient of each step of a search with ASGA."""
    side = model.input_shape[1]
    calibration = next(batches(side, 1))[0]
    fitting = with_fitting_statistics(model, calibration, SilentReporter())
    network = analyse(fitting, True)
    costs, activations = cost_model(network), activation_candidates(network, (8,))
    weights = weight_candidates(network, (2, 4, 8))
    quantized = quantize_model(fitting, network, weights, activations, calibration, RANGE)
    trainer = search_trainer(
        quantized, costs, parse_budgets(["size=0.5x"], costs), (weights, activations),
        load_method("asga").sharpness, Descent(RATE, steps),
    )  # fmt: skip
    return _courses(trainer, batches(side, steps), compiled, "gradient_norm")


def trained_in_float(model: keras.Model, steps: int) -> list[float]:
    """Norm of the gradient of each step of float training."""
    trainer = FloatTraining(model.inputs[0], model.outputs[0])
    trainer.compile(optimizer=keras.optimizers.SGD(RATE, momentum=0.9, nesterov=True), jit_compile=False)
    norms = []
    for images, labels in batches(model.input_shape[1], steps):
        tensors = [keras.ops.convert_to_tensor(v.value) for v in trainer.trainable_variables]
        state = [keras.ops.convert_to_tensor(v.value) for v in trainer.non_trainable_variables]

        def loss(tensors, state=state, images=images, labels=labels):
            outputs, _ = trainer.stateless_call(list(tensors), list(state), images, training=True)
            return trainer.objective.loss(labels, outputs), ()

        norms.append(float(global_norm(value_and_gradient(loss, tensors)[1])))
        trainer.train_step((images, labels))
    return norms


def _courses(trainer, data, compiled: bool, norm: str) -> list[tuple[float, float]]:
    trainer.optimizer.build(trainer.trainable_variables)
    if compiled:
        trainer.make_train_function()
    step = (lambda batch: trainer.train_function(iter([batch]))) if compiled else trainer.train_step
    found = []
    for batch in data:
        metrics = step(batch)
        found.append((float(metrics["loss"]), float(metrics[norm])))
    return found


def assert_alike(course: list[tuple[float, float]], usual: list[float]) -> None:
    for step, ((_, norm), expected) in enumerate(zip(course, usual, strict=True)):
        assert expected / 100 < norm < expected * 100, f"step {step}: {norm} where float has {expected}"


@pytest.mark.parametrize("seed", range(3))
def test_gradients_of_random_networks_are_like_those_of_float_training(seed: int) -> None:
    model = random_network(seed)
    course = searched(model, 10, compiled=False)
    assert_alike(course, trained_in_float(model, 10))


TRANSFORMERS = ("vit_tiny", "deit_tiny", "vit_s16", "vit_b16", "vit_cifar", "convnext_tiny")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in model_names() if name not in TRANSFORMERS])
def test_gradients_of_built_in_networks_are_like_those_of_float_training_and_the_loss_falls(
    name: str,
) -> None:
    model = built_in(name)
    course = searched(model, 60, compiled=True)
    assert_alike(course[:10], trained_in_float(model, 10))
    losses = [loss for loss, _ in course]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
