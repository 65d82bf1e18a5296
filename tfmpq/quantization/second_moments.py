"""Second moments of what a kernel is multiplied with, accumulated part by part in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Moments of the rows that a kernel is multiplied with, in the float network and in the quantized one.

    Attributes:
        count: Number of rows in each group.
        wanted_mean: Mean row in the float network, float64 (groups, 1, inputs).
        given_mean: The same in the quantized network.
        given: Sum of products of the quantized network's centered rows with themselves, float64 (groups,
            inputs, inputs); None where only means are taken.
        cross: The same of the quantized network's rows with the float network's.
    """

    count: int
    wanted_mean: np.ndarray
    given_mean: np.ndarray
    given: np.ndarray | None
    cross: np.ndarray | None

    @classmethod
    def of(cls, wanted: np.ndarray, given: np.ndarray, products: bool = True) -> Moments:
        """Moments of some rows.

        Args:
            wanted: Rows in the float network, (groups, rows, inputs).
            given: Rows in the quantized network, at the same positions.
            products: Whether to take second moments.
        """
        count = wanted.shape[1]
        wanted_mean, given_mean = (x.mean(1, keepdims=True, dtype=np.float64) for x in (wanted, given))
        if not products:
            return cls(count, wanted_mean, given_mean, None, None)
        wanted, given = wanted - wanted_mean.astype(wanted.dtype), given - given_mean.astype(given.dtype)
        turned = given.transpose(0, 2, 1)
        sums = [(turned @ x).astype(np.float64) for x in (given, wanted)]
        return cls(count, wanted_mean, given_mean, sums[0], sums[1])

    def __add__(self, other: Moments) -> Moments:
        """Moments of the rows of both, exactly (Chan, Golub and LeVeque, 1979)."""
        count = self.count + other.count
        share = other.count / count
        wanted, given = other.wanted_mean - self.wanted_mean, other.given_mean - self.given_mean
        means = (self.wanted_mean + share * wanted, self.given_mean + share * given)
        if self.given is None or self.cross is None or other.given is None or other.cross is None:
            return Moments(count, means[0], means[1], None, None)
        between = given.transpose(0, 2, 1) * (self.count * share)
        return Moments(
            count,
            means[0],
            means[1],
            self.given + other.given + between @ given,
            self.cross + other.cross + between @ wanted,
        )


def excess(kernel: np.ndarray, weights: np.ndarray, moments: Moments) -> np.ndarray:
    """Mean squared error of each output with a kernel, less what does not depend on the kernel.

    That is E (g k - x w)^2 without E (x w)^2, for centered rows g of the quantized and x of the float
    network.

    Args:
        kernel: k, float64 (groups, inputs, outputs).
        weights: w, the float network's kernel.
        moments: Those of the rows.

    Returns:
        float64 (groups, outputs).
    """
    assert moments.given is not None and moments.cross is not None  # noqa: S101, PT018 the caller took them
    pulled = moments.given @ kernel - 2.0 * (moments.cross @ weights)
    return np.einsum("gio,gio->go", kernel, pulled) / moments.count
