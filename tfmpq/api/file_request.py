"""What a person wishes of a file: its types, its labels, and how it fits on a microcontroller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tfmpq.deploy.conversion.app_file import FileOptions
    from tfmpq.deploy.microcontroller.options import MicroOptions


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

    def microcontroller(self, target: str) -> MicroOptions:
        """The part for microcontrollers.

        Raises:
            UsageError: It is for another target.
        """
        from tfmpq.deploy.microcontroller.options import MicroOptions

        options = MicroOptions(self.prefer, self.arena, Path(self.c_source) if self.c_source else None)
        options.require(target)
        return options

    def ends(self, class_names: Sequence[str] | None, sizes: Sequence[int]) -> FileOptions:
        """The part for the file's ends, with labels.

        Args:
            class_names: Names of the classes of the data, if known; those of another number are left out.
            sizes: Number of elements of each output.

        Raises:
            UsageError: A type is unknown, or labels that were given are of another number.
        """
        from tfmpq.deploy.conversion.app_file import FileOptions, read_labels, refuse_other_labels

        if self.labels is None:
            labels = tuple(class_names or ())
            labels = labels if [len(labels)] == list(sizes) else ()
        else:
            given = self.labels
            labels = read_labels(Path(given)) if isinstance(given, str | Path) else tuple(given)
            refuse_other_labels(labels, sizes)
        return FileOptions(self.input_type, self.output_type, self.softmax, labels)


NO_FILE_WISHES = FileRequest()
