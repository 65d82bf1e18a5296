"""How sharp the minimum is that a run has found: surrogate gaps at several radii, and the top eigenvalue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfmpq.api.sources import kept_by, run_of
from tfmpq.bars import reporting
from tfmpq.data import Dataset, ImageBatches, Split
from tfmpq.data.objects import open_data
from tfmpq.errors import UsageError
from tfmpq.files import read_json
from tfmpq.progress import Reporter
from tfmpq.quantization.finished_runs import finished_model
from tfmpq.results import Result
from tfmpq.tasks.fitting import fitted
from tfmpq.tasks.kinds import objective_for
from tfmpq.tasks.model_outputs import outputs_of
from tfmpq.training.landscape import BATCH, Landscape, top_eigenvalue


@dataclass(frozen=True, slots=True)
class Sharpness(Result, verb="sharpness"):
    """How sharp a minimum is.

    Attributes:
        run: Run folder.
        stage: `finetune`, or `search` for the searched policy without any further training.
        data: Data set that the stage was trained on.
        count: Number of its training images.
        loss: Mean loss on the labels; of classes, the cross-entropy.
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


def sharpness(
    run: Any,
    *,
    radii: Sequence[float] = (0.01, 0.02, 0.05),
    limit: int = 512,
    data: Any = None,
    data_dir: str | Path | None = None,
    progress: bool | Reporter | None = None,
) -> Sharpness:
    """Measure the sharpness of a run's fine-tuned model or, before that, of its searched policy.

    Args:
        run: What `search` or `finetune` returned, or a run folder.
        radii: Distances at which the gap is measured, in the unit of the weights.
        limit: Number of training images, drawn at random with a fixed seed.
        data: The data of the training, where they were an object and `run` is a folder.
        data_dir: Folder that is looked in first for data.
        progress: True shows progress, False none, None only on terminals and in IPython; or a reporter.

    Raises:
        UsageError: Nothing in the folder is finished, a radius is not positive, or the data are not those
            that the run was trained on.
        TfmpqError: A file is damaged.
    """
    if any(not 0 < radius < np.inf for radius in radii):
        raise UsageError(f"Radii are positive numbers. Received: {list(radii)}. Correct them.")
    folder = run_of(run, "Sharpness is that of a run: its folder, or what search or finetune returned.")
    with reporting(progress) as reporter:
        return _sharpness(folder, (data, data_dir, kept_by(run)), radii, limit, reporter)


def _sharpness(
    run: Path,
    given: tuple[Any, str | Path | None, tuple[Any, ...]],
    radii: Sequence[float],
    limit: int,
    reporter: Reporter,
) -> Sharpness:
    finished = finished_model(run)
    if finished is None:
        raise UsageError(
            f"Sharpness is that of a finished search or fine-tuning. Received: {run}. Run tfmpq search first."
        )
    stage, model = finished
    options = read_json(stage.path(".json"))
    data, data_dir, kept = given
    word = options["target" if stage.name == "finetune" else "proxy"]
    held = [part for part in kept if isinstance(part, Dataset) and part.fingerprint == options["data"]]
    if held and data is None:
        dataset = held[0]
    else:
        rank = len(model.input_shape)
        dataset = open_data(word if data is None else data, data_dir=data_dir, rank=rank, reporter=reporter)
        dataset = fitted(dataset, tuple(model.input_shape[1:]))
    if dataset.fingerprint != options["data"]:
        raise UsageError(
            f"Sharpness is measured on the data of the training. Received: {dataset.name}, which is not what "
            f"{run} was trained on. Give --data-dir."
        )
    if not dataset.labelled:
        raise UsageError("Sharpness is that of a loss on labels. Received: images alone. Give labels.")
    images, labels = _images(dataset.train, model.input_shape[1:], options["preprocessing"], limit)
    objective = objective_for(outputs_of(model)[0], dataset.train.labels, dataset.classes)
    landscape = Landscape(model, images, labels, objective)
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
        str(run), stage.name, word, len(labels), loss, norm, gaps,
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
