"""The protocol of a search method: what it is given, and what it has to bring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import keras

from tfmpq.data.preprocess import pixel_step, value_range
from tfmpq.errors import UsageError
from tfmpq.methods.options import SearchOptions
from tfmpq.policy.budget import Budget
from tfmpq.policy.cost import CostModel
from tfmpq.policy.search_space import Candidates
from tfmpq.progress import Reporter
from tfmpq.quantization.batch_statistics import with_fitting_statistics
from tfmpq.quantization.dynamic import quantize_dynamic
from tfmpq.quantization.insertion import quantize_model
from tfmpq.quantizers.relaxation import Relaxation
from tfmpq.tasks.task import Task, fused
from tfmpq.training.run_folder import Stage


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """What a method is given.

    Attributes:
        task: Float network and proxy data.
        costs: Counts of the network whose cost the budgets limit.
        budgets: The budgets, which can be met.
        weights: Candidate weight bits by layer.
        activations: Candidate bits by activation tensor.
        options: All options of the search.
        stage: Where checkpoints and logs go.
        reporter: Told about progress.
    """

    task: Task
    costs: CostModel
    budgets: tuple[Budget, ...]
    weights: Candidates
    activations: Candidates
    options: SearchOptions
    stage: Stage
    reporter: Reporter

    @property
    def space(self) -> tuple[Candidates, Candidates]:
        """Candidates of weights and of activations."""
        return self.weights, self.activations

    def searchable(self, relaxation: Relaxation = "softmax") -> keras.Model:
        """The float network with quantizers of all candidates, fitted to kernels and calibration images."""
        images = self.task.calibration_images()
        model = with_fitting_statistics(self.task.model, images, self.reporter)
        if self.task.network.dynamic:
            network = fused(model, self.task.preprocessing, True)
            return quantize_dynamic(model, network, self.weights, relaxation)
        return quantize_model(
            model,
            fused(model, self.task.preprocessing),
            self.weights,
            self.activations,
            images,
            value_range(self.task.preprocessing),
            relaxation,
            pixel_step(self.task.preprocessing),
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """Bit-widths of a whole network.

    Attributes:
        weight_bits: By layer.
        activation_bits: By activation tensor.
        repaired: Whether the budgets changed what the method would have chosen without them.
    """

    weight_bits: dict[str, int]
    activation_bits: dict[str, int]
    repaired: bool


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a method brings.

    Attributes:
        model: The searchable model as the search leaves it; fine-tuning begins with it.
        choose: Bit-widths that meet any feasible budgets, those of the problem among them.
        seconds: Wall-clock time of the search itself, since it was last resumed.
        expected: How far a choice moves the network's outputs, as the method expects; None for methods that
            do not say.
    """

    model: keras.Model
    choose: Callable[[Sequence[Budget]], Choice]
    seconds: float
    expected: Callable[[Choice], float] | None = None


class Method(Protocol):
    """A way to search.

    Attributes:
        trains: Whether it learns from all training images; else some random ones are enough.
        reads_weights: Whether what it finds depends on the network's weights, so that they should be trained.
    """

    trains: ClassVar[bool]
    reads_weights: ClassVar[bool]

    def check(self, options: SearchOptions) -> None:
        """Refuse options that the method does not have, before anything is loaded.

        Raises:
            UsageError: There is one.
        """

    def run(self, problem: Problem) -> Outcome:
        """Search."""


def refuse_foreign_knobs(options: SearchOptions, own: Sequence[str]) -> None:
    """Raise unless all knobs that were given are among the method's own.

    Raises:
        UsageError: One is not.
    """
    foreign = [f"{name}={value}" for name, value in options.knobs.items() if name not in own]
    if foreign:
        has = f"has {', '.join(own)}" if own else "has none of these options"
        raise UsageError(
            f"An option must be one of the method's. Received: {', '.join(foreign)} for {options.method}, "
            f"which {has}. Leave it out, or take another method."
        )
