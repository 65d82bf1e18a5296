"""How sharp the minimum is that a run has found: surrogate gaps at several radii, and the top eigenvalue.

What is measured is the network as it is deployed: one bit-width in every quantizer, BatchNorm with its moving
statistics. Its loss L(d) is the mean cross-entropy on training images, not augmented, as a function of a
perturbation d that is added to the *quantized* kernels, the biases and BatchNorm's affine parameters: the
ball of the search. Gaps are differences of that loss, activations really rounded.

Rounding has no second derivative, so the Hessian is that of the straight-through loss: every activation
quantizer Q is taken as clip(x) + r, with its rounding error r = Q(x) - clip(x) at d = 0 held constant. There
this function has the value of L and the gradient that training uses, and its Hessian exists and is symmetric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmpq.data import ImageBatches, Split, load_dataset
from tfmpq.errors import UsageError
from tfmpq.files import read_json
from tfmpq.progress import Reporter, SilentReporter
from tfmpq.quantization.discretization import finished_model
from tfmpq.quantizers.choices import quantize_wrappers
from tfmpq.quantizers.learned_step import twice_differentiable
from tfmpq.quantizers.wrapper import perturbed_kernels
from tfmpq.training.backend import compiled, value_and_gradient
from tfmpq.training.landscape import top_eigenvalue

BATCH = 64
"""Images that are held at once."""

AFFINE = ("gamma", "beta", "bias")
"""Ends of the paths of variables that are perturbed beside the quantized kernels."""


@dataclass(frozen=True, slots=True)
class Sharpness:
    """How sharp a minimum is.

    Attributes:
        run: Run folder.
        stage: `finetune`, or `search` for the searched policy without any further training.
        data: Data set that the stage was trained on.
        count: Number of its training images.
        loss: Mean cross-entropy.
        gradient_norm: Euclidean norm of its gradient.
        gaps: For each `radius` rho the `gap` h, the rise of the loss at distance rho along the gradient, and
            the `curvature` 2 h / rho^2.
        top_eigenvalue: Largest eigenvalue of the Hessian.
        iterations: Hessian-vector products that were taken.
        residual: ||H v - lambda v|| / |lambda| of the eigenvector that was found.
        parameters: Number of perturbed values.
    """

    run: str
    stage: str
    data: str
    count: int
    loss: float
    gradient_norm: float
    gaps: list[dict[str, float]]
    top_eigenvalue: float
    iterations: int
    residual: float
    parameters: int

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def sharpness(
    run: str | Path,
    *,
    radii: Sequence[float] = (0.01, 0.02, 0.05),
    limit: int = 512,
    data_dir: str | Path | None = None,
    reporter: Reporter | None = None,
) -> Sharpness:
    """Measure the sharpness of a run's fine-tuned model or, before that, of its searched policy.

    Args:
        run: Run folder.
        radii: Distances at which the gap is measured, in the unit of the weights.
        limit: Number of training images, drawn at random with a fixed seed.
        data_dir: Folder that is looked in first for data.
        reporter: Told about progress.

    Raises:
        UsageError: Nothing in the folder is finished, a radius is not positive, or the data are not those
            that the run was trained on.
        TfmpqError: A file is damaged.
    """
    if any(not 0 < radius < np.inf for radius in radii):
        raise UsageError(f"Radii are positive numbers. Received: {list(radii)}. Correct them.")
    reporter = reporter or SilentReporter()
    finished = finished_model(Path(run))
    if finished is None:
        raise UsageError(
            f"Sharpness is that of a finished search or fine-tuning. Received: {run}. Run tfmpq search first."
        )
    stage, model = finished
    options = read_json(stage.path(".json"))
    data = options["target" if stage.name == "finetune" else "proxy"]
    dataset = load_dataset(data, data_dir=data_dir, reporter=reporter)
    if dataset.fingerprint != options["data"]:
        raise UsageError(
            f"Sharpness is measured on the data of the training. Received: {data}, which is not what {run} "
            "was trained on. Give --data-dir."
        )
    images, labels = _images(dataset.train, model.input_shape[1:], options["preprocessing"], limit)
    landscape = Landscape(model, images, labels)
    origin = np.zeros(landscape.size)
    loss, gradient = landscape.loss_and_gradient(origin)
    norm = float(np.linalg.norm(gradient))
    rise = [landscape.loss(radius * gradient / max(norm, 1e-30)) - loss for radius in radii]
    reporter.start("power iteration", 0)

    def product(vector: np.ndarray) -> np.ndarray:
        reporter.advance(1)
        return landscape.hessian_product(vector)

    found = top_eigenvalue(product, landscape.size)
    reporter.finish()
    gaps = [
        {"radius": float(radius), "gap": gap, "curvature": 2 * gap / radius**2}
        for radius, gap in zip(radii, rise, strict=True)
    ]
    return Sharpness(
        str(run), stage.name, data, len(labels), loss, norm, gaps,
        found.value, found.iterations, found.residual, landscape.size,
    )  # fmt: skip


def _images(split: Split, shape: Any, preprocessing: str, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of a split, drawn at random and preprocessed, and their labels."""
    count = min(limit, len(split))
    batches = ImageBatches(
        split, min(BATCH, count), image_shape=tuple(shape), preprocessing=preprocessing, drop_remainder=False
    )
    parts = [batches[index] for index in range(-(-count // batches.batch_size))]
    images, labels = (np.concatenate(values)[:count] for values in zip(*parts, strict=True))
    return images, labels


class Landscape:
    """The loss around a quantized model, as a function of one flat perturbation (see the head of the file).

    Args:
        model: Functional quantized model.
        images: (N, height, width, channels) float32.
        labels: (N,) integers.

    Attributes:
        size: Number of perturbed values: all quantized kernels, then biases and BatchNorm's affine.
    """

    def __init__(self, model: keras.Model, images: np.ndarray, labels: np.ndarray) -> None:
        self._model = model
        self._names = [w.name for w in quantize_wrappers(model) if w.weight_quantizer is not None]
        self._affine = [i for i, v in enumerate(model.trainable_variables) if v.path.endswith(AFFINE)]
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
            logits, _ = self._model.stateless_call(trainable, state, images, training=False)
        logits = ops.cast(logits, "float32")
        return ops.mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))

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
