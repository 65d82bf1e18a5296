"""The outputs of a network, and which of them can be scored as a classifier."""

from __future__ import annotations

import math
from dataclasses import dataclass

PROBABILITY = 0.5
"""What a probability is above for the second of two classes; a logit is above 0."""


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a network.

    Attributes:
        name: Its name.
        shape: Its shape for one image.
        cut: Of a single number that tells two classes apart, what it is above for the second one: 0 for a
            logit, 0.5 for a probability.
    """

    name: str
    shape: tuple[int, ...]
    cut: float = 0.0

    @property
    def binary(self) -> bool:
        """Whether it is a single number."""
        return math.prod(self.shape) == 1

    @property
    def probabilities(self) -> bool:
        """Whether a sigmoid gives it."""
        return self.cut == PROBABILITY

    @property
    def chooses(self) -> bool:
        """Whether it is a row of several numbers, as a classifier gives."""
        return not self.binary and self.obstacle(1) is None

    def obstacle(self, classes: int) -> str | None:
        """Why it cannot be scored on data of so many classes; None if it can.

        A classifier gives an image one row of numbers, one for every class at least; for two classes a single
        number is enough.
        """
        if self.binary and classes == 2:
            return None
        if not self.shape or any(size != 1 for size in self.shape[:-1]):
            return f"shape {self.shape}, which is no row of numbers"
        if self.shape[-1] < classes:
            return f"{self.shape[-1]} numbers for {classes} classes"
        return None
