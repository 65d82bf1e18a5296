"""One kernel, rounded so that its outputs stay what the float layer's are.

With H the second moments of the inputs and W the best real-valued kernel, one row of integers after the
other is fixed and its error is handed on to the rows that are still free (GPTQ, arXiv 2210.17323,
algorithm 1). Directions that few images have shown are damped; by how much is decided on rows that the
moments have not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky
from scipy.linalg.lapack import dtrtri

from tfmpq.quantization.second_moments import Moments, excess
from tfmpq.quantizers.learned_step import Levels

DAMPING = 0.01
"""Added to the diagonal of H, relative to its mean, where no rows can be held out to choose it on."""

DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""What is tried on the rows that are held out."""

_BLOCK = 128

Steps = Callable[[np.ndarray], np.ndarray]
"""From a real-valued kernel (groups, inputs, outputs) to its steps, float64 (groups, 1, outputs)."""


@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """A kernel on its grid.

    Attributes:
        integers: float64 (groups, inputs, outputs), whole numbers within the levels.
        steps: float64 (groups, 1, outputs).
        damping: What was added to the moments' diagonal, relative to its mean.
    """

    integers: np.ndarray
    steps: np.ndarray
    damping: float

    @property
    def kernel(self) -> np.ndarray:
        """float64 (groups, inputs, outputs)."""
        return self.integers * self.steps


def chosen_rounding(
    weights: np.ndarray, seen: Moments, held_out: Moments | None, levels: Levels, steps: Steps
) -> Rounded:
    """The rounding from all rows, damped as is best on those that are held out.

    Args:
        weights: The float network's kernel, float64 (groups, inputs, outputs).
        seen: Moments of the rows that each damping is tried with.
        held_out: Moments of the rows that it is judged by; None to damp by `DAMPING`.
        levels: Integer levels.
        steps: Gives the steps of a kernel.
    """
    if held_out is None:
        return damped_rounding(weights, seen, DAMPING, levels, steps)
    losses = [
        float(excess(damped_rounding(weights, seen, damping, levels, steps).kernel, weights, held_out).sum())
        for damping in DAMPINGS
    ]
    return damped_rounding(weights, seen + held_out, DAMPINGS[int(np.argmin(losses))], levels, steps)


def damped_rounding(
    weights: np.ndarray, moments: Moments, damping: float, levels: Levels, steps: Steps
) -> Rounded:
    """The best real-valued kernel for the inputs that the quantized network gives, rounded.

    Args:
        weights: The float network's kernel, float64 (groups, inputs, outputs).
        moments: Moments of the rows.
        damping: What is added to the diagonal, relative to its mean; it pulls towards `weights`.
        levels: Integer levels.
        steps: Gives the steps of a kernel.
    """
    assert moments.given is not None and moments.cross is not None  # noqa: S101, PT018 the caller took them
    inputs = weights.shape[1]
    added = damping * np.einsum("gii->g", moments.given) / (inputs * moments.count)
    added = np.where(added > 0, added, 1.0)  # of inputs that are zero: any will do
    ridge = added[:, None, None] * np.eye(inputs)
    matrix = moments.given / moments.count + ridge
    best = np.linalg.solve(matrix, (moments.cross / moments.count + ridge) @ weights)
    found = steps(best)
    return Rounded(optimal_rounding(best, matrix, found, levels), found, damping)


def optimal_rounding(
    kernel: np.ndarray, moments: np.ndarray, steps: np.ndarray, levels: Levels
) -> np.ndarray:
    """Integers Q that make `trace((Q s - W)^T H (Q s - W))` small; never larger than rounding to nearest.

    Args:
        kernel: W, float64 (groups, inputs, outputs); groups are independent problems.
        moments: H, float64 (groups, inputs, inputs), positive definite.
        steps: s, float64 (groups, 1, outputs).
        levels: Integer levels.

    Returns:
        float64 (groups, inputs, outputs), whole numbers within the levels.
    """
    nearest = np.clip(np.round(kernel / steps), levels.low, levels.high)
    # Inputs of large moments first: their errors weigh most and still find many others to make up for them.
    order = np.argsort(-np.einsum("gii->gi", moments).mean(0))
    factor = _inverse_factor(moments[:, order][:, :, order])
    free, fixed = kernel[:, order].copy(), np.empty_like(kernel)
    for begin in range(0, kernel.shape[1], _BLOCK):
        end = min(begin + _BLOCK, kernel.shape[1])
        errors = np.empty((len(kernel), end - begin, kernel.shape[2]))
        for row in range(begin, end):
            fixed[:, row] = np.clip(np.round(free[:, row] / steps[:, 0]), levels.low, levels.high)
            error = (free[:, row] - fixed[:, row] * steps[:, 0]) / factor[:, row, row, None]
            free[:, row + 1 : end] -= factor[:, row, row + 1 : end, None] * error[:, None]
            errors[:, row - begin] = error
        free[:, end:] -= factor[:, begin:end, end:].transpose(0, 2, 1) @ errors
    found = fixed[:, np.argsort(order)]

    def loss(integers: np.ndarray) -> np.ndarray:
        error = integers * steps - kernel
        return np.sum(error * (moments @ error), axis=1, keepdims=True)

    return np.where(loss(found) <= loss(nearest), found, nearest)


def _inverse_factor(moments: np.ndarray) -> np.ndarray:
    """Upper triangular U with U^T U = H^-1, for each group.

    H = R R^T with R upper triangular, which is a Cholesky factor from the last row upwards; then U = R^-1.
    This takes a quarter of the time that inverting H and factoring the inverse takes.
    """
    found = np.empty_like(moments)
    for group, matrix in enumerate(moments):
        upper = cholesky(matrix[::-1, ::-1], lower=True)[::-1, ::-1]
        found[group] = dtrtri(upper)[0]
    return found
