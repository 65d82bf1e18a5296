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
        norm: Global norm of the gradients.
        alpha: Alignment constant after the guard.
        guarded: Whether the guard lowered it; boolean scalar.
    """

    deltas: list[Tensor]
    norm: Tensor
    alpha: Tensor
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


def ascent(gradients: Sequence[Tensor], rho: Any, alpha: Any) -> Ascent:
    """The step to the point where the second gradient is taken: (rho / ||g|| - alpha) g.

    Where alpha ||g|| exceeds rho the step would turn around and descend, so alpha is limited to
    0.5 rho / ||g||. A zero gradient gives a zero step.

    Args:
        gradients: Gradients of all perturbed tensors.
        rho: Perturbation radius, in the unit of the tensors.
        alpha: Alignment constant; 0 is SAM.
    """
    norm = global_norm(gradients)
    rho, alpha = _as(rho, norm), _as(alpha, norm)
    largest = _GUARD * rho / (norm + _EPSILON)
    guarded = alpha > largest
    alpha = ops.minimum(alpha, largest)
    scale = (rho - alpha * norm) / (norm + _EPSILON)
    deltas = [ops.cast(scale * ops.cast(g, norm.dtype), g.dtype) for g in gradients]
    return Ascent(deltas, norm, alpha, guarded)


def combine(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of the update, (g + g2) / 2 for each tensor; exactly g where g2 equals g."""
    return [(g + g2) * 0.5 for g, g2 in zip(first, second, strict=True)]


def surrogate_gap(
    loss: Tensor, shifted_loss: Tensor, first: Sequence[Tensor], second: Sequence[Tensor], alpha: Tensor
) -> Tensor:
    """Surrogate gap h, the rise of the loss at full radius.

    The second pass sees the loss at a radius that is shorter by alpha ||g||; to first order the difference is
    alpha <g2, g>, which is added back.

    Args:
        loss: Loss at the weights, scalar.
        shifted_loss: Loss at the weights plus `ascent(...).deltas`, scalar.
        first: Gradients g at the weights, of the perturbed tensors.
        second: Gradients g2 at the shifted point, of the same tensors.
        alpha: `ascent(...).alpha`.
    """
    product = inner(first, second)
    correction = _as(alpha, product) * product
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
