"""Search methods, one file each: a module of this package holds a `METHOD`, and its name is the method's.

Nothing is imported before a method is used; see `tfmpq.searcher.Method` for what one has to offer.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from tfmpq.errors import UsageError

if TYPE_CHECKING:
    from tfmpq.searcher import Method

METHODS = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))
"""Names of the methods."""


def load_method(name: str) -> Method:
    """The method of this name.

    Raises:
        UsageError: There is none.
    """
    if name not in METHODS:
        raise UsageError(f"A method is one of {', '.join(METHODS)}. Received: {name}. Take one of them.")
    method: Method = importlib.import_module(f"{__name__}.{name}").METHOD
    return method
