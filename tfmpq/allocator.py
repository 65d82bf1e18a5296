"""The C library's allocator, told to keep what is freed: every step needs the same large buffers.

By default glibc gives buffers of many megabytes back to the system and gets them anew, page by page, zeroed.
The settings are those of this process; programs that it starts have their own.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
"""Parameters of mallopt (malloc.h)."""

_SETTINGS = (
    (_MMAP_MAX, 0),  # large buffers come from the heap, which keeps them
    (_TRIM_THRESHOLD, -1),  # the heap never shrinks
    (_TOP_PAD, 256 * 2**20),  # and grows in large pieces
    (_ARENA_MAX, 1),  # one heap: what one thread frees, another takes
)

_OWN = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "TF_CPU_ALLOCATOR_USE_BFC")
"""How environment variables begin by which users choose an allocator or set this one."""


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Set glibc's allocator, unless the user has chosen or set one; does nothing on other C libraries.

    Args:
        environment: Where the user's settings are.

    Returns:
        Whether it was set.
    """
    if not _is_glibc() or any(name.startswith(_OWN) for name in environment):
        return False
    library = ctypes.CDLL(None)
    return all([library.mallopt(parameter, value) for parameter, value in _SETTINGS])


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):  # Windows; macOS and musl do not know the name
        return False
