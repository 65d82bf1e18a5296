"""The largest eigenvalue of a symmetric matrix that is known by its products with vectors only."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

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
