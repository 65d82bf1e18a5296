"""How near a quantized network comes to the user's float model, output by output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfmpq.tasks.outputs import Output
from tfmpq.tasks.scoring import class_scores

EQUAL_DB = 100.0
"""What is said where outputs are equal, or nearly: beyond the precision of float32."""


@dataclass(frozen=True, slots=True)
class OutputFidelity:
    """How near one output comes to the float model's.

    Attributes:
        name: Name of the output in the file.
        snr_db: Variance of the float output over the images, over the mean square of the difference, in
            decibels; at most 100; None where the float output is the same for all images.
        agreement: Share of images with the float model's class, 0 to 1; None where it is no classifier.
        float_top1: Share of images that the float model classifies as labelled; None without labels.
        file_top1: The same of the file.
    """

    name: str
    snr_db: float | None
    agreement: float | None
    float_top1: float | None
    file_top1: float | None


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How near a file comes to a model.

    Attributes:
        reference: What it was compared with: `float model` or `fine-tuned model`.
        images: Number of images, a fixed random sample.
        outputs: All outputs, in the order of the file.
    """

    reference: str
    images: int
    outputs: tuple[OutputFidelity, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What a file is held against.

    Attributes:
        name: As `Fidelity.reference`.
        images: Preprocessed images, float32 (N, height, width, channels).
        outputs: What the model gives for them, an array (N, ...) for each output.
        labels: int64 (N,); None without.
        classes: Classes of the labels.
        cuts: For each output, what a single number is above for the second of two classes; see `Output`.
    """

    name: str
    images: np.ndarray
    outputs: tuple[np.ndarray, ...]
    labels: np.ndarray | None = None
    classes: int = 0
    cuts: tuple[float, ...] = ()

    def compare(self, names: Sequence[str], given: Sequence[np.ndarray]) -> Fidelity:
        """Compare outputs of a file, real numbers, with the model's."""
        cuts = self.cuts or (0.0,) * len(self.outputs)
        found = []
        for name, wanted, got, cut in zip(names, self.outputs, given, cuts, strict=True):
            output = Output(name, wanted.shape[1:], cut)
            found.append(self._output(output, wanted, got.reshape(wanted.shape)))
        return Fidelity(self.name, len(self.images), tuple(found))

    def _output(self, output: Output, wanted: np.ndarray, given: np.ndarray) -> OutputFidelity:
        scores: list[float | None] = [None, None]
        agreement = None
        labelled = self.labels is not None and self.classes > 1
        # A single number tells two classes apart only where there are labels of two.
        if output.obstacle(self.classes if labelled else 2) is None and (labelled or not output.binary):
            rows = [class_scores(output, x) for x in (wanted, given)]
            agreement = _share(rows[1], rows[0].argmax(1))
            if self.labels is not None and labelled:
                scores = [_share(x, self.labels) for x in rows]
        return OutputFidelity(output.name, snr_db(wanted, given), agreement, *scores)


def snr_db(wanted: np.ndarray, given: np.ndarray) -> float | None:
    """Signal-to-noise ratio of an output in decibels.

    The signal is what differs between images; with one image, what differs between its elements.

    Args:
        wanted: What the float model gives, (N, ...).
        given: What is compared, of the same shape.
    """
    expected, got = np.asarray(wanted, np.float64), np.asarray(given, np.float64)
    signal = float(np.mean(np.square(expected - expected.mean(0 if len(expected) > 1 else None))))
    noise = float(np.mean(np.square(got - expected)))
    if signal == 0:
        return None
    if not noise > 0:
        return EQUAL_DB if noise == 0 else -EQUAL_DB
    return float(np.clip(10 * np.log10(signal / noise), -EQUAL_DB, EQUAL_DB))


def _share(rows: np.ndarray, classes: np.ndarray) -> float:
    """Share of rows in which the class has the largest number; sharing it counts, as on coarse grids."""
    picked = np.take_along_axis(rows, np.asarray(classes)[:, None], axis=1)[:, 0]
    return float(np.mean(picked == rows.max(1)))
