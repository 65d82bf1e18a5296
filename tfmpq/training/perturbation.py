"""What a sharpness-aware step perturbs: quantized kernels, biases and BatchNorm's affine parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from keras import ops

from tfmpq.quantizers.wrapper import QuantizeWrapper
from tfmpq.training.variables import ADDED, WEIGHTS, positions

_SCALE_OFFSET = 0.01
"""ASAM's eta: what a weight of zero may move by, in units of the radius."""


@dataclass(frozen=True, slots=True)
class Ball:
    """The perturbed tensors of a training model: first the quantized kernels, then latent ones.

    Attributes:
        variables: All trainable variables of the model.
        quantized: The layers whose kernels are quantized.
        perturb: `quantized` perturbs quantized kernels, `latent` the latent ones.
    """

    variables: Sequence[Any]
    quantized: Sequence[QuantizeWrapper]
    perturb: Literal["quantized", "latent"]

    @property
    def wrappers(self) -> Sequence[QuantizeWrapper]:
        """The layers whose quantized kernels are in the ball."""
        return self.quantized if self.perturb == "quantized" else []

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
        kernels = {id(w.layer.kernel) for w in self.quantized}
        latent = self.perturb == "latent"
        return [i for i in self.weights if latent or id(self.variables[i]) not in kernels]

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
        weights = []
        for wrapper in self.wrappers:
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
