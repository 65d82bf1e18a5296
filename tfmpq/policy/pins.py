"""Widths that a user gives to layers beforehand: `--pin LAYER=BITS` and `--at-least LAYER=BITS`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tfmpq.errors import UsageError
from tfmpq.graph.containers import WEIGHT_BITS
from tfmpq.policy.search_space import Candidates


@dataclass(frozen=True, slots=True)
class Pins:
    """What was asked for, by layer.

    Attributes:
        pinned: Width of layers that have no choice.
        least: Least width of layers that have one.
    """

    pinned: Mapping[str, int]
    least: Mapping[str, int]

    @classmethod
    def of(cls, pin: Sequence[str], at_least: Sequence[str], layers: Sequence[str]) -> Pins:
        """Read texts of the form LAYER=BITS, in which LAYER is a name or a pattern (`*`, `?`, `[...]`).

        Of several that name one layer, the last one counts.

        Args:
            pin: Widths that layers shall have.
            at_least: Widths that layers shall at least have.
            layers: Names of the layers with weights.

        Raises:
            UsageError: A text has another form, or names no layer; or a layer is in both.
        """
        found = cls(_by_layer("--pin", pin, layers), _by_layer("--at-least", at_least, layers))
        both = [name for name in found.pinned if name in found.least]
        if both:
            raise UsageError(
                f"A layer is pinned, or has a least width. Received: --pin and --at-least for {both[0]}. "
                "Leave one out."
            )
        return found

    def __contains__(self, layer: object) -> bool:
        return layer in self.pinned or layer in self.least

    def applied(self, candidates: Candidates) -> dict[str, tuple[int, ...]]:
        """The candidates of every layer that are left.

        Raises:
            UsageError: None is left of one.
        """
        found = {}
        for name, widths in candidates.items():
            kept = tuple(width for width in widths if width >= self.least.get(name, 0))
            if not kept:
                raise UsageError(
                    f"A layer needs widths to choose from. Received: --at-least {name}={self.least[name]}, "
                    f"where the search has {', '.join(map(str, widths))}. Add one to --weight-bits, or give "
                    f"--pin {name}={self.least[name]}."
                )
            found[name] = (self.pinned[name],) if name in self.pinned else kept
        return found


NO_PINS = Pins({}, {})


def _by_layer(flag: str, texts: Sequence[str], layers: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in texts:
        pattern, _, number = (part.strip() for part in text.rpartition("="))
        if not pattern or number not in map(str, WEIGHT_BITS):
            raise UsageError(
                f"{flag} is LAYER=BITS with {WEIGHT_BITS[0]} to {WEIGHT_BITS[-1]} bits. Received: {text}. "
                f"Write for example {flag} '{layers[-1]}=8'."
            )
        named = [layer for layer in layers if fnmatchcase(layer, pattern)]
        if not named:
            near = difflib.get_close_matches(pattern, layers, n=1) or layers[:1]
            raise UsageError(
                f"{flag} names layers with weights. Received: {text}, which is none of {len(layers)}. "
                f"Did you mean {near[0]}?"
            )
        found.update(dict.fromkeys(named, int(number)))
    return found
