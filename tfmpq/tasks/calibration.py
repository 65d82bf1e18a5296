"""Images that a network is fitted to, held as pixels: as inputs they would take four times the memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tfmpq.data.preprocess import preprocess


@dataclass(frozen=True, slots=True)
class Calibration:
    """What layers are fitted to the float network on.

    Attributes:
        images: Number of images; all if there are fewer.
        views: Number of views of each, the first as it is.
    """

    images: int = 1024
    views: int = 1


USUAL_CALIBRATION = Calibration()


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationImages:
    """Images that are preprocessed where they are taken.

    Attributes:
        pixels: (N, height, width, channels), uint8; or float32 inputs of a user's own.
        preprocessing: Name of the preprocessing.
    """

    pixels: np.ndarray
    preprocessing: str

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, part: slice) -> np.ndarray:
        """Inputs of the network, float32 (N, height, width, channels)."""
        return preprocess(self.pixels[part], self.preprocessing)
