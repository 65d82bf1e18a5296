"""Search methods.

Nothing is imported before a method is used; see `tfmpq.methods.method.Method` for what one has to offer.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from tfmpq.errors import UsageError

if TYPE_CHECKING:
    from tfmpq.methods.method import Method

_HOME = {
    "asga": "gradient",
    "fisher": "fisher",
    "fracbits": "gradient",
    "gsam": "gradient",
    "random": "controls",
    "sagm": "gradient",
    "sam": "gradient",
    "sensitivity": "sensitivity",
    "sgd": "gradient",
    "uniform": "controls",
}
"""Name of a method to the module of this package whose `METHODS` has it."""

METHODS = tuple(_HOME)
"""Names of the methods."""


def load_method(name: str) -> Method:
    """The method of this name.

    Raises:
        UsageError: There is none.
    """
    if name not in METHODS:
        raise UsageError(f"A method is one of {', '.join(METHODS)}. Received: {name}. Take one of them.")
    method: Method = importlib.import_module(f"{__name__}.{_HOME[name]}").METHODS[name]
    return method
