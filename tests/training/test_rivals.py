"""What the rivals of ASGA compute, against closed forms; their knobs; the second gradient that is reused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from tfmpq.errors import UsageError
from tfmpq.training import sharpness
from tfmpq.training.step import SharpnessOptions

seeds = st.integers(0, 2**31)
SHAPES = ((3, 4), (5,), (1,))


def tensors(seed: int, shapes=SHAPES) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.normal(size=shape) for shape in shapes]


def flat(parts) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(part)) for part in parts])


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(0, 2))
def test_gsam_subtracts_the_part_of_the_gradient_across_the_perturbed_one(seed, alpha):
    g, g2 = tensors(seed), tensors(seed + 1)
    update = flat(sharpness.combine_gap_guided(g, g2, alpha))
    a, b = flat(g), flat(g2)
    across = a - (a @ b) / (b @ b) * b  # algorithm 1: g less its projection on the perturbed gradient
    np.testing.assert_allclose(update, b - alpha * across, rtol=1e-12, atol=1e-12)
    assert (update - b) @ b == pytest.approx(0, abs=1e-12 * max(1, alpha) * np.linalg.norm(a) * (b @ b))
    assert update @ b == pytest.approx(b @ b, rel=1e-11)
    # Against the gap's gradient g2 - g, the step is at least as good as SAM's.
    assert update @ (b - a) >= b @ (b - a) - 1e-9


def test_gsam_without_alpha_is_sam():
    g, g2 = tensors(1), tensors(2)
    for got, wanted in zip(sharpness.combine_gap_guided(g, g2, 0.0), g2, strict=True):
        np.testing.assert_array_equal(got, wanted)
    zero = [np.zeros_like(t) for t in g]
    assert np.all(np.isfinite(flat(sharpness.combine_gap_guided(g, zero, 0.5))))


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_what_is_reused_is_orthogonal_to_the_gradient(seed):
    g, g2 = tensors(seed), tensors(seed + 1)
    rejection = sharpness.relative_rejection(g, g2)
    for a, b, r in zip(g, g2, rejection, strict=True):
        r = np.asarray(r) * np.linalg.norm(a)
        assert np.vdot(r, a) == pytest.approx(0, abs=1e-10)
        # What is left out is parallel to g.
        left = b - r
        assert abs(np.vdot(left, a)) == pytest.approx(np.linalg.norm(left) * np.linalg.norm(a), rel=1e-9)
    for a, got, r in zip(g, sharpness.reused_second(g, rejection), rejection, strict=True):
        np.testing.assert_allclose(got, a + np.linalg.norm(a) * np.asarray(r), rtol=1e-12)


def test_a_second_gradient_of_the_same_length_along_g_is_reused_exactly():
    """Where g2 = g + (a part orthogonal to g), nothing is lost by reusing it."""
    (g,), (noise,) = tensors(3, ((6, 2),)), tensors(4, ((6, 2),))
    g2 = g + noise - np.vdot(noise, g) / np.vdot(g, g) * g
    (again,) = sharpness.reused_second([g], sharpness.relative_rejection([g], [g2]))
    np.testing.assert_allclose(again, g2, rtol=1e-12)


def test_a_gradient_of_zero_has_nothing_to_reuse():
    (rejection,) = sharpness.relative_rejection([np.zeros((2, 2))], [np.ones((2, 2))])
    np.testing.assert_array_equal(rejection, np.zeros((2, 2)))


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(1e-3, 1.0), st.floats(0, 0.4))
def test_asam_has_its_length_in_its_own_metric(seed, rho, share):
    """Its step is rho t^2 g / ||t g||, shorter by alpha, and has the length rho when divided by t."""
    g, t = tensors(seed), [np.abs(x) + 0.01 for x in tensors(seed + 1)]
    norm = math.sqrt(sum(float(np.sum((a * b) ** 2)) for a, b in zip(t, g, strict=True)))
    alpha = share * rho / norm
    found = sharpness.ascent(g, rho, alpha, t)
    assert float(found.norm) == pytest.approx(norm, rel=1e-12)
    assert float(found.alphas[0]) == pytest.approx(alpha, rel=1e-9)
    for delta, direction, a, b in zip(found.deltas, found.directions, t, g, strict=True):
        np.testing.assert_allclose(delta, (rho / norm - alpha) * a**2 * b, rtol=1e-9)
        np.testing.assert_allclose(direction, a**2 * b, rtol=1e-12)
    length = np.linalg.norm(flat(np.asarray(d) / a for d, a in zip(found.deltas, t, strict=True)))
    assert length == pytest.approx(rho - alpha * norm, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(1e-3, 1.0))
def test_a_norm_a_layer_keeps_the_length_of_the_whole(seed, rho):
    g = tensors(seed)
    found = sharpness.ascent(g, rho, 0.0, None, [[0, 2], [1]])
    assert np.linalg.norm(flat(found.deltas)) == pytest.approx(rho, rel=1e-9)
    for group in ([0, 2], [1]):
        part = flat(found.deltas[i] for i in group)
        assert np.linalg.norm(part) == pytest.approx(rho / math.sqrt(2), rel=1e-9)
        direction = flat(g[i] for i in group)
        np.testing.assert_allclose(part / np.linalg.norm(part), direction / np.linalg.norm(direction))


def test_the_guard_acts_in_each_layer():
    g = [np.full(4, 100.0), np.full(4, 1e-3)]
    found = sharpness.ascent(g, 0.05, 1e-3, None, [[0], [1]])
    assert bool(found.guarded)
    share = 0.05 / math.sqrt(2)
    assert np.linalg.norm(found.deltas[0]) == pytest.approx(0.5 * share, rel=1e-9)
    assert np.linalg.norm(found.deltas[1]) == pytest.approx(share - 1e-3 * 2e-3, rel=1e-6)


def test_the_gap_is_that_of_the_full_radius_whatever_the_metric():
    """On a quadratic at alpha far below the guard, the correction leaves a second-order error."""
    root = np.random.default_rng(0).normal(size=(6, 6))
    matrix, theta = root @ root.T, np.random.default_rng(1).normal(size=6)
    g, t = matrix @ theta, np.abs(theta) + 0.01

    def gap(alpha, scales):
        found = sharpness.ascent([g], 0.01, alpha, scales)
        moved = theta + np.asarray(found.deltas[0])
        before, after = (v @ matrix @ v / 2 for v in (theta, moved))
        return float(sharpness.surrogate_gap(before, after, found, [matrix @ moved]))

    for scales in (None, [t]):
        errors = [gap(alpha, scales) - gap(0.0, scales) for alpha in (1e-5, 1e-6)]
        assert errors[0] / errors[1] == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize(
    ("name", "value"), [("alpha", -1.0), ("alpha", math.nan), ("second_gradient_every", 0)]
)
def test_knobs_out_of_range_are_refused(name, value):
    with pytest.raises(UsageError, match="Received"):
        SharpnessOptions(sharpness.RadiusSchedule("fixed"), **{name: value})


def test_only_the_averaged_update_shortens_the_ascent():
    radius = sharpness.RadiusSchedule("fixed")
    assert SharpnessOptions(radius, 0.3).alignment == 0.3
    assert SharpnessOptions(radius, 0.3, update="gap-guided").alignment == 0.0


def test_entropy_of_choices():
    from tfmpq.training.budget_term import mean_entropy

    even, made = np.full(4, 0.25, np.float32), np.array([1, 0, 0], np.float32)
    assert float(mean_entropy([ops.convert_to_tensor(even)])) == pytest.approx(math.log(4))
    both = [ops.convert_to_tensor(v) for v in (even, made)]
    assert float(mean_entropy(both)) == pytest.approx(math.log(4) / 2)
    assert float(mean_entropy([])) == 0
