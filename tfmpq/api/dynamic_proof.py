"""The proof of a file of float activations that lies on disk, against a run or the float model."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfmpq.api.proof_reference import Reference, batches_of
from tfmpq.deploy.proof.dynamic_layers import dynamic_layers
from tfmpq.deploy.proof.dynamic_verify import verify_dynamic
from tfmpq.deploy.proof.verified_layers import VerifiedLayer
from tfmpq.deploy.proof.verify import Verification
from tfmpq.deploy.runtime.interpreter import load
from tfmpq.deploy.runtime.sandbox import Sandbox
from tfmpq.deploy.tflite.flatbuffer import reading
from tfmpq.graph.dynamic import DynamicModel

_OPERATOR_IMAGES = 4
_LEAST_AGREEMENT = 0.995
"""Least share of images on which the file of a run chooses the class of the trained network."""


@dataclass(frozen=True, slots=True)
class DynamicProof:
    """What was found out about a file.

    Attributes:
        verification: Its operators against their recomputation.
        layers: Each of its layers, with the kernel that ran it.
        failures: Everything that is wrong.
        notes: What limits the proof.
    """

    verification: Verification
    layers: tuple[VerifiedLayer, ...]
    failures: tuple[str, ...]
    notes: tuple[str, ...]


def prove_dynamic(
    path: Path, content: bytes, frozen: DynamicModel, reference: Reference, limit: int
) -> DynamicProof:
    """Prove a file; how far its answers are the model's stands in a note.

    Args:
        path: The file, which a child process runs.
        content: Its bytes.
        frozen: The network that it has to hold.
        reference: What it is compared with, and on which images.
        limit: Most images whose answers are compared.

    Returns:
        What was found.

    Raises:
        TfmpqError: The file is damaged, or the runtime refuses it.
    """
    count, batches = batches_of(reference, limit)
    first = next(batches)
    with Sandbox(path) as sandbox, reading(path):
        proof = verify_dynamic(frozen, content, first[:_OPERATOR_IMAGES], sandbox)
        layers, of_kernels, untold = dynamic_layers(frozen, content, proof, sandbox)
    failures = [*reference.failures, *proof.failures, *of_kernels]
    notes = [
        *reference.notes,
        *untold,
        "kernels that quantize what they read are XNNPACK's; LiteRT's own differ",
    ]
    if not failures and len(reference.model.outputs) == 1:
        network = load(path)
        agreed = [
            np.asarray(reference.model.predict_on_batch(images)).argmax(1) == network.run(images).argmax(1)
            for images in itertools.chain([first], batches)
        ]
        share = float(np.concatenate(agreed).mean())
        said = f"the file chooses the model's class on {share:.2%} of {count} images"
        notes.insert(0, said)
        # One image may always disagree: it may lie on the border of two classes.
        if reference.judged and round((1 - share) * count) > max(1, (1 - _LEAST_AGREEMENT) * count):
            failures.append(f"{said}, not on {_LEAST_AGREEMENT:.1%}")
    return DynamicProof(proof, layers, tuple(failures), tuple(notes))
