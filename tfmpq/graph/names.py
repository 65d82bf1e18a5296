"""Names of layers: which Keras' backends take, and which the toolchain gives itself."""

from __future__ import annotations

import re
from collections.abc import Set

from tfmpq.graph.network import INPUT_QUANTIZER

_OTHER_CHARACTERS = re.compile(r"[^A-Za-z0-9_.>-]")
_PARTS = re.compile(r"grid|positive|negative|slope|pixel|scaled|columns|wide|rows|subsample|concatenated\d+")
"""Endings of the names of what a layer of the user's becomes, behind an underscore."""


def valid_name(name: str) -> str:
    """The name with underscores in the place of characters that TensorFlow does not take in names."""
    found = _OTHER_CHARACTERS.sub("_", name)
    return found if found[:1].isalnum() or found.startswith(".") else f"layer{found}"


def is_reserved(name: str, users: Set[str]) -> bool:
    """Whether the toolchain gives this name to something of its own, in a network of these layers."""
    layer, _, part = name.rpartition("_")
    return name == INPUT_QUANTIZER or (layer in users and _PARTS.fullmatch(part) is not None)
