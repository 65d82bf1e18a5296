"""The widths that a search may choose from: what was asked for, and what layers are spared."""

from __future__ import annotations

from collections.abc import Sequence

from tfmpq.errors import UsageError
from tfmpq.graph.network import Network
from tfmpq.policy.allocation import check_feasible_together
from tfmpq.policy.budget import Budget
from tfmpq.policy.cost import CostModel
from tfmpq.policy.pins import Pins
from tfmpq.policy.search_space import (
    SAFE_BITS,
    Candidates,
    activation_candidates,
    classifiers,
    weight_candidates,
)
from tfmpq.progress import Reporter


def searched_widths(
    network: Network,
    costs: CostModel,
    budgets: Sequence[Sequence[Budget]],
    widths: tuple[Sequence[int], Sequence[int]],
    pins: Pins,
    reporter: Reporter,
    other_classes: bool = False,
) -> tuple[Candidates, Candidates]:
    """Candidate widths of every layer and every activation tensor.

    Classifiers get none below `SAFE_BITS` if all budgets can be met without, and the user did not say
    otherwise.

    Args:
        network: The network that is searched.
        costs: Counts of the network whose cost the budgets limit.
        budgets: Groups of budgets; those of one group are to be met together.
        widths: Candidate widths of weights and of activations.
        pins: What the user has given to single layers.
        reporter: Told which classifiers are spared, or that none can be.
        other_classes: Whether the deployed classifier is not the searched one.

    Raises:
        UsageError: A group of budgets cannot be met.
    """
    activations = activation_candidates(network, widths[1])
    weights = pins.applied(weight_candidates(network, widths[0], other_classes))
    narrow = [
        name
        for name in classifiers(network)
        if name not in pins and min(weights[name]) < SAFE_BITS <= max(weights[name])
    ]
    spared = weights | {name: tuple(w for w in weights[name] if w >= SAFE_BITS) for name in narrow}
    try:
        for group in budgets:
            check_feasible_together(group, costs, spared, activations)
    except UsageError:
        for group in budgets:
            check_feasible_together(group, costs, weights, activations)
        if narrow:
            reporter.log(
                f"The budget cannot be met with {SAFE_BITS} bits in {', '.join(narrow)}; classifiers "
                "lose much with fewer."
            )
        return weights, activations
    if narrow:
        allowing = " ".join(f"--at-least {name}={min(weights[name])}" for name in narrow)
        reporter.log(
            f"Classifiers get at least {SAFE_BITS} bits: {', '.join(narrow)} ({allowing} allows fewer)."
        )
    return spared, activations
