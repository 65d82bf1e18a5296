"""What a person may ask of a file for microcontrollers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tfmpq.deploy.conversion.microcontroller_form import PREFERENCES, Preference
from tfmpq.errors import UsageError
from tfmpq.graph.containers import Target


@dataclass(frozen=True, slots=True)
class MicroOptions:
    """Wishes for a file for microcontrollers.

    Attributes:
        prefer: What to save where INT4 trades one for the other; None for flash.
        arena: Bytes of RAM that there are; None for any.
        c_source: Folder for the model as C++ source; None for none.
    """

    prefer: Preference | None = None
    arena: int | None = None
    c_source: Path | None = None

    def require(self, target: Target) -> None:
        """Refuse wishes for a target that is not for microcontrollers, before any work.

        Raises:
            UsageError: There are some, or `prefer` is unknown.
        """
        if self.prefer not in (None, *PREFERENCES):
            raise UsageError(
                f"For tflm, --prefer is one of {', '.join(PREFERENCES)}. Received: {self.prefer}. Choose one "
                "of them."
            )
        named = {"--prefer": self.prefer, "--arena": self.arena, "--c-source": self.c_source}
        given = [name for name, value in named.items() if value is not None]
        if given and target != "tflm":
            raise UsageError(
                f"{', '.join(given)} is for microcontrollers. Received: --target {target}. Choose --target "
                "tflm, or leave it out."
            )
