"""The mathematics of sharpness-aware steps: ascent, alignment, surrogate gap, adaptive radius.

ASGA (arXiv 2505.04877) builds on SAGM: with g the gradient at the weights and u = g / ||g||, the second
gradient is taken at a step of length rho - alpha ||g|| along u, and both gradients are averaged. That is SAM
with a shorter radius, exactly, and to leading order it minimises L + rho/2 ||g|| - alpha/4 ||g||^2.
Everything here is a pure function of tensors and works inside a compiled step of either backend.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
from keras import ops

from tfmpq.errors import UsageError

Tensor = Any
RadiusKind = Literal["inverse", "direct", "fixed"]

_EPSILON = 1e-12
_GUARD = 0.5
_SMALLEST = 1e-30


class Ascent(NamedTuple):
    """A perturbation of a list of tensors.

    Attributes:
        deltas: What is added, in the order, shapes and dtypes of the gradients.
        norm: Global norm of the (scaled) gradients.
        directions: What `deltas` are multiples of: the gradients, times the square of their scales.
        groups: Positions of the tensors that share a norm.
        alphas: Alignment constant of each group after the guard: by this multiple of `directions` the step
            is shorter than the radius.
        guarded: Whether the guard lowered alpha (in any group); boolean scalar.
    """

    deltas: list[Tensor]
    norm: Tensor
    directions: list[Tensor]
    groups: Sequence[Sequence[int]]
    alphas: list[Tensor]
    guarded: Tensor


def global_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm over all tensors together, in float32 (in float64 if one of them is float64)."""
    return ops.sqrt(inner(tensors, tensors))


