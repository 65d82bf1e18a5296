"""What a search can be asked for.

Nothing heavy is imported here, so that the command line can read the names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfmpq.errors import UsageError
from tfmpq.methods.common_options import (
    PRECISIONS,
    SHARPNESS,
    BudgetOptions,
    DataOptions,
    MethodOptions,
    PerturbationOptions,
    PinOptions,
    PreprocessOptions,
    SearchedWidthOptions,
    TrainingOptions,
    weights_option,
)
from tfmpq.options import Options, option

RADII = ("inverse", "direct", "fixed")
PERTURBED = ("quantized", "latent")
SELECTIONS = ("argmax", "knapsack", "least-sharp")


_LATENCY = "Budgets of latency"


@dataclass(frozen=True, kw_only=True)
class SharpnessKnobs(Options):
    """What sharpness-aware methods can be told."""

    radius: str | None = option(
        None,
        "text",
        "How asga's radius follows the surrogate gap h: phi / ln(1 + h), ln(1 + h), or not at all.",
        shown="inverse",
        choices=RADII,
        section=SHARPNESS,
        recorded="given",
    )
    rho_max: float | None = option(
        None,
        "number",
        "Largest radius; the radius of methods with a fixed one.",
        shown="0.05; with --adaptive 0.5",
        metavar="RHO",
        least=0,
        open=True,
        section=SHARPNESS,
        recorded="given",
    )
    phi: float | None = option(
        None,
        "number",
        "Constant of the inverse radius.",
        shown="from the first gaps",
        metavar="PHI",
        least=0,
        open=True,
        section=SHARPNESS,
        recorded="given",
    )
    alpha: float | None = option(
        None,
        "number",
        "How strongly both gradients are aligned.",
        shown="0.001; gsam: 0.4",
        metavar="ALPHA",
        least=0,
        section=SHARPNESS,
        recorded="given",
    )
    perturb: str = option(
        "quantized",
        "text",
        "What is perturbed: kernels after quantization, or before.",
        choices=PERTURBED,
        section=SHARPNESS,
    )


@dataclass(frozen=True, kw_only=True)
class SelectionKnobs(Options):
    """What methods that learn probabilities can be told."""

    select: str = option(
        "knapsack",
        "text",
        "How bits follow from learned probabilities: the most probable of each layer, narrowed to the "
        "budget; the most probable within the budget, exactly; the least sharp of 20 that are drawn.",
        choices=SELECTIONS,
        recorded="given",
    )
    prune_below: float | None = option(
        None,
        "number",
        "Drop bit-widths whose probability is below P at the end of an epoch, such as 0.01.",
        shown="none",
        metavar="P",
        least=0,
        most=0.5,
        open=True,
        recorded="given",
    )
    precision: str = option(
        "float32",
        "text",
        "Precision of activations and convolutions during the search; for GPUs and TPUs.",
        choices=PRECISIONS,
        recorded="given",
    )


@dataclass(frozen=True, kw_only=True)
class LatencyOptions(Options):
    """What a budget of latency is for."""

    latency_table: str | Path | None = option(
        None,
        "file",
        "What tfmpq profile has measured, for --budget latency=2.5ms or latency=0.9x.",
        metavar="FILE.json",
        section=_LATENCY,
        recorded="never",
    )
    on: str | None = option(
        None,
        "text",
        "Device that the latency is for: local, ssh:HOST or adb[:SERIAL]; the table has to be that of its "
        "processor and runtime.",
        shown="local for a table that was measured so, else not asked",
        metavar="TARGET",
        section=_LATENCY,
        recorded="never",
    )
    threads: int | None = option(
        None,
        "whole",
        "Threads of the runtime that the latency is for.",
        shown="the table's",
        metavar="N",
        least=1,
        section=_LATENCY,
        recorded="never",
    )
    ssh_config: str | Path | None = option(
        None,
        "file",
        "Configuration file for ssh and scp (their -F).",
        shown="~/.ssh/config",
        metavar="FILE",
        envvar="TFMPQ_SSH_CONFIG",
        section=_LATENCY,
        recorded="never",
    )


@dataclass(frozen=True, kw_only=True)
class SearchOptions(
    LatencyOptions,
    PerturbationOptions,
    SharpnessKnobs,
    PreprocessOptions,
    TrainingOptions,
    SelectionKnobs,
    MethodOptions,
    PinOptions,
    SearchedWidthOptions,
    BudgetOptions,
    DataOptions,
):
    """The options of `tfmpq.search`, each described in `tfmpq search --help` and docs/cli.md."""

    weights: str | None = weights_option("those of a model file, else float training on the proxy")
    pareto: tuple[str, ...] = option(
        (),
        "texts",
        "Write a policy for each of these budgets of size, such as 0.3x,0.4x,0.5x, from one search at the "
        "middle one.",
        metavar="LIMIT,...",
        recorded="given",
    )
    float_epochs: int | None = option(
        None,
        "whole",
        "Epochs of float training before the search.",
        shown="those of --epochs without trained weights, else 0",
        metavar="N",
        least=0,
    )
    target_input: int | None = option(
        None,
        "whole",
        "Image side in pixels at which the budget counts BOPs.",
        shown="that of the proxy",
        metavar="N",
        least=1,
    )
    target_classes: int | None = option(
        None,
        "whole",
        "Classes for which the budget counts the last layer.",
        shown="those of the proxy",
        metavar="N",
        least=2,
    )
    imitate: bool = option(
        False,
        "switch",
        "Learn to give what the float network gives on the proxy's images, not their labels; it keeps the "
        "classes of its weights (--target-classes).",
        recorded="given",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dynamic and self.latency_table is not None:
            raise UsageError(
                "A table of tfmpq profile has the times of integer activations. Received: "
                f"{self.latency_table} with --activation-bits dynamic. Leave one out."
            )

    @property
    def knobs(self) -> dict[str, Any]:
        """The knobs that were given another value than their default."""
        return {name: value for name, value in self.changed.items() if name in KNOBS}

    @property
    def description(self) -> str:
        """The method with its knobs, for records: `asga (rho_max=0.1, norm=layer)`."""
        given = self.knobs
        knobs = ", ".join(f"{name}={given[name]}" for name in KNOBS if name in given)
        return f"{self.method} ({knobs})" if knobs else self.method


_DEFAULTS = SharpnessKnobs.defaults() | PerturbationOptions.defaults() | SelectionKnobs.defaults()
KNOBS: Mapping[str, Any] = {name: _DEFAULTS[name] for name in ("perturb", *_DEFAULTS)}
"""Options that not every method has, with their defaults; None stands for the method's own value."""
