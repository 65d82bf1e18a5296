"""What a search is asked for: one record of all options, and which of them depend on the method.

Nothing heavy is imported here, so that the command line can read the names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tfmpq.errors import UsageError

RADII = ("inverse", "direct", "fixed")
PERTURBED = ("quantized", "latent")
NORMS = ("global", "layer")
PRECISIONS = ("float32", "bfloat16")
SELECTIONS = ("argmax", "knapsack", "least-sharp")

KNOBS: Mapping[str, Any] = {
    "perturb": "quantized",
    "radius": None,
    "rho_max": None,
    "phi": None,
    "alpha": None,
    "norm": "global",
    "adaptive": False,
    "second_gradient_every": 1,
    "select": "knapsack",
    "prune_below": None,
    "precision": "float32",
}
"""Options that not every method has, with their defaults; None stands for the method's own value."""

_NAMED: Mapping[str, tuple[str, ...]] = {
    "perturb": PERTURBED,
    "radius": RADII,
    "norm": NORMS,
    "select": SELECTIONS,
    "precision": PRECISIONS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """The options of `tfmpq.search`, which describes them."""

    model: str
    proxy: str
    weights: str | None
    budgets: Sequence[str]
    pareto: Sequence[str]
    weight_bits: Sequence[int]
    activation_bits: Sequence[int]
    method: str
    perturb: str
    radius: str | None
    rho_max: float | None
    phi: float | None
    alpha: float | None
    norm: str
    adaptive: bool
    second_gradient_every: int
    select: str
    prune_below: float | None
    precision: str
    epochs: int
    steps_per_epoch: int | None
    batch_size: int
    seed: int
    float_epochs: int
    imitate: bool
    learning_rate: float | None
    preprocessing: str | None
    target_input: int | None
    target_classes: int | None
    latency_table: str | Path | None
    on: str | None
    threads: int | None
    ssh_config: str | Path | None

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> SearchOptions:
        """Picks the options from the arguments of a call.

        Raises:
            UsageError: One has a value that does not exist.
        """
        options = cls(**{field.name: arguments[field.name] for field in fields(cls)})
        for name, allowed in _NAMED.items():
            value = getattr(options, name)
            if value is not None and value not in allowed:
                raise UsageError(
                    f"{name} is one of {', '.join(allowed)}. Received: {value}. Take one of them."
                )
        if options.prune_below is not None and not 0 < options.prune_below < 0.5:
            raise UsageError(
                "A choice is dropped below a probability between 0 and 0.5. "
                f"Received: prune_below={options.prune_below}. Take 0.01."
            )
        return options

    @property
    def knobs(self) -> dict[str, Any]:
        """The knobs that were given another value than their default."""
        return {name: getattr(self, name) for name, value in KNOBS.items() if getattr(self, name) != value}

    @property
    def description(self) -> str:
        """The method with its knobs, for records: `asga (rho_max=0.1, norm=layer)`."""
        knobs = ", ".join(f"{name}={value}" for name, value in self.knobs.items())
        return f"{self.method} ({knobs})" if knobs else self.method
