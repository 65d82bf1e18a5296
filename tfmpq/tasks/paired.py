"""Two classifiers on the same images: how much worse the second one is, and how sure that is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv, ndtri

from tfmpq.errors import UsageError

_STEPS = 60
"""Halvings of an interval of length 1: more than float64 resolves."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """Right and wrong answers of two networks, image by image.

    Only the images on which they differ say anything about the difference; that is why far fewer images are
    enough than two independent scores would need.

    Attributes:
        lost: Images that the first network has right and the second one wrong.
        gained: Images that the first one has wrong and the second one right.
        count: All images; at least one.
    """

    lost: int
    gained: int
    count: int

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray) -> Pairing:
        """From what is right: bool (N,) of the same images in the same order."""
        return cls(int(np.sum(first & ~second)), int(np.sum(~first & second)), len(first))

    @property
    def drop(self) -> float:
        """Score of the first network less that of the second one, -1 to 1."""
        return (self.lost - self.gained) / self.count

    @property
    def error(self) -> float:
        """Standard error of the drop: that of the mean of N values 1 (lost), -1 (gained) and 0."""
        return math.sqrt(max(self.lost + self.gained - self.count * self.drop**2, 0.0)) / self.count

    def at_most(self, confidence: float) -> float:
        """Upper confidence bound of the drop of all images like these; see `drop_bound`."""
        return drop_bound(self.lost, self.gained, self.count, confidence)

    def images_needed(self, most: float, confidence: float) -> int | None:
        """Images with which the bound would be `most`, if as large a share of them is lost and gained.

        None if no number is enough, because the drop itself is not below `most`.
        """
        if self.drop >= most:
            return None

        def bound(images: float) -> float:
            share = images / self.count
            return drop_bound(self.lost * share, self.gained * share, images, confidence)

        enough = float(self.count)
        while bound(enough) > most:
            enough *= 2
        least = enough / 2
        while enough - least > 1:
            middle = (least + enough) / 2
            least, enough = (least, middle) if bound(middle) <= most else (middle, enough)
        return max(math.ceil(enough), fewest_images(most, confidence))


def drop_bound(lost: float, gained: float, count: float, confidence: float) -> float:
    """One-sided upper confidence bound of the difference of two proportions on the same images.

    The bound is Tango's score bound (Statistics in Medicine 17, 1998, 891-908, which Fagerland, Lydersen and
    Laake recommend, ibid. 33, 2014, 2850-2875): the difference D at which the score statistic

        (lost - gained - N D) / sqrt(N (2 q + D (1 - D)))

    falls to the lower quantile of the normal distribution, where q is the maximum likelihood estimate of the
    share that is gained, given D: the larger root of 2 N q^2 + B q - gained D (1 - D) with
    B = (2 N - lost + gained) D - lost - gained. At D = 0 the statistic is McNemar's. For large counts the
    bound is `drop + z error`; unlike that one it does not shrink to nothing when few images differ.

    Where nothing was gained, `lost` alone counts, and its exact bound is taken (Clopper and Pearson,
    Biometrika 26, 1934, 404-413), which is the larger one. Agreement with the first network is such a case.

    Args:
        lost: Images that only the first network has right.
        gained: Images that only the second one has right.
        count: N, all images.
        confidence: Share of samples whose bound is not below the true difference, 0.5 to 1.
    """
    if lost >= count:
        return 1.0
    if not gained:
        return float(betaincinv(lost + 1, count - lost, confidence))
    quantile = float(ndtri(confidence))
    low, high = (lost - gained) / count, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        linear = (2 * count - lost + gained) * middle - lost - gained
        spread = middle * (1 - middle)
        root = math.sqrt(max(linear**2 + 8 * count * gained * spread, 0.0))
        variance = count * max((root - linear) / (2 * count) + spread, 0.0)
        above = lost - gained - count * middle + quantile * math.sqrt(variance) < 0
        low, high = (low, middle) if above else (middle, high)
    return high


def standard_error(share: float, count: int) -> float:
    """Standard error of a share of so many independent images."""
    return math.sqrt(share * (1 - share) / count)


def fewest_images(most: float, confidence: float) -> int:
    """Fewest images on which a network without any loss is known to lose less than `most`."""
    return math.ceil(math.log1p(-confidence) / math.log1p(-most) - 1e-9)


def parse_drop(text: str) -> float:
    """A drop in points, such as `1%` or `0.5 %`, as a share.

    Raises:
        UsageError: It is no number of percent from above 0 to below 100.
    """
    number, percent, rest = text.strip().partition("%")
    try:
        value = float(number) / 100
    except ValueError:
        value = math.nan
    if not percent or rest or not 0 < value < 1:
        raise UsageError(
            f"A drop is a number of points above 0 and below 100, with a percent sign. Received: {text!r}. "
            "Write for example 1%."
        )
    return value
