"""What a fine-tuning is asked for: network, bit-widths and data, and how the first two are opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfmpq.api.given import POLICIES, GivenModel
from tfmpq.api.sources import kept_by, run_of
from tfmpq.data import Dataset
from tfmpq.errors import UsageError
from tfmpq.files import read_json
from tfmpq.methods.job_options import FinetuneOptions
from tfmpq.models.registry import display_name
from tfmpq.policy.policy import Policy
from tfmpq.policy.uniform import UniformWidths, names_uniform
from tfmpq.progress import Reporter
from tfmpq.quantization.starting_point import Origin
from tfmpq.scratch import folder_or_scratch
from tfmpq.tasks.task import Task, load_task
from tfmpq.training.run_folder import OWN_MODEL

Source = Policy | Path | UniformWidths


@dataclass(frozen=True, slots=True)
class Asked:
    """The arguments of a call that are no options."""

    model: Any
    policy: Any
    data: Any
    validation: Any
    out: str | Path | None

    def source(self, ends: int | str | None) -> Source:
        """The policy, the file or run folder that holds it, or one width for all layers.

        Raises:
            UsageError: It is none of these, or `ends` are given beside a policy.
        """
        if names_uniform(self.policy):
            widths = UniformWidths.read(self.policy, ends)
            if self.model is None:
                raise UsageError(
                    f"Uniform widths are for any network. Received: {self.policy} and no model. Give --model."
                )
            return widths
        if ends is not None:
            raise UsageError(
                f"A policy has the widths of the ends. Received: --ends {ends} beside one. Leave it out, or "
                "take uniform:4."
            )
        return self.policy if isinstance(self.policy, Policy) else run_of(self.policy, POLICIES)

    def folder(self, source: Source) -> tuple[Path, tuple[Any, ...]]:
        """The run folder, and what has to live as long as the result."""
        if self.out is None and self.model is None and isinstance(source, Path) and source.is_dir():
            return source, kept_by(self.policy)
        folder, kept = folder_or_scratch(self.out)
        return folder, (*kept, *kept_by(self.policy))


def opened(
    source: Source,
    given: GivenModel | None,
    dataset: Dataset,
    options: FinetuneOptions,
    reporter: Reporter,
) -> tuple[Task, Origin]:
    """The float network with its data, and its bit-widths with the search that they come from."""
    if isinstance(source, UniformWidths):
        assert given is not None  # noqa: S101 narrowed for the type checker; `Asked.source` has looked
        task = load_task(
            given.word,
            dataset,
            weights=options.weights,
            preprocessing=options.preprocessing,
            reporter=reporter,
            name=given.name,
            dynamic=source.dynamic,
        )
        return task, Origin.of_policy(source.policy(task.network, given.recorded))
    origin = Origin.of(source, given.recorded if given else None)
    task = load_task(
        given.word if given else origin.loadable,
        dataset,
        weights=options.weights,
        preprocessing=options.preprocessing or (None if given else origin.preprocessing),
        reporter=reporter,
        name=given.name if given else _name(origin),
        dynamic=origin.policy.dynamic,
    )
    return task, origin


def _name(origin: Origin) -> str:
    """What the network of a search is called; a model object has the name that its search has given it."""
    if origin.model == OWN_MODEL and origin.search is not None:
        return str(read_json(origin.search.path(".result.json"))["model"])
    return display_name(origin.model)
