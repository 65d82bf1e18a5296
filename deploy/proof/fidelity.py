"""What a written file gives, held against the model that the user began with."""

from __future__ import annotations

from tfmpq.deploy.conversion.specialize import specialize
from tfmpq.deploy.runtime.interpreter import load
from tfmpq.graph.containers import DELEGATED, Target
from tfmpq.graph.frozen import FrozenModel
from tfmpq.tasks.fidelity import Fidelity, Reference


def compare_file(frozen: FrozenModel, content: bytes, target: Target, reference: Reference) -> Fidelity:
    """Run a file and compare all of its outputs with a model's.

    A form that XNNPACK does not take as a whole is run as the `litert` form that it is specialized to.

    Args:
        frozen: The network that was written, which names the outputs.
        content: The file.
        target: Which form of the file.
        reference: Images, and what the model gives for them.
    """
    network = load(content if target in DELEGATED else specialize(content))
    return reference.compare(frozen.outputs, network.run_all(reference.images))
