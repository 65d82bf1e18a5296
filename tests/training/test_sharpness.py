"""The identities of sharpness-aware steps, in float64, against closed forms in NumPy.

The test problem is logistic regression, whose loss, gradient and Hessian are known in closed form; quadratics
where an identity is exact; and a small network by automatic differentiation where several tensors matter.
"""

import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from tfmpq.errors import UsageError
from tfmpq.training import sharpness
from tfmpq.training.sharpness import RadiusSchedule

RNG = np.random.default_rng(7)
POINTS = RNG.normal(size=(40, 6))
SIGNS = np.sign(RNG.normal(size=40))
THETA = RNG.normal(size=6) * 0.5
RHO, ALPHA = 0.05, 1e-2


def sigmoid(margins):
    return 1 / (1 + np.exp(-margins))


def loss(theta):
    return np.log1p(np.exp(-SIGNS * (POINTS @ theta))).mean()


def gradient(theta):
    return -(SIGNS * sigmoid(-SIGNS * (POINTS @ theta))) @ POINTS / len(POINTS)


def hessian(theta):
    s = sigmoid(POINTS @ theta)
    return (POINTS * (s * (1 - s))[:, None]).T @ POINTS / len(POINTS)


def step(gradients, rho, alpha):
    """`ascent` of one tensor or a list of them, as NumPy: deltas, norm, alpha in use, whether guarded."""
    single = isinstance(gradients, np.ndarray)
    result = sharpness.ascent(
        [ops.convert_to_tensor(g) for g in ([gradients] if single else gradients)], rho, alpha
    )
    deltas = [ops.convert_to_numpy(d) for d in result.deltas]
    return deltas[0] if single else deltas, float(result.norm), float(result.alphas[0]), bool(result.guarded)


def aligned(theta, rho, alpha):
    """The combined gradient of one step."""
    g = gradient(theta)
    (combined,) = sharpness.combine([g], [gradient(theta + step(g, rho, alpha)[0])])
    return combined


seeds = st.integers(0, 2**31)


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(1e-3, 1.0), st.floats(0, 0.49))
def test_on_a_quadratic_the_combined_gradient_has_its_closed_form(seed, rho, share):
    rng = np.random.default_rng(seed)
    root, b, theta = rng.normal(size=(5, 5)), rng.normal(size=5), rng.normal(size=5)
    matrix = root @ root.T
    g = matrix @ theta - b
    alpha = share * rho / np.linalg.norm(g)
    delta, _, used, _ = step(g, rho, alpha)
    combined = sharpness.combine([g], [matrix @ (theta + delta) - b])[0]
    assert used == pytest.approx(alpha, rel=1e-9)
    wanted = g + 0.5 * (rho / np.linalg.norm(g) - used) * matrix @ g
    np.testing.assert_allclose(combined, wanted, rtol=1e-12, atol=1e-12 * np.abs(wanted).max())


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(1e-3, 1.0), st.floats(0, 0.49))
def test_the_point_is_sams_at_a_shorter_radius(seed, rho, share):
    g = np.random.default_rng(seed).normal(size=(3, 4))
    norm = np.linalg.norm(g)
    alpha = share * rho / norm
    ours, sam = step(g, rho, alpha)[0], step(g, rho - alpha * norm, 0.0)[0]
    np.testing.assert_allclose(ours, sam, rtol=0, atol=1e-14)


def residual(alpha):
    """What the first-order term in alpha leaves of the loss at the shorter step."""
    g, perturbed = gradient(THETA), THETA + step(gradient(THETA), RHO, 0.0)[0]
    shifted = THETA + step(g, RHO, alpha)[0]
    return loss(shifted) - loss(perturbed) + alpha * gradient(perturbed) @ g


def test_what_the_first_order_in_alpha_leaves_is_of_second_order():
    g, perturbed = gradient(THETA), THETA + step(gradient(THETA), RHO, 0.0)[0]
    assert 0.5 * RHO / np.linalg.norm(g) > 1e-2
    assert residual(1e-2) / residual(1e-3) == pytest.approx(100, rel=0.02)
    assert residual(1e-3) / 1e-6 == pytest.approx(g @ hessian(perturbed) @ g / 2, rel=1e-2)