def inner(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Inner product over all tensors together, in the dtype of `global_norm`."""
    dtype = _accumulator((*first, *second))
    total = ops.zeros((), dtype)
    for a, b in zip(first, second, strict=True):
        total = total + ops.sum(ops.cast(a, dtype) * ops.cast(b, dtype))
    return total


def cosine(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Cosine of the angle between two lists of tensors, 0 if one of them is zero."""
    return inner(first, second) / (global_norm(first) * global_norm(second) + _SMALLEST)


def ascent(
    gradients: Sequence[Tensor],
    rho: Any,
    alpha: Any,
    scales: Sequence[Tensor] | None = None,
    groups: Sequence[Sequence[int]] | None = None,
) -> Ascent:
    """The step to the point where the second gradient is taken: (rho / ||g|| - alpha) g.

    Where alpha ||g|| exceeds rho the step would turn around and descend, so alpha is limited to
    0.5 rho / ||g||. A zero gradient gives a zero step.

    Args:
        gradients: Gradients of all perturbed tensors.
        rho: Perturbation radius, in the unit of the tensors.
        alpha: Alignment constant; 0 is SAM.
        scales: ASAM's element-wise scales t (Kwon et al., ICML 2021), in the shapes of the gradients: the
            norm is that of t g, the step (rho / ||t g|| - alpha) t^2 g, and rho has no unit.
        groups: Positions of the tensors that share a norm; None for one norm of all. Each group moves by
            rho / sqrt(number of groups), so that the whole step keeps its length.
    """
    scaled = directions = list(gradients)
    if scales is not None:
        scaled = [t * g for t, g in zip(scales, gradients, strict=True)]
        directions = [t * g for t, g in zip(scales, scaled, strict=True)]
    norm = global_norm(scaled)
    groups = [range(len(scaled))] if groups is None else groups
    rho = _as(rho, norm) / math.sqrt(max(1, len(groups)))
    alpha = _as(alpha, norm)
    deltas = list(directions)
    alphas: list[Tensor] = []
    guarded = ops.convert_to_tensor(False)
    for members in groups:
        length = norm if len(groups) == 1 else global_norm([scaled[i] for i in members])
        largest = _GUARD * rho / (length + _EPSILON)
        guarded = ops.logical_or(guarded, alpha > largest)
        limited = ops.minimum(alpha, largest)
        factor = (rho - limited * length) / (length + _EPSILON)
        for i in members:
            deltas[i] = ops.cast(factor * ops.cast(directions[i], norm.dtype), gradients[i].dtype)
        alphas.append(limited)
    return Ascent(deltas, norm, directions, groups, alphas, guarded)


def combine(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of the update, (g + g2) / 2 for each tensor; exactly g where g2 equals g."""
    return [(g + g2) * 0.5 for g, g2 in zip(first, second, strict=True)]


def combine_gap_guided(first: Sequence[Tensor], second: Sequence[Tensor], alpha: float) -> list[Tensor]:
    """GSAM's update, g2 - alpha * (the part of g orthogonal to g2); one projection over all tensors.

    Going against that part lowers the surrogate gap and leaves the perturbed loss alone, to first order
    (Zhuang et al., ICLR 2022, algorithm 1).
    """
    along = inner(first, second) / (inner(second, second) + _SMALLEST)
    updates = []
    for g, g2 in zip(first, second, strict=True):
        across = ops.cast(g, along.dtype) - along * ops.cast(g2, along.dtype)
        updates.append(g2 - ops.cast(alpha * across, g2.dtype))
    return updates


def relative_rejection(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
    """The part of each g2 that is orthogonal to its g, in units of ||g||, tensor by tensor.

    It changes slowly from step to step, so that g + ||g|| * (this) stands in for g2 until the second gradient
    is taken anew (LookSAM, Liu et al., CVPR 2022). The paper scales this part by a constant; here it keeps
    the relative length that was measured. Zero where g is zero.
    """
    found = []
    for g, g2 in zip(first, second, strict=True):
        square = inner([g], [g])
        wide, wide2 = ops.cast(g, square.dtype), ops.cast(g2, square.dtype)
        across = wide2 - inner([g], [g2]) / (square + _SMALLEST) * wide
        usable = square > _SMALLEST
        length = ops.sqrt(ops.where(usable, square, ops.ones_like(square)))
        found.append(ops.cast(ops.where(usable, across / length, ops.zeros_like(across)), g2.dtype))
    return found


def reused_second(first: Sequence[Tensor], rejection: Sequence[Tensor]) -> list[Tensor]:
    """The second gradient that `relative_rejection` of an earlier step stands in for."""
    return [g + ops.cast(global_norm([g]), g.dtype) * r for g, r in zip(first, rejection, strict=True)]


def surrogate_gap(loss: Tensor, shifted_loss: Tensor, step: Ascent, second: Sequence[Tensor]) -> Tensor:
    """Surrogate gap h, the rise of the loss at full radius.

    The second pass sees the loss at a radius that is shorter by alpha ||g||; to first order the difference is
    alpha <g2, g>, which is added back.

    Args:
        loss: Loss at the weights, scalar.
        shifted_loss: Loss at the weights plus `step.deltas`, scalar.
        step: The ascent.
        second: Gradients g2 at the shifted point, of the same tensors.
    """
    correction = ops.zeros((), _accumulator((*step.directions, *second)))
    for members, alpha in zip(step.groups, step.alphas, strict=True):
        product = inner([step.directions[i] for i in members], [second[i] for i in members])
        correction = correction + ops.cast(alpha, correction.dtype) * ops.cast(product, correction.dtype)
    return _as(shifted_loss, correction) - _as(loss, correction) + correction


def conflict(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Whether descending the loss raises the surrogate gap: <g2, g> < ||g||^2; boolean scalar."""
    return inner(first, second) < inner(first, first)


def top_eigenvalue(gap: Tensor, rho: Tensor) -> Tensor:
    """2 h / rho^2: the Hessian's largest eigenvalue if the weights are at a minimum (GSAM, ICLR 2022)."""
    return 2.0 * gap / ops.square(_as(rho, gap))


@dataclass(frozen=True, slots=True)
class RadiusSchedule:
    """Adapts the perturbation radius rho to the surrogate gap h of the step before.

    Targets: `inverse` min(rho_max, phi / ln(1 + h)), small while the network is sharp; `direct`
    min(rho_max, ln(1 + h)); `fixed` rho_max. Descriptions of the method disagree on the formula, hence the
    choice. Rho feeds back on h, and undamped the inverse form can alternate for ever, so rho moves to the
    target by the share `beta` of the way on a log scale. A gap that is not positive and finite has the target
    rho_max.

    Without phi, rho stays at rho_max until `window` valid gaps were seen, and from then on
    phi = rho_max * ln(1 + their median).

    The state is a dict of tensors: `rho` () and, without phi, `gaps` (window,) and `count` (), all of one
    float dtype.

    Attributes:
        kind: Which target.
        rho_max: Largest radius, in the unit of the perturbed tensors.
        phi: Constant of the inverse form; None derives it.
        beta: Damping; 1 is undamped, 0 keeps rho; at most 0.5 is stable.
        rho_min: Smallest radius; rho_max / 100 if None.
        window: Number of gaps that the derived phi is the median of.
    """

    kind: RadiusKind = "inverse"
    rho_max: float = 0.05
    phi: float | None = None
    beta: float = 0.5
    rho_min: float | None = None
    window: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.lowest <= self.rho_max < math.inf:
            raise UsageError(f"Radii obey 0 < rho_min <= rho_max. Received: {self}. Correct them.")
        if not 0 <= self.beta <= 1:
            raise UsageError(f"Damping is between 0 and 1. Received: beta={self.beta}. Take 0.5.")
        if self.phi is not None and (self.kind != "inverse" or not 0 < self.phi < math.inf):
            raise UsageError(
                "phi is a positive number of the inverse form. "
                f"Received: phi={self.phi}, kind={self.kind}. Leave it out."
            )
        if self.window < 1:
            raise UsageError(f"A median needs a value. Received: window={self.window}. Take 100.")

    @property
    def lowest(self) -> float:
        """The smallest radius."""
        return self.rho_max / 100 if self.rho_min is None else self.rho_min

    def initial_state(self, dtype: str = "float32") -> dict[str, np.ndarray]:
        """State before the first step."""
        state = {"rho": np.asarray(self.rho_max, dtype)}
        if self._derives_phi:
            state |= {"gaps": np.zeros(self.window, dtype), "count": np.zeros((), dtype)}
        return state

    def radius(self, state: Mapping[str, Tensor]) -> Tensor:
        """Radius of the coming step."""
        return state["rho"]

    def update(self, state: Mapping[str, Tensor], gap: Tensor) -> dict[str, Tensor]:
        """State after a step whose surrogate gap was `gap`; pure, to be compiled."""
        rho = ops.convert_to_tensor(state["rho"])
        gap = _as(gap, rho)
        if self.kind == "fixed":
            return {"rho": rho}
        if not self._derives_phi:
            return {"rho": self._damped(rho, self.target(gap, self.phi))}
        memory = self._remember(state, gap)
        phi = self.rho_max * ops.log1p(ops.median(memory["gaps"]))
        moved = self._damped(rho, self.target(gap, phi))
        return {"rho": ops.where(memory["count"] < self.window, rho, moved), **memory}

    def target(self, gap: Tensor, phi: Tensor | float | None) -> Tensor:
        """The undamped radius for a gap; phi is for the inverse form."""
        usable = _usable(gap)
        log = ops.log1p(ops.where(usable, gap, ops.ones_like(gap)))
        wanted = log if self.kind == "direct" else phi / ops.maximum(log, _SMALLEST)
        wanted = ops.where(usable, wanted, self.rho_max * ops.ones_like(gap))
        return ops.clip(wanted, self.lowest, self.rho_max)

    @property
    def _derives_phi(self) -> bool:
        return self.kind == "inverse" and self.phi is None

    def _damped(self, rho: Tensor, target: Tensor) -> Tensor:
        return ops.clip(rho * ops.power(target / rho, self.beta), self.lowest, self.rho_max)

    def _remember(self, state: Mapping[str, Tensor], gap: Tensor) -> dict[str, Tensor]:
        """Stores a valid gap in the next free place, if there is one."""
        gaps, count = ops.convert_to_tensor(state["gaps"]), ops.convert_to_tensor(state["count"])
        usable = _usable(gap)
        here = ops.logical_and(usable, ops.equal(ops.arange(self.window, dtype=gaps.dtype), count))
        free = ops.logical_and(usable, count < self.window)
        return {
            "gaps": ops.where(here, gap, gaps),
            "count": count + ops.cast(free, gaps.dtype),
        }


def _usable(gap: Tensor) -> Tensor:
    return ops.logical_and(ops.isfinite(gap), gap > 0)


def _as(value: Any, like: Tensor) -> Tensor:
    """The value in another tensor's dtype; unlike `cast`, it takes Python floats at full precision."""
    return ops.convert_to_tensor(value, dtype=like.dtype)


def _accumulator(tensors: Sequence[Tensor]) -> str:
    wide = any(keras.backend.standardize_dtype(t.dtype) == "float64" for t in tensors)
    return "float64" if wide else "float32"
