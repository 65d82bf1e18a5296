"""What was decided about a file before it is written, from what a person wishes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import keras

from tfmpq.graph.containers import Target
from tfmpq.graph.file_request import FileRequest

if TYPE_CHECKING:
    from tfmpq.deploy.conversion.app_file import FileOptions
    from tfmpq.deploy.conversion.chosen_forms import DeviceTimes
    from tfmpq.deploy.microcontroller.options import MicroOptions
    from tfmpq.graph.forms import FormOptions


@dataclass(frozen=True, slots=True)
class FileWishes:
    """What was decided about a file.

    Attributes:
        forms: What decides between the forms of layers, from `form_choice`.
        ends: Types, softmax and labels.
        microcontroller: What is asked of a file for microcontrollers.
    """

    forms: tuple[FormOptions | None, DeviceTimes | None]
    ends: FileOptions
    microcontroller: MicroOptions

    @classmethod
    def of(
        cls,
        request: FileRequest,
        forms: tuple[FormOptions | None, DeviceTimes | None],
        target: Target,
        class_names: Sequence[str] | None,
        model: keras.Model,
    ) -> FileWishes:
        """Decide for a network.

        Args:
            request: What a person wishes.
            forms: What decides between the forms of layers.
            target: Which form of the file.
            class_names: Names of the classes of the data, if known.
            model: The network.

        Raises:
            UsageError: A wish is for another target, or labels are of another number than the outputs.
        """
        return cls(forms, file_ends(request, class_names, model), micro_options(request, target))


def micro_options(request: FileRequest, target: Target) -> MicroOptions:
    """The part of a request that is for microcontrollers.

    Raises:
        UsageError: There is such a part, and the target is another.
    """
    # Lazy, as all of deploy in this file: without LiteRT the verbs have to say what is missing.
    from tfmpq.deploy.microcontroller.options import MicroOptions

    folder = Path(request.c_source) if request.c_source else None
    options = MicroOptions(request.prefer, request.arena, folder)
    options.require(target)
    return options


def file_ends(request: FileRequest, class_names: Sequence[str] | None, model: keras.Model) -> FileOptions:
    """The part of a request that is for the file's ends, with labels: those given, or the data's if they fit.

    Raises:
        UsageError: A type is unknown, or labels that were given are of another number than the outputs.
    """
    from tfmpq.deploy.conversion.app_file import FileOptions, read_labels, refuse_other_labels

    sizes = [int(output.shape[-1]) for output in model.outputs]
    if request.labels is None:
        labels = tuple(class_names or ())
        labels = labels if [len(labels)] == sizes else ()
    else:
        given = request.labels
        labels = read_labels(Path(given)) if isinstance(given, str | Path) else tuple(given)
        refuse_other_labels(labels, sizes)
    return FileOptions(request.input_type, request.output_type, request.softmax, labels)
