"""Search methods: the module with a method's name holds its `METHOD`.

Nothing is imported before a method is used; see `tfmpq.methods.method.Method` for what one has to offer.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from tfmpq.errors import UsageError

if TYPE_CHECKING:
    from tfmpq.methods.method import Method

METHODS = ("asga", "fracbits", "gsam", "random", "sagm", "sam", "sensitivity", "sgd", "uniform")
"""Names of the methods."""


def load_method(name: str) -> Method:
    """The method of this name.

    Raises:
        UsageError: There is none.
    """
    if name not in METHODS:
        raise UsageError(f"A method is one of {', '.join(METHODS)}. Received: {name}. Take one of them.")
    method: Method = importlib.import_module(f"{__name__}.{'controls' if name == 'uniform' else name}").METHOD
    return method
