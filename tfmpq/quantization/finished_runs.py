"""Finished fine-tunings, read from their run folders."""

from __future__ import annotations

import json

from tfmpq.errors import UsageError
from tfmpq.files import read_json
from tfmpq.policy.policy import Policy, load_policy
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
