"""Confidence bounds of the drop between two networks on the same images."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tfmpq.errors import UsageError
from tfmpq.policy.smallest import smallest_passing
from tfmpq.tasks.paired import Pairing, drop_bound, fewest_images, parse_drop


@st.composite
def pairings(draw: st.DrawFn) -> Pairing:
    count = draw(st.integers(1, 3000))
    lost = draw(st.integers(0, count))
    return Pairing(lost, draw(st.integers(0, count - lost)), count)


CONFIDENCES = st.sampled_from([0.8, 0.9, 0.95, 0.99])


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50))
def test_a_pairing_is_the_difference_of_the_scores_and_its_standard_error(
    answers: list[tuple[bool, bool]],
) -> None:
    first, second = (np.array(part) for part in zip(*answers, strict=True))
    found = Pairing.of(first, second)
    differences = first.astype(float) - second.astype(float)
    assert found.drop == pytest.approx(first.mean() - second.mean())
    assert found.error == pytest.approx(differences.std() / math.sqrt(len(answers)))


@given(pairings(), CONFIDENCES)
def test_the_bound_lies_between_the_drop_and_one(pairing: Pairing, confidence: float) -> None:
    assert pairing.drop <= pairing.at_most(confidence) <= 1


@given(pairings())
def test_the_bound_rises_with_the_confidence(pairing: Pairing) -> None:
    bounds = [pairing.at_most(confidence) for confidence in (0.6, 0.8, 0.9, 0.95, 0.99)]
    assert bounds == sorted(bounds)


@given(pairings(), CONFIDENCES)
def test_the_bound_rises_with_every_image_that_is_lost(pairing: Pairing, confidence: float) -> None:
    if pairing.lost + pairing.gained < pairing.count:
        worse = Pairing(pairing.lost + 1, pairing.gained, pairing.count)
        assert worse.at_most(confidence) >= pairing.at_most(confidence)


@given(pairings(), CONFIDENCES)
def test_at_the_bound_the_score_statistic_is_the_quantile(pairing: Pairing, confidence: float) -> None:
    """An independent computation: q by maximising the likelihood over a grid."""
    lost, gained, count = pairing.lost, pairing.gained, pairing.count
    bound = pairing.at_most(confidence)
    if not gained or bound > 0.999:
        return
    grid = np.linspace(max(0.0, -bound), (1 - bound) / 2, 200_001)[1:-1]
    rest = np.maximum(1 - bound - 2 * grid, 1e-300)
    likelihood = lost * np.log(grid + bound) + gained * np.log(grid) + (count - lost - gained) * np.log(rest)
    q = grid[np.argmax(likelihood)]
    statistic = (lost - gained - count * bound) / math.sqrt(count * (2 * q + bound * (1 - bound)))
    assert statistic == pytest.approx(-stats.norm.ppf(confidence), rel=0.02, abs=0.02)


@given(st.integers(0, 40), st.integers(1, 2000), CONFIDENCES)
def test_where_nothing_is_gained_the_bound_is_scipys_exact_one(
    lost: int, count: int, confidence: float
) -> None:
    lost = min(lost, count)
    exact = stats.binomtest(lost, count, alternative="less").proportion_ci(confidence, method="exact").high
    assert drop_bound(lost, 0, count, confidence) == pytest.approx(exact, abs=1e-9)


def test_for_many_images_the_bound_is_the_drop_and_its_error() -> None:
    pairing = Pairing(1300, 1100, 100_000)
    wald = pairing.drop + stats.norm.ppf(0.95) * pairing.error
    assert pairing.at_most(0.95) == pytest.approx(wald, rel=0.01)


@pytest.mark.parametrize(
    ("lost", "gained"), [(0.004, 0.001), (0.02, 0.015), (0.01, 0.0), (0.05, 0.03), (0.003, 0.003)]
)
@pytest.mark.parametrize("count", [300, 1000])
def test_of_all_samples_the_promised_share_has_a_bound_above_the_true_drop(
    lost: float, gained: float, count: int
) -> None:
    """Exact coverage, by summing over all counts that can be drawn."""
    most = int(count * (lost + gained) + 12 * math.sqrt(count * (lost + gained)) + 12)
    covered = 0.0
    for differing in range(most):
        outer = stats.binom.pmf(differing, count, lost + gained)
        if outer < 1e-9:
            continue
        shares = stats.binom.pmf(np.arange(differing + 1), differing, lost / (lost + gained))
        covered += outer * sum(
            share
            for part, share in enumerate(shares)
            if drop_bound(part, differing - part, count, 0.95) >= lost - gained
        )
    assert covered >= 0.94


@pytest.mark.parametrize("steepest", [0.04, 0.4])
def test_a_bisection_seldom_chooses_a_file_whose_true_drop_is_beyond_the_limit(steepest: float) -> None:
    """The true drop rises along the front; candidates share most of the images that they lose."""
    generator, count, limit, searches = np.random.default_rng(0), 1000, 0.01, 500
    lost_shares = np.linspace(0.001, steepest, 33)
    beyond = 0
    for _ in range(searches):
        shared = generator.random(count)

        def passes(index: int, shared: np.ndarray = shared) -> bool:
            own = np.where(generator.random(count) < 0.8, shared, generator.random(count))
            lost, gained = np.sum(own < lost_shares[index]), np.sum(own > 1 - lost_shares[index] / 2)
            return index == 0 or drop_bound(int(lost), int(gained), count, 0.95) <= limit

        chosen = smallest_passing(33, passes, 8).passed
        beyond += chosen is not None and lost_shares[chosen] / 2 > limit
    assert beyond < 0.06 * searches


@given(pairings(), CONFIDENCES, st.sampled_from([0.002, 0.01, 0.05]))
def test_with_the_images_that_are_said_to_be_needed_the_bound_is_kept(
    pairing: Pairing, confidence: float, most: float
) -> None:
    needed = pairing.images_needed(most, confidence)
    if needed is None:
        assert pairing.drop >= most
        return
    share = needed / pairing.count
    assert drop_bound(pairing.lost * share, pairing.gained * share, needed, confidence) <= most + 1e-9


@given(CONFIDENCES, st.floats(0.001, 0.3))
def test_the_fewest_images_are_just_enough_for_a_network_without_loss(confidence: float, most: float) -> None:
    fewest = fewest_images(most, confidence)
    assert drop_bound(0, 0, fewest, confidence) <= most + 1e-9
    assert fewest == 1 or drop_bound(0, 0, fewest - 1, confidence) > most - 1e-9


def test_one_point_at_95_percent_takes_299_images() -> None:
    assert fewest_images(0.01, 0.95) == 299


@pytest.mark.parametrize(("text", "value"), [("1%", 0.01), ("0.5 %", 0.005), (" 12% ", 0.12)])
def test_a_drop_is_read_in_points(text: str, value: float) -> None:
    assert parse_drop(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["1", "", "%", "0%", "-1%", "100%", "one%", "1%%", "nan%", "1% of it"])
def test_what_is_no_drop_is_refused_with_what_came(text: str) -> None:
    with pytest.raises(UsageError, match=r"Write for example 1%") as caught:
        parse_drop(text)
    assert repr(text) in str(caught.value)
