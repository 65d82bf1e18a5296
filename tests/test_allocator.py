"""The C library keeps what is freed, unless the user has set or chosen an allocator."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tfmpq import allocator

GLIBC = allocator._is_glibc()

FAULTS = """
import resource
from tfmpq.allocator import keep_freed_memory
if {kept}:
    assert keep_freed_memory()
def use():
    bytearray(b"x") * 100_000_000  # as large as a tensor of a step; NumPy would ask for large pages
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(kept: bool) -> int:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(allocator._OWN)}
    code = FAULTS.format(kept=kept)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean)
    return int(done.stdout)


def test_buffers_of_a_loop_are_not_fetched_anew_in_every_round() -> None:
    if not GLIBC:
        assert not allocator.keep_freed_memory({})
        return
    # 100 MB are 24,414 pages of 4 KiB: without the setting, every round takes them from the system.
    assert 20 * faults(kept=True) < faults(kept=False)


_SET = ("MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES", "LD_PRELOAD", "TF_CPU_ALLOCATOR_USE_BFC")


@pytest.mark.parametrize("name", _SET)
def test_what_the_user_has_set_is_left_alone(name: str) -> None:
    assert not allocator.keep_freed_memory({name: "1"})


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: str) -> str:
        raise ValueError

    monkeypatch.setattr(os, "confstr", unknown)
    assert not allocator.keep_freed_memory({})
