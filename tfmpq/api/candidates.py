"""Candidates of a compression: each is quantized, written and scored on images that were held out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np

from tfmpq.api.form_choice import form_choice
from tfmpq.api.posttraining import frozen_network, quantize_without_training
from tfmpq.deploy.conversion.app_file import FileOptions
from tfmpq.deploy.conversion.chosen_forms import DeviceTimes, bytes_by_width
from tfmpq.deploy.conversion.topology import deployable
from tfmpq.deploy.proof.assembly import assemble
from tfmpq.deploy.runtime.interpreter import load
from tfmpq.graph.containers import Target
from tfmpq.graph.dynamic import DynamicModel
from tfmpq.graph.forms import FormOptions, FormRequest
from tfmpq.graph.frozen import FrozenModel
from tfmpq.policy.policy import Policy
from tfmpq.progress import Reporter, SilentReporter
from tfmpq.tasks.fidelity import Reference
from tfmpq.tasks.held_out import HeldOut
from tfmpq.tasks.paired import Pairing
from tfmpq.tasks.task import Task

TARGET: Target = "litert"
"""The form that is written: it runs here, so that it can be scored and timed."""


Forms = tuple[FormOptions | None, DeviceTimes | None]
"""What decides between the forms of layers."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A network at the widths of one policy.

    Attributes:
        policy: The widths.
        frozen: The network as integers.
        quantized: The model that it was frozen from; None once nothing will be asked of it.
        path: Its file, which is not proved yet.
        bytes: Size of the file.
        right: Whether the file answers right to each held-out image, bool (N,); None where nothing is scored.
        pairing: The float network and the file on the same images.
    """

    policy: Policy
    frozen: FrozenModel
    quantized: keras.Model | None
    path: Path
    bytes: int
    right: np.ndarray | None
    pairing: Pairing | None

    @property
    def score(self) -> float | None:
        """Share of right answers, 0 to 1."""
        return None if self.right is None else float(np.mean(self.right))

    @property
    def released(self) -> Candidate:
        """The same without its model, which takes memory."""
        return replace(self, quantized=None)


@dataclass(frozen=True, slots=True, eq=False)
class Workbench:
    """What candidates of one network are made with.

    Attributes:
        task: Float network and images.
        data: What the data are called.
        reference: What files are held against, which travels in them.
        ends: Types and labels of the files.
        held_out: Images to score on; None to score nothing.
        folder: Where files go.
        reporter: Told about progress.
    """

    task: Task
    data: str
    reference: Reference
    ends: FileOptions
    held_out: HeldOut | None
    folder: Path
    reporter: Reporter

    def make(self, name: str, policy: Policy, forms: Forms) -> Candidate:
        """Quantize, reconstruct and write the network; run the file on every held-out image to score it.

        What is run has the network's own codes at its ends; the proof of the file that is taken in the end
        covers other ones.

        Args:
            name: What its file is called.
            policy: Its widths.
            forms: What decides between the forms of layers.
        """
        model = quantize_without_training(self.task, policy, True, True, self.reporter)
        frozen = _static(frozen_network(self.task, model, policy, None, self.data))
        core, content, _ = assemble(frozen, TARGET, *forms, self.ends, self.reference)
        path = self.folder / f"{name}.tflite"
        path.write_bytes(content)
        right = pairing = None
        if self.held_out is not None:
            right = self.held_out.answers_right(load(core).run_all, self.reporter)
            pairing = Pairing.of(self.held_out.right, right)
        return Candidate(policy, frozen, model, path, len(content), right, pairing)


def forms_of(task: Task, request: FormRequest, policy: Policy) -> tuple[Forms, dict[str, dict[int, int]]]:
    """What decides between the forms of layers, and what each layer then takes at each width, in bytes.

    Args:
        task: Float network.
        request: What a person wishes.
        policy: Any widths; bytes depend on shapes alone.

    Raises:
        UsageError: The latency table is no such file or that of another network.
    """
    sketch = quantize_without_training(task, policy, False, False, SilentReporter(), images=1)
    frozen = _static(frozen_network(task, sketch, policy, None, ""))
    forms = form_choice(request, TARGET, frozen)
    return forms, bytes_by_width(deployable(frozen), TARGET, *forms)


def _static(frozen: FrozenModel | DynamicModel) -> FrozenModel:
    assert isinstance(frozen, FrozenModel)  # noqa: S101 narrowed for the type checker; activations are quantized
    return frozen
