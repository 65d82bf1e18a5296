"""What a person wishes of a file: its types, its labels, and how it fits on a microcontroller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tfmpq.errors import UsageError


@dataclass(frozen=True, slots=True)
class FileRequest:
    """Wishes for a file, as a person states them.

    Attributes:
        input_type: `uint8` or `int8`: the file takes pixels, as they are or less 128. `float32`: it takes
            preprocessed values. None for the network's own codes, int8 (int16 with 16-bit activations).
        output_type: Type of the outputs; None for the network's own codes.
        softmax: Whether the file ends in probabilities.
        labels: Names of the classes, or a text file with a line for each; None for those of the data.
        prefer: For `tflm`: `flash` packs weights into 4 bits, `ram` only where that takes no memory. None for
            `flash`.
        arena: For `tflm`: most bytes of RAM that the runtime may take.
        c_source: For `tflm`: folder for the model as C++ source.
    """

    input_type: Literal["uint8", "int8", "float32"] | None = None
    output_type: Literal["uint8", "int8", "float32"] | None = None
    softmax: bool = False
    labels: str | Path | Sequence[str] | None = None
    prefer: Literal["flash", "ram"] | None = None
    arena: int | None = None
    c_source: str | Path | None = None

    def require_floats(self) -> None:
        """Refuse other ends than those of a file of float activations, which takes and gives float32.

        Raises:
            UsageError: Another type, probabilities or labels are wished for.
        """
        types = (self.input_type, self.output_type)
        if any(kind not in (None, "float32") for kind in types) or self.softmax or self.labels is not None:
            raise UsageError(
                "A file of dynamic activations takes preprocessed float32 and gives float32 logits. "
                "Received: "
                f"input {types[0]}, output {types[1]}, softmax {self.softmax}, labels {self.labels}. Leave "
                "these "
                "options out."
            )


NO_FILE_WISHES = FileRequest()
"""No wishes: the network's own codes, labels of the data, flash before RAM."""
