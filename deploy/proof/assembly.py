"""The bytes of a file, with what is known of them before the proof: how near they come to the float model."""

from __future__ import annotations

from dataclasses import asdict

from tfmpq.deploy.conversion.app_file import FileOptions, as_app_file
from tfmpq.deploy.conversion.chosen_forms import DeviceTimes
from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.proof.fidelity import compare_file
from tfmpq.deploy.tflite.metadata import with_facts
from tfmpq.graph.containers import Target
from tfmpq.graph.forms import FormOptions
from tfmpq.graph.frozen import FrozenModel
from tfmpq.tasks.fidelity import Fidelity, Reference


def assemble(
    frozen: FrozenModel,
    target: Target,
    options: FormOptions | None = None,
    times: DeviceTimes | None = None,
    file: FileOptions | None = None,
    reference: Reference | None = None,
) -> tuple[bytes, bytes, Fidelity | None]:
    """The bytes of a file that is not proved yet; arguments as for `export_tflite`.

    Returns:
        The network on its own codes, the same with the ends that were asked for, and how near it comes to
        the model that it is of.
    """
    core, fidelity = build_tflite(frozen, target, options, times), None
    if reference is not None:
        fidelity = compare_file(frozen, core, target, reference)
        core = with_facts(core, {"fidelity": asdict(fidelity)})
    return core, as_app_file(core, frozen, target, file or FileOptions()), fidelity
