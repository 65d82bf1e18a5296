"""The search of a compression: one sensitivity analysis, its front, and the candidate that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tfmpq.api.candidates import Candidate, Forms, Workbench
from tfmpq.api.search import Asked, policy_of_choice
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.methods.compress_options import CompressOptions
from tfmpq.methods.front import FrontPoint, size_front
from tfmpq.methods.method import Choice, Outcome, Problem
from tfmpq.methods.options import SearchOptions
from tfmpq.policy.budget import parse_budgets
from tfmpq.policy.cost import CostModel
from tfmpq.policy.network_cost import cost_model
from tfmpq.policy.pins import NO_PINS
from tfmpq.policy.searched_widths import searched_widths
from tfmpq.policy.smallest import smallest_passing
from tfmpq.tasks.paired import Pairing
from tfmpq.training.run_folder import Stage
from tfmpq.units import bytes_text, percent_text, points_text

MOST_CANDIDATES = 8
"""Networks that are reconstructed and scored, uniform 8 bits among them."""

UNIFORM_BITS = 8

_BY_SIZE = " Layers whose smaller forms are too slow here count with 8 bits: --prefer size takes these forms."


@dataclass(frozen=True, slots=True)
class DropTest:
    """What a candidate has to keep.

    Attributes:
        most: Largest drop of the score, as a share.
        confidence: Share of samples whose bound holds.
    """

    most: float
    confidence: float

    def passes(self, candidate: Candidate) -> bool:
        """Whether the confidence bound of the drop is within the limit."""
        return _pairing(candidate).at_most(self.confidence) <= self.most

    def refuse_lost(self, candidate: Candidate) -> None:
        """Refuse a network that loses too much at 8 bits already: no smaller one will keep more.

        Raises:
            TfmpqError: It does, or the images are too few to tell.
        """
        if self.passes(candidate):
            return
        found = _pairing(candidate)
        bound = found.at_most(self.confidence)
        told = (
            f"{points_text(found.drop)}, at most {points_text(bound)} with {self.confidence:.4g} confidence, "
            f"on {found.count} held-out images"
        )
        least = percent_text(bound + 5e-5)
        needed = found.images_needed(self.most, self.confidence)
        if needed is None:
            raise TfmpqError(
                f"A smaller file loses more than int8. Received: a drop of at most {points_text(self.most)}, "
                f"where int8 alone loses {told}. Ask for --max-drop {least} or more, train the "
                f"network with quantization (tfmpq finetune), or name a size (--budget size=0.5x)."
            )
        raise TfmpqError(
            "Images have to be enough to tell a drop. Received: a drop of at most "
            f"{points_text(self.most)}, where int8 loses {told}. About {needed} held-out images would "
            f"tell; give them, ask for --max-drop {least} or more, or name a size (--budget size=0.5x)."
        )


def _pairing(candidate: Candidate) -> Pairing:
    assert candidate.pairing is not None  # noqa: S101 narrowed for the type checker; drops have held-out images
    return candidate.pairing


@dataclass(slots=True, eq=False)
class Searched:
    """What was found.

    Attributes:
        points: The front from the largest to the smallest; the first is uniform 8 bits.
        tried: Candidates by the index of their point.
        chosen: Index of the one that is asked for.
        failed: Index of the next smaller one that was tried and lost too much; None without one.
    """

    points: tuple[FrontPoint, ...]
    tried: dict[int, Candidate] = field(default_factory=dict)
    chosen: int = 0
    failed: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """What the widths of a network do, and what they cost.

    Attributes:
        bench: Makes candidates.
        forms: What decides between the forms of layers.
        problem: Network, costs in the bytes of the file, budgets.
        asked: What the policies say that they are for.
        outcome: The sensitivity of every layer.
    """

    bench: Workbench
    forms: Forms
    problem: Problem
    asked: Asked
    outcome: Outcome

    @property
    def costs(self) -> CostModel:
        """Costs in the bytes of the file."""
        return self.problem.costs

    def front(self) -> tuple[FrontPoint, ...]:
        """The front, with uniform 8 bits in front of it."""
        weights = dict.fromkeys(self.problem.weights, UNIFORM_BITS)
        known = all(UNIFORM_BITS in widths for widths in self.problem.weights.values())
        choice = Choice(weights, dict.fromkeys(self.problem.activations, UNIFORM_BITS), repaired=False)
        expected = self.outcome.expected(choice) if known and self.outcome.expected else None
        uniform = FrontPoint(choice, self.costs.size(weights), expected)
        return (uniform, *size_front(self.outcome, self.costs, self.problem.weights))

    def candidate(self, index: int, point: FrontPoint) -> Candidate:
        """Quantize, reconstruct, write and score."""
        self.bench.reporter.log(f"Candidate with {bytes_text(point.size)} of weights")
        policy = policy_of_choice(self.problem, self.asked, self.problem.budgets, point.choice)
        return self.bench.make(f"candidate{index}", policy, self.forms)


def problem_of(
    bench: Workbench, options: CompressOptions, forms: Forms, held: Mapping[str, Mapping[int, int]]
) -> Problem:
    """What is searched: the widths of the layers, at the bytes that they take in the file.

    Args:
        bench: Float network and images.
        options: Widths and budgets.
        forms: What decides between the forms of layers.
        held: Bytes of every layer by weight bits in that form.

    Raises:
        UsageError: A budget cannot be met.
    """
    network = bench.task.network
    costs = cost_model(network).as_held(held)
    budgets = parse_budgets(options.budgets, costs) if options.budgets else ()
    widths = (options.weight_bits, (UNIFORM_BITS,))
    try:
        space = searched_widths(network, costs, [budgets], widths, NO_PINS, bench.reporter)
    except UsageError as error:
        prefer = forms[0].prefer if forms[0] else "size"
        raise UsageError(f"{error}{'' if prefer == 'size' else _BY_SIZE}") from None
    searching = SearchOptions(method="sensitivity", weight_bits=options.weight_bits, budgets=options.budgets)
    stage = Stage(bench.folder, "search")
    return Problem(bench.task, costs, budgets, *space, searching, stage, bench.reporter)


def within_budget(analysis: Analysis, uniform: Candidate) -> Searched:
    """The best policy within the budgets."""
    choice = analysis.outcome.choose(analysis.problem.budgets)
    size = analysis.costs.size(choice.weight_bits)
    points = list(analysis.front())
    expected = analysis.outcome.expected and analysis.outcome.expected(choice)
    place = next((i for i, p in enumerate(points) if p.choice.weight_bits == choice.weight_bits), None)
    if place is None:
        place = sum(point.size >= size for point in points)
        points.insert(place, FrontPoint(choice, size, expected))
    found = Searched(tuple(points), {0: uniform}, place)
    if place:
        found.tried = {0: uniform.released, place: analysis.candidate(place, points[place])}
    return found


def within_drop(analysis: Analysis, uniform: Candidate, test: DropTest) -> Searched:
    """The smallest policy of the front that passes a test; uniform 8 bits have passed it."""
    found = Searched(analysis.front(), {0: uniform})

    def passes(index: int) -> bool:
        if index == 0:
            return True
        candidate = analysis.candidate(index, found.points[index])
        passed, best = test.passes(candidate), found.tried[found.chosen]
        # What a file says of its forms can take more than the weights save in a network of a few kilobytes.
        if better := passed and candidate.bytes < best.bytes:
            found.tried[found.chosen], found.chosen = best.released, index
        found.tried[index] = candidate if better else candidate.released
        return passed

    found.failed = smallest_passing(len(found.points), passes, MOST_CANDIDATES).failed
    return found
