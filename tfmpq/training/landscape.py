"""The loss around a quantized model, and the largest eigenvalue of its Hessian.

What is measured is the network as it is deployed: one bit-width in every quantizer, BatchNorm with its moving
statistics. Its loss L(d) is the mean loss of the task on training images, not augmented, as a function of a
perturbation d that is added to the *quantized* kernels, the biases and BatchNorm's affine parameters: the
ball of the search. Gaps are differences of that loss, activations really rounded.

Rounding has no second derivative, so the Hessian is that of the straight-through loss: every activation
quantizer Q is taken as clip(x) + r, with its rounding error r = Q(x) - clip(x) at d = 0 held constant. There
this function has the value of L and the gradient that training uses, and its Hessian exists and is symmetric.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmpq.quantizers.choices import quantize_wrappers
from tfmpq.quantizers.learned_step import twice_differentiable
from tfmpq.quantizers.wrapper import perturbed_kernels
from tfmpq.tasks.objective import CLASSES, Objective
from tfmpq.training.backend import compiled, value_and_gradient
from tfmpq.training.variables import AFFINE, positions

TOLERANCE = 1e-4
"""Relative change of the estimate, twice in a row, at which the iteration ends."""

FEWEST_ITERATIONS, MOST_ITERATIONS = 10, 100
"""Bounds: at first the estimate may rest at a smaller eigenvalue, whose vector the random one resembles."""


@dataclass(frozen=True, slots=True)
class Eigenvalue:
    """What power iteration found.

    Attributes:
        value: The eigenvalue, a lower bound of the largest one up to rounding.
        iterations: Products that were taken.
        residual: ||H v - value v|| / |value| of the unit vector v that was found; how far v is from an
            eigenvector; for a value of 0 in units of the largest magnitude instead. Where eigenvalues lie
            close together it stays large while `value` is right.
    """

    value: float
    iterations: int
    residual: float


def top_eigenvalue(product: Callable[[np.ndarray], np.ndarray], size: int, seed: int = 0) -> Eigenvalue:
    """Power iteration from a random vector.

    It finds the eigenvalue of largest magnitude. Should that one be negative, the matrix is shifted by it,
    which leaves the largest one on top, and the iteration is repeated.

    Args:
        product: Maps a float64 vector (size,) to its product with the matrix.
        size: Size of the matrix.
        seed: Of the first vector.
    """
    first = _iterate(product, size, seed)
    if first.value >= 0:
        return first
    shift = first.value
    second = _iterate(lambda vector: product(vector) - shift * vector, size, seed)
    value = second.value + shift
    distance = second.residual * second.value
    residual = distance / (abs(value) or abs(shift))
    return Eigenvalue(value, first.iterations + second.iterations, residual)


def _iterate(product: Callable[[np.ndarray], np.ndarray], size: int, seed: int) -> Eigenvalue:
    vector = np.random.default_rng(seed).normal(size=size)
    vector /= np.linalg.norm(vector)
    before, settled = np.inf, 0
    for count in itertools.count(1):
        image = product(vector)
        value, length = float(vector @ image), float(np.linalg.norm(image))
        settled = settled + 1 if abs(value - before) <= TOLERANCE * abs(value) else 0
        found = settled >= 2 and count >= FEWEST_ITERATIONS
        if length == 0.0 or found or count == MOST_ITERATIONS:
            break
        before, vector = value, image / length
    distance = float(np.linalg.norm(image - value * vector))
    return Eigenvalue(value, count, distance / (abs(value) or length or 1.0))


BATCH = 64
"""Images that are held at once."""


class Landscape:
    """The loss around a quantized model, as a function of one flat perturbation (see the head of the file).

    Args:
        model: Functional quantized model.
        images: (N, height, width, channels) float32.
        labels: (N,) integers.
        objective: What the network is trained for.

    Attributes:
        size: Number of perturbed values: all quantized kernels, then biases and BatchNorm's affine.
    """

    def __init__(
        self, model: keras.Model, images: np.ndarray, labels: np.ndarray, objective: Objective = CLASSES
    ) -> None:
        self._model, self._objective = model, objective
        self._names = [w.name for w in quantize_wrappers(model) if w.weight_quantizer is not None]
        self._affine = positions(model.trainable_variables, AFFINE)
        shapes = [model.get_layer(name).layer.kernel.shape for name in self._names]
        shapes += [model.trainable_variables[i].shape for i in self._affine]
        self._shapes = [tuple(shape) for shape in shapes]
        self.size = sum(int(np.prod(shape)) for shape in self._shapes)
        cuts = range(BATCH, len(labels), BATCH)
        self._batches = list(zip(np.split(images, cuts), np.split(labels, cuts), strict=True))
        self._count = len(labels)
        self._loss = compiled(self._batch_loss)
        self._slope = compiled(self._batch_gradient)
        self._product = compiled(self._batch_product)

    def loss(self, point: np.ndarray) -> float:
        """Loss at a perturbation (size,)."""
        return self._mean(lambda *batch: float(self._loss(self._tensors(point), *batch)))

    def loss_and_gradient(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        """Loss and straight-through gradient (size,) at a perturbation (size,)."""

        def both(*batch: Any) -> np.ndarray:
            value, gradients = self._slope(self._tensors(point), *batch)
            return np.append(_flat(gradients), float(value))

        result = self._mean(both)
        return float(result[-1]), result[:-1]

    def hessian_product(self, vector: np.ndarray) -> np.ndarray:
        """The straight-through loss's Hessian at no perturbation, times a vector (size,)."""
        vectors = self._tensors(vector)
        return self._mean(lambda *batch: _flat(self._product(vectors, *batch)))

    def _mean(self, function: Any) -> Any:
        """Mean of a function of batches over all images."""
        values = [function(images, labels) * (len(labels) / self._count) for images, labels in self._batches]
        return sum(values)

    def _tensors(self, flat: np.ndarray) -> list[Any]:
        parts = np.split(flat.astype(np.float32), np.cumsum([int(np.prod(s)) for s in self._shapes])[:-1])
        return [ops.convert_to_tensor(p.reshape(s)) for p, s in zip(parts, self._shapes, strict=True)]

    def _batch_loss(self, deltas: Sequence[Any], images: Any, labels: Any) -> Any:
        kernels = dict(zip(self._names, deltas, strict=False))
        trainable = [ops.convert_to_tensor(v) for v in self._model.trainable_variables]
        state = [ops.convert_to_tensor(v) for v in self._model.non_trainable_variables]
        for position, delta in zip(self._affine, deltas[len(self._names) :], strict=True):
            trainable[position] = trainable[position] + delta
        with perturbed_kernels(kernels), twice_differentiable():
            outputs, _ = self._model.stateless_call(trainable, state, images, training=False)
        return self._objective.loss(labels, ops.cast(outputs, "float32"))

    def _batch_gradient(self, deltas: Sequence[Any], images: Any, labels: Any) -> tuple[Any, list[Any]]:
        (loss, _), gradients = value_and_gradient(
            lambda tensors: (self._batch_loss(tensors, images, labels), ()), deltas
        )
        return loss, gradients

    def _batch_product(self, vectors: Sequence[Any], images: Any, labels: Any) -> list[Any]:
        """Gradient of <gradient, vectors> at no perturbation."""

        def along(tensors: Sequence[Any]) -> tuple[Any, tuple[()]]:
            _, gradients = self._batch_gradient(tensors, images, labels)
            return sum(ops.sum(g * v) for g, v in zip(gradients, vectors, strict=True)), ()

        return value_and_gradient(along, [ops.zeros_like(v) for v in vectors])[1]


def _flat(tensors: Sequence[Any]) -> np.ndarray:
    return np.concatenate([np.asarray(ops.convert_to_numpy(t), np.float64).ravel() for t in tensors])
