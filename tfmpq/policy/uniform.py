"""Policies with one width for all layers but the first and the last: `uniform:WEIGHTS[/ACTIVATIONS]`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tfmpq.errors import UsageError
from tfmpq.graph.containers import WEIGHT_BITS
from tfmpq.graph.dynamic import DYNAMIC
from tfmpq.graph.network import Network
from tfmpq.policy.cost import REFERENCE_BITS
from tfmpq.policy.fixed_widths import pinned_tensors
from tfmpq.policy.policy import Activations, Policy, uniform_policy
from tfmpq.policy.search_space import PINNED_BITS

_PREFIX = "uniform:"
_FORM = re.compile(r"uniform:(\d{1,3})(?:/(\d{1,3}|dynamic))?")
SAME_ENDS = "same"
"""What stands for ends without a width of their own."""


def names_uniform(source: object) -> bool:
    """Whether a source of bit-widths is a text that begins with `uniform:`."""
    return isinstance(source, str) and source.startswith(_PREFIX)


@dataclass(frozen=True, slots=True)
class UniformWidths:
    """Bit-widths of any network, as the papers on uniform quantization have them.

    Attributes:
        weights: Bits of weights.
        activations: Bits of activation tensors. The image, the logits and grids that are given have 8. Or
            `dynamic`: floats, which kernels quantize.
        ends: Bits of the first and last layers' weights and of the tensor that the last layer reads (SAQ's
            rule, arXiv 2111.12273); None for those of the others.
    """

    weights: int
    activations: int | str
    ends: int | None

    @classmethod
    def read(cls, text: str, ends: int | str | None) -> UniformWidths:
        """Read `uniform:4` (activations of 8 bits), `uniform:2/4` or `uniform:4/dynamic`.

        Args:
            text: The text.
            ends: Bits of the ends, `same`, or None for 8.

        Raises:
            UsageError: The text has another form, or a width is not one of 2 to 8.
        """
        match = _FORM.fullmatch(text)
        found = match.groups(default=str(REFERENCE_BITS)) if match else ()
        widths = [DYNAMIC if width == DYNAMIC else int(width) for width in found]
        if not widths or not all(width == DYNAMIC or width in WEIGHT_BITS for width in widths):
            raise UsageError(
                f"Uniform widths are uniform:WEIGHTS[/ACTIVATIONS], each {WEIGHT_BITS[0]} to "
                f"{WEIGHT_BITS[-1]} bits, or activations {DYNAMIC}. Received: {text!r}. Write uniform:4, "
                f"uniform:2/4 or uniform:4/{DYNAMIC}."
            )
        kept = PINNED_BITS if ends is None else None if ends == SAME_ENDS else int(ends)
        return cls(int(widths[0]), widths[1], kept)

    @property
    def dynamic(self) -> bool:
        """Whether activations are float."""
        return self.activations == DYNAMIC

    def policy(self, network: Network, model: str) -> Policy:
        """The widths of a network, by name.

        Args:
            network: The network.
            model: What it was asked for as.

        Raises:
            UsageError: The network has no layer between its first and its last one.
        """
        names = [node.name for node in network.weighted]
        pinned = pinned_tensors(network)
        bits = REFERENCE_BITS if isinstance(self.activations, str) else self.activations
        tensors = {name: bits for name in network.tensors if name not in pinned}
        layers: dict[str, int] = {}
        if self.ends is not None:
            if len(names) < 3:
                raise UsageError(
                    "Ends are the first and the last layer with weights, and the uniform width is for those "
                    f"between. Received: {model} with {', '.join(names)} alone. Give --ends same."
                )
            layers = {names[0]: self.ends, names[-1]: self.ends}
            tensors[network.node(network.weighted[-1].inputs[0]).grid_of] = self.ends
        told = {name: bits for name, bits in tensors.items() if name not in pinned and bits != REFERENCE_BITS}
        activations: Activations = "dynamic" if self.dynamic else told
        return uniform_policy(model, names, self.weights, activations, layers)
