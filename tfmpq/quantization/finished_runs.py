"""Finished searches and fine-tunings, read from their run folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfmpq.data.dataset import Dataset, Split
from tfmpq.data.npz import read_npz
from tfmpq.data.preprocess import value_range
from tfmpq.errors import UsageError
from tfmpq.files import read_json, write_atomically
from tfmpq.graph.dynamic import DynamicModel
from tfmpq.graph.frozen import FrozenModel
from tfmpq.policy.policy import Policy, load_policy
from tfmpq.provenance import versions
from tfmpq.quantization.discretization import restrict
from tfmpq.quantization.dynamic import freeze_dynamic
from tfmpq.quantization.freeze import freeze
from tfmpq.tasks.model_outputs import outputs_of
from tfmpq.tasks.task import fused
from tfmpq.training.run_folder import Stage


def policy_of_run(stage: Stage) -> Policy:
    """The policy of a finished fine-tuning.

    Raises:
        UsageError: Its file has other bit-widths than those that were trained.
    """
    path = stage.folder / "policy.yaml"
    policy = load_policy(path)
    trained = Policy.model_validate_json(json.dumps(read_json(stage.path(".json"))["policy"]))
    if (policy.layers, policy.activations) != (trained.layers, trained.activations):
        raise UsageError(
            f"A policy stays what a run was fine-tuned with. Received: {path}, whose bit-widths were changed "
            "afterwards. Fine-tune it with another --out, or undo the change."
        )
    return policy


def finished_model(run: Path) -> tuple[Stage, keras.Model] | None:
    """The fine-tuned model of a run folder or, before that, the network of its searched policy.

    Returns:
        The stage and its model; None if neither is finished.

    Raises:
        TfmpqError: A file is damaged.
    """
    for name in ("finetune", "search"):
        stage = Stage(run, name)
        if stage.finished:
            model = stage.load_model()
            if name == "search":
                model = restrict(model, load_policy(run / "policy.yaml"))
            return stage, model
    return None


_TEST_IMAGES = "test.npz"
_KEPT_IMAGES, _KEPT_BYTES = 1000, 2**28


def keep_test_images(stage: Stage, dataset: Dataset) -> None:
    """Keep some of a user's own test images, drawn at random, for later proofs: no word stands for them.

    At most 1,000 images of 256 MiB in all, as they were given.
    """
    test = dataset.test
    array = test.array
    if array is None:
        return
    most = min(_KEPT_IMAGES, max(1, _KEPT_BYTES * len(array) // max(1, array.nbytes)))
    chosen = np.random.default_rng(0).permutation(len(array))[:most]
    images, labels = np.asarray(array[chosen]), test.labels[chosen]
    path = stage.path(f".{_TEST_IMAGES}")
    write_atomically(path, lambda temporary: np.savez(temporary, images=images, labels=labels))


def kept_test_images(run: Path, options: Mapping[str, Any]) -> Dataset | None:
    """The data that `keep_test_images` has kept; None if there are none.

    Raises:
        TfmpqError: The file is damaged.
    """
    path = _deployable(run).path(f".{_TEST_IMAGES}")
    if not path.exists():
        return None
    arrays = read_npz(path)
    test = Split(arrays["labels"], arrays["images"])
    return Dataset(
        options["target"], 0, None, test.take(np.arange(0)), test, options["data"],
        seen=value_range(options["preprocessing"]),
    )  # fmt: skip


UNTUNED = "quantized"
"""Stage of a searched network that was quantized by its policy for an export, and not fine-tuned."""


def _deployable(run: Path) -> Stage:
    """The stage whose network is exported: the fine-tuning, or else what an export made of the search."""
    tuned, untuned = Stage(run, "finetune"), Stage(run, UNTUNED)
    return untuned if untuned.finished and not tuned.finished else tuned


@dataclass(frozen=True, slots=True, eq=False)
class Finetuned:
    """A finished fine-tuning as it lies in its run folder, or a search that was exported without one."""

    model: keras.Model
    policy: Policy
    options: dict[str, Any]
    result: dict[str, Any]

    @classmethod
    def load(cls, run: Path) -> Finetuned:
        """Read a run folder.

        Raises:
            UsageError: The folder has no finished fine-tuning, or its policy was changed since.
            TfmpqError: A file of it is damaged.
        """
        stage = _deployable(run)
        if not stage.finished:
            raise UsageError(
                f"A file is that of a fine-tuned run. Received: {run}, not fine-tuned. Run tfmpq finetune "
                f"{run}."
            )
        return cls(
            stage.load_model(),
            policy_of_run(stage),
            read_json(stage.path(".json")),
            read_json(stage.path(".result.json")),
        )

    @property
    def chooses(self) -> bool:
        """Whether it is a classifier: its labels are classes, and it has a number for each."""
        return self.result["top1"] is not None and outputs_of(self.model)[0].chooses

    def frozen(self) -> FrozenModel | DynamicModel:
        """The network as integers, with float activations if its policy says so."""
        preprocessing = self.options["preprocessing"]
        network = fused(self.model, preprocessing, self.policy.dynamic)
        facts = file_facts(
            self.result["model"],
            preprocessing,
            int(self.model.output_shape[-1]),
            self.policy.weight_bits,
            self.policy.activation_bits(network.tensors),
            self.result["top1"],
            self.result["data"],
        )
        return (freeze_dynamic if network.dynamic else freeze)(self.model, network, facts)


def file_facts(
    model: str,
    preprocessing: str,
    classes: int,
    weight_bits: Mapping[str, int],
    activation_bits: Mapping[str, int],
    top1: float | None,
    data: str,
) -> dict[str, Any]:
    """What travels inside a file, as JSON types."""
    return {
        "format": "tfmpq-tflite/1",
        "model": model,
        "preprocessing": preprocessing,
        "classes": classes,
        "weight_bits": dict(weight_bits),
        "activation_bits": dict(activation_bits),
        "top1": top1,
        "data": data,
        "versions": versions(),
    }
