"""Bisection over candidates with made-up scores."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from tfmpq.policy.smallest import Found, smallest_passing


@given(st.integers(1, 300), st.integers(0, 300))
def test_where_order_holds_the_smallest_that_passes_is_found_in_few_tests(count: int, good: int) -> None:
    good = min(good, count)
    most = 2 + math.ceil(math.log2(count))
    found = smallest_passing(count, lambda index: index < good, most)
    if not good:
        assert found == Found(None, 0, (0,))
        return
    assert found.passed == good - 1
    assert found.failed == (good if good < count else None)
    assert len(found.tested) <= most


@given(st.lists(st.booleans(), min_size=1, max_size=200), st.integers(1, 10))
def test_whatever_the_order_what_is_found_has_passed_and_what_is_below_has_failed(
    verdicts: list[bool], most: int
) -> None:
    asked = []

    def passes(index: int) -> bool:
        asked.append(index)
        return verdicts[index]

    found = smallest_passing(len(verdicts), passes, most)
    assert tuple(asked) == found.tested
    assert len(set(asked)) == len(asked) <= most
    if found.passed is None:
        assert asked == [0]
        return
    assert verdicts[found.passed]
    below = [index for index in asked if index > found.passed]
    assert all(not verdicts[index] for index in below)
    assert found.failed == (min(below) if below else None)