def test_the_slope_in_alpha_is_minus_half_the_hessian_times_the_gradient():
    g, perturbed = gradient(THETA), THETA + step(gradient(THETA), RHO, 0.0)[0]
    wanted = -0.5 * hessian(perturbed) @ g

    def error(alpha):
        slope = (aligned(THETA, RHO, alpha) - aligned(THETA, RHO, 0.0)) / alpha
        return np.linalg.norm(slope - wanted) / np.linalg.norm(wanted)

    errors = [error(alpha) for alpha in (1e-2, 1e-3, 1e-4)]
    assert errors[0] < 0.02
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.1)


@pytest.fixture(scope="module")
def network():
    """Loss of a two-layer network as a function of its tensors, with its gradients."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("takes gradients by TensorFlow")
    import tensorflow as tf

    rng = np.random.default_rng(3)
    x, y = tf.constant(rng.normal(size=(16, 3))), tf.constant(rng.normal(size=(16, 2)))
    weights = [tf.constant(rng.normal(size=shape)) for shape in ((3, 5), (5,), (5, 2), (2,))]

    def value(w):
        return tf.reduce_mean((tf.tanh(x @ w[0] + w[1]) @ w[2] + w[3] - y) ** 2)

    def gradients(function, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            result = function(w)
        return tape.gradient(result, w)

    return value, gradients, weights


def test_the_combined_gradient_is_that_of_the_mean_of_both_losses(network):
    value, gradients, weights = network
    g = gradients(value, weights)
    deltas = sharpness.ascent(g, RHO, 1e-3).deltas
    g2 = gradients(value, [w + d for w, d in zip(weights, deltas, strict=True)])

    def both(w):
        return (value(w) + value([a + d for a, d in zip(w, deltas, strict=True)])) / 2

    for ours, wanted in zip(sharpness.combine(g, g2), gradients(both, weights), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-13, atol=1e-15)


def test_equal_gradients_combine_to_the_same_bits():
    g = RNG.normal(size=(50,)).astype(np.float32)
    np.testing.assert_array_equal(sharpness.combine([g], [g])[0], g)
    np.testing.assert_array_equal(step(g, 0.0, 0.0)[0], np.zeros_like(g))


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(1e-3, 1.0), st.floats(0, 0.49))
def test_the_length_of_the_step_is_rho_less_alpha_times_the_norm(seed, rho, share):
    rng = np.random.default_rng(seed)
    g = [rng.normal(size=shape).astype(np.float32) for shape in ((3, 3, 2, 4), (4,), (1,))]
    norm = math.sqrt(sum(float((a.astype(np.float64) ** 2).sum()) for a in g))
    for alpha in (0.0, share * rho / norm):
        deltas, reported, used, _ = step(g, rho, alpha)
        length = math.sqrt(sum(float((d.astype(np.float64) ** 2).sum()) for d in deltas))
        assert reported == pytest.approx(norm, rel=1e-6)
        assert length == pytest.approx(abs(rho - used * norm), rel=2e-6)


def test_the_guard_keeps_the_step_an_ascent():
    g = RNG.normal(size=9)
    norm = np.linalg.norm(g)
    delta, _, alpha, guarded = step(g, 0.002, 1.0)
    assert guarded
    assert alpha == pytest.approx(0.5 * 0.002 / norm)
    np.testing.assert_allclose(delta, 0.5 * 0.002 * g / norm, rtol=1e-12)
    assert not step(g, 0.002, 0.4 * 0.002 / norm)[3]


def test_the_gap_is_slope_and_curvature_along_the_step_to_second_order(network):
    value, gradients, weights = network
    g = gradients(value, weights)
    flat = np.concatenate([np.ravel(a) for a in g])
    u = flat / np.linalg.norm(flat)

    def gap(rho, alpha=0.0):
        up = sharpness.ascent(g, rho, alpha)
        moved = [w + d for w, d in zip(weights, up.deltas, strict=True)]
        return float(sharpness.surrogate_gap(value(weights), value(moved), up, gradients(value, moved)))

    # u'Hu by central differences of gradients, independent of the gap.
    tiny = sharpness.ascent(g, 1e-5, 0.0).deltas
    above, below = (
        np.concatenate(
            [np.ravel(a) for a in gradients(value, [w + s * d for w, d in zip(weights, tiny, strict=True)])]
        )
        for s in (1, -1)
    )
    curvature = u @ (above - below) / 2e-5
    remainder = [gap(rho) - rho * np.linalg.norm(flat) - rho**2 * curvature / 2 for rho in (1e-2, 1e-3)]
    assert remainder[0] / remainder[1] == pytest.approx(1000, rel=0.05)
    # The correction makes the gap at the shorter radius that of the full one, to second order in alpha.
    error = [gap(1e-2, alpha) - gap(1e-2) for alpha in (1e-4, 1e-5)]
    assert abs(error[0]) < 1e-3 * gap(1e-2)
    assert error[0] / error[1] == pytest.approx(100, rel=0.05)


def test_at_a_minimum_the_gap_gives_the_top_eigenvalue():
    root = RNG.normal(size=(6, 6))
    matrix = root @ root.T
    values, vectors = np.linalg.eigh(matrix)
    delta = 0.05 * vectors[:, -1]
    step_from_there = sharpness.ascent([np.zeros(6)], 0.05, 0.0)
    gap = sharpness.surrogate_gap(0.0, delta @ matrix @ delta / 2, step_from_there, [matrix @ delta])
    assert float(sharpness.top_eigenvalue(gap, 0.05)) == pytest.approx(values[-1], rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(0.01, 5))
def test_conflict_and_cosine_have_their_closed_forms(seed, factor):
    rng = np.random.default_rng(seed)
    g, other = rng.normal(size=8), rng.normal(size=8)
    assert bool(sharpness.conflict([g], [other])) == (g @ (other - g) < 0)
    if abs(factor - 1) > 1e-6:
        assert bool(sharpness.conflict([g], [factor * g])) == (factor < 1)
    assert float(sharpness.cosine([g], [factor * g])) == pytest.approx(1)
    assert float(sharpness.cosine([g], [np.zeros(8)])) == 0


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_gradient_of_zero_moves_nothing(dtype):
    deltas, norm, _, _ = step([np.zeros((2, 3), dtype), np.zeros(4, dtype)], RHO, 1e-3)
    assert norm == 0
    assert all(d.dtype == dtype and not d.any() for d in deltas)


def test_norms_accumulate_in_float32():
    many = np.full(70_000, 0.25, np.float16)
    assert float(sharpness.global_norm([many])) == pytest.approx(0.25 * math.sqrt(70_000), rel=1e-6)
    assert keras.backend.standardize_dtype(sharpness.global_norm([many, np.zeros(1)]).dtype) == "float64"
    assert float(sharpness.global_norm([])) == 0


# -- the radius ---------------------------------------------------------------------------------------------


def run(schedule, gap_of_radius, steps):
    """Radii of a closed loop, in float64."""
    state, radii = schedule.initial_state("float64"), []
    for _ in range(steps):
        radii.append(float(schedule.radius(state)))
        state = schedule.update(state, gap_of_radius(radii[-1]))
    return radii


gaps = st.one_of(
    st.floats(width=32),
    st.sampled_from([0.0, -1.0, 1e-45, math.nan, math.inf, -math.inf]),
)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["inverse", "automatic", "direct", "fixed"]),
    st.lists(gaps, min_size=1, max_size=8),
    st.floats(0, 1),
)
def test_the_radius_stays_in_its_bounds(kind, observed, beta):
    automatic = kind == "automatic"
    kind, phi = ("inverse", None) if automatic else (kind, 2e-3 if kind == "inverse" else None)
    schedule = RadiusSchedule(kind, 0.1, phi, beta, window=3)
    state = schedule.initial_state()
    for gap in observed:
        state = schedule.update(state, np.float32(gap))
        rho = float(schedule.radius(state))
        assert np.float32(schedule.lowest) <= rho <= np.float32(0.1)


@pytest.mark.parametrize("gap", [0.0, -0.5, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["inverse", "direct"])
def test_an_unusable_gap_asks_for_the_largest_radius(kind, gap):
    schedule = RadiusSchedule(kind, 0.1, 1e-3 if kind == "inverse" else None, beta=1.0)
    state = schedule.update(schedule.initial_state("float64"), 0.05)
    assert float(schedule.radius(state)) < 0.1
    assert float(schedule.radius(schedule.update(state, gap))) == pytest.approx(0.1, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(1e-6, 50), min_size=2, max_size=6))
def test_the_radius_is_monotone_in_the_gap(values):
    ordered = np.array(sorted(values))
    inverse = np.array([RadiusSchedule("inverse", 0.1, 5e-3).target(h, 5e-3) for h in ordered])
    direct = np.array([RadiusSchedule("direct", 0.1).target(h, None) for h in ordered])
    assert (np.diff(inverse) <= 0).all()
    assert (np.diff(direct) >= 0).all()


def test_the_largest_radius_is_left_at_the_gap_of_the_closed_form():
    schedule, phi = RadiusSchedule("inverse", 0.1, 5e-3), 5e-3
    corner = math.exp(phi / 0.1) - 1
    assert float(schedule.target(np.float64(corner), phi)) == pytest.approx(0.1, rel=1e-12)
    assert float(schedule.target(np.float64(corner * 0.999), phi)) == 0.1
    assert float(schedule.target(np.float64(corner * 1.001), phi)) < 0.1


def test_damping_stops_the_cycle_of_the_radius():
    def gap(rho):
        return np.float64(rho + 5 * rho**2)

    undamped = run(RadiusSchedule("inverse", 0.1, 2.5e-3, beta=1.0), gap, 40)
    assert sorted(undamped[-2:]) == pytest.approx([0.0179, 0.100], abs=5e-5)
    assert undamped[-4:-2] == pytest.approx(undamped[-2:])
    damped = run(RadiusSchedule("inverse", 0.1, 2.5e-3, beta=0.5), gap, 40)
    assert damped[-1] == pytest.approx(0.0457, abs=1e-4)
    assert damped[-2] == pytest.approx(damped[-1], abs=1e-9)


def test_a_schedule_that_takes_nothing_from_the_gap_keeps_its_radius():
    radii = run(RadiusSchedule("inverse", 0.07, 1e-3, beta=0.0), lambda rho: np.float64(RNG.uniform()), 20)
    assert set(radii) == {0.07}
    assert set(run(RadiusSchedule("fixed", 0.07), lambda rho: np.float64(1.0), 5)) == {0.07}


def test_a_state_that_was_stored_goes_on_bitwise(tmp_path):
    schedule = RadiusSchedule(rho_max=0.1, window=4)
    observed = RNG.uniform(0.01, 1, size=12).astype(np.float32)
    state = schedule.initial_state()
    for gap in observed[:7]:
        state = schedule.update(state, gap)
    np.savez(tmp_path / "state.npz", **{name: ops.convert_to_numpy(value) for name, value in state.items()})
    with np.load(tmp_path / "state.npz") as stored:
        resumed = {name: stored[name] for name in stored.files}
    for gap in observed[7:]:
        state, resumed = schedule.update(state, gap), schedule.update(resumed, gap)
    for name, value in state.items():
        np.testing.assert_array_equal(ops.convert_to_numpy(value), ops.convert_to_numpy(resumed[name]))


def test_phi_is_derived_from_the_median_of_the_first_valid_gaps():
    schedule = RadiusSchedule(rho_max=0.1, beta=1.0, window=4)
    state = schedule.initial_state("float64")
    for gap in (0.4, math.nan, 0.1, -1.0, 0.2):
        state = schedule.update(state, np.float64(gap))
        assert float(schedule.radius(state)) == 0.1
    state = schedule.update(state, np.float64(0.8))
    phi = 0.1 * math.log1p((0.2 + 0.4) / 2)
    assert float(schedule.radius(state)) == pytest.approx(phi / math.log1p(0.8))
    for gap in (5.0, 0.35):
        state = schedule.update(state, np.float64(gap))
        assert float(schedule.radius(state)) == pytest.approx(phi / math.log1p(gap))
    assert float(schedule.radius(schedule.update(state, np.float64(0.01)))) == pytest.approx(0.1)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="compiles by TensorFlow")
def test_a_compiled_step_gives_the_same_radii():
    import tensorflow as tf

    schedule = RadiusSchedule(rho_max=0.1, window=3)
    compiled = tf.function(schedule.update)
    eager = state = {name: tf.constant(value) for name, value in schedule.initial_state().items()}
    for gap in (0.3, 0.2, -0.1, 0.5, 0.9):
        eager, state = schedule.update(eager, tf.constant(gap)), compiled(state, tf.constant(gap))
        assert state.keys() == schedule.initial_state().keys()
        for name in state:
            np.testing.assert_allclose(state[name], eager[name], rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"rho_max": 0.0}, {"rho_max": math.nan}, {"rho_max": math.inf}, {"rho_min": 0.2}, {"rho_min": 0.0},
        {"beta": 1.5}, {"beta": -0.1}, {"phi": 0.0}, {"phi": 1e-3, "kind": "direct"}, {"window": 0},
    ],
)  # fmt: skip
def test_a_schedule_that_makes_no_sense_is_refused(options):
    with pytest.raises(UsageError, match="Received: "):
        RadiusSchedule(**options)
