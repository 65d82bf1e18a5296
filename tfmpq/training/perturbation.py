"""What a sharpness-aware step perturbs: quantized kernels, biases and BatchNorm's affine parameters.

SAQ (arXiv 2111.12273) tells three ways apart to bring the perturbation e and the quantizer Q together. With
e(v) = rho * gradient at v / norm, the second pass sees the kernel

1. Q(w) + e(w): `independent`. Where w is clipped, its gradient is zero, and the direction is not Q(w)'s.
2. Q(w + e(w)): `latent`. Few codes flip, and each of those jumps a whole step.
3. Q(w) + e(Q(w)): `quantized`. Neither happens; this is what SAQ adopts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from keras import ops

from tfmpq.quantizers.wrapper import QuantizeWrapper
from tfmpq.training.variables import ADDED, WEIGHTS, positions

Perturb = Literal["quantized", "latent", "independent"]
"""Which kernels are perturbed: SAQ's cases 3, 2 and 1."""

_SCALE_OFFSET = 0.01
"""ASAM's eta: what a weight of zero may move by, in units of the radius."""


@dataclass(frozen=True, slots=True)
class Ball:
    """The perturbed tensors of a training model: first the quantized kernels, then latent ones.

    Attributes:
        variables: All trainable variables of the model.
        quantized: The layers whose kernels are quantized.
        perturb: Which kernels are perturbed.
    """

    variables: Sequence[Any]
    quantized: Sequence[QuantizeWrapper]
    perturb: Perturb

    @property
    def wrappers(self) -> Sequence[QuantizeWrapper]:
        """The layers whose kernels move after quantization."""
        return [] if self.perturb == "latent" else self.quantized

    def parts(self, gradients: Sequence[Any]) -> list[Any]:
        """The gradients that the perturbation of each tensor is made of.

        Args:
            gradients: Those of all variables, then those of the kernels of `wrappers` after quantization.
        """
        kernels = gradients[len(self.variables) :]
        if self.perturb == "independent":
            kernels = [gradients[i] for i in self._kernels]
        return [*kernels, *(gradients[i] for i in self.latent)]

    @property
    def _kernels(self) -> list[int]:
        """Positions of the latent kernels of the quantized layers."""
        index = {id(v): i for i, v in enumerate(self.variables)}
        return [index[id(wrapper.layer.kernel)] for wrapper in self.quantized]

    @property
    def weights(self) -> list[int]:
        """Positions of all weights among the variables, in the ball or not: all but logits and steps."""
        return positions(self.variables, WEIGHTS)

    @property
    def latent(self) -> list[int]:
        """Positions of the trainable variables in the ball: affine, biases, latent kernels on request.

        Logits and steps stay out: moving the policy between the two passes would mix policy change with
        sharpness.
        """
        kernels = () if self.perturb == "latent" else self._kernels
        return [i for i in self.weights if i not in kernels]

    @property
    def layers(self) -> list[list[int]]:
        """Positions in the ball, layer by layer."""
        names = [wrapper.name for wrapper in self.wrappers]
        names += [self.variables[i].path.split("/")[-2] for i in self.latent]
        groups: dict[str, list[int]] = {}
        for i, name in enumerate(names):
            groups.setdefault(name, []).append(i)
        return list(groups.values())

    def magnitudes(self, values: Sequence[Any]) -> list[Any]:
        """ASAM's scales: |weight| + eta, and 1 for what is added (beta, bias).

        Args:
            values: Tensors of all trainable variables.
        """
        index = {id(v): i for i, v in enumerate(self.variables)}
        weights = [values[i] for i in self._kernels] if self.perturb == "independent" else []
        for wrapper in self.wrappers if self.perturb == "quantized" else ():
            quantizer = wrapper.weight_quantizer
            assert quantizer is not None  # noqa: S101 narrowed for the type checker; only such are listed
            own = {name: values[index[id(v)]] for name, v in wrapper.weight_variables.items()}
            weights.append(quantizer(values[index[id(wrapper.layer.kernel)]], training=False, weights=own))
        scales = [ops.abs(weight) + _SCALE_OFFSET for weight in weights]
        added = set(positions(self.variables, ADDED))
        for i in self.latent:
            one = ops.ones_like(values[i])
            scales.append(one if i in added else ops.abs(values[i]) + _SCALE_OFFSET)
        return scales
