"""The smallest of several candidates that passes a test, with few tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Found:
    """Where a search ended.

    Attributes:
        passed: Index of the smallest candidate that passed; None if none was tested that did.
        failed: Index of the largest candidate below it that was tested and failed; None without one.
        tested: Indices in the order of the tests.
    """

    passed: int | None
    failed: int | None
    tested: tuple[int, ...]


def smallest_passing(count: int, passes: Callable[[int], bool], most: int) -> Found:
    """Search candidates that are ordered from the largest to the smallest, by bisection.

    Candidate 0 is tested first: if it fails, no other one is tested. If smaller candidates never pass where
    larger ones fail, and `most` is at least 2 + log2(count), the smallest one that passes is found. A test
    on a sample does not quite have this order; what is found has passed all the same, and all tested
    candidates below it have failed.

    Args:
        count: Number of candidates; at least one.
        passes: Tests a candidate by its index; called once for each.
        most: Most tests.
    """
    tested = [0]
    if not passes(0):
        return Found(None, 0, (0,))
    passed, failed = 0, count
    while failed - passed > 1 and len(tested) < most:
        middle = (passed + failed) // 2
        tested.append(middle)
        if passes(middle):
            passed = middle
        else:
            failed = middle
    return Found(passed, None if failed == count else failed, tuple(tested))
