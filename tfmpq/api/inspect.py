"""What a policy, a `.tflite`, a `.keras` file or a run folder holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfmpq.errors import UsageError
from tfmpq.files import read_json
from tfmpq.policy.policy import Policy, load_policy
from tfmpq.training.run_folder import Stage


@dataclass(frozen=True, slots=True)
class Inspection:
    """Facts about one file or folder.

    Attributes:
        kind: `policy`, `tflite`, `model` or `run`.
        path: What was inspected.
        facts: JSON-able content, by kind.
    """

    kind: str
    path: str
    facts: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Kind, path and the facts beside them."""
        return {"kind": self.kind, "path": self.path} | self.facts


def inspect(path: str | Path) -> Inspection:
    """Say what a policy file, a `.tflite` file, a `.keras` file or a run folder holds.

    Files of others are opened in a child process, which they may crash.

    Raises:
        UsageError: The path is none of these.
        TfmpqError: A file is damaged.
    """
    path = Path(path)
    if path.is_dir():
        return Inspection("run", str(path), _run(path))
    if path.suffix in (".yaml", ".yml"):
        return Inspection("policy", str(path), _policy(load_policy(path)))
    if path.suffix == ".tflite":
        from tfmpq.deploy.runtime.inspect_file import inspect_file

        return Inspection("tflite", str(path), inspect_file(path).to_json())
    if path.suffix == ".keras":
        from tfmpq.deploy.runtime.sandbox import Sandbox

        with Sandbox(path) as sandbox:
            facts = sandbox.call("tfmpq.model_inspection:inspect_model", str(path))
        return Inspection("model", str(path), facts)
    raise UsageError(
        "A policy (.yaml), a .tflite file, a .keras file or a run folder is inspected. "
        f"Received: {path}. Give one of these."
    )


def _policy(policy: Policy) -> dict[str, Any]:
    facts = policy.model_dump(mode="json", exclude_defaults=True)
    return facts | {"layers": policy.weight_bits}


def _run(folder: Path) -> dict[str, Any]:
    stages = {}
    for name in ("float", "search", "finetune"):
        stage = Stage(folder, name)
        if stage.finished:
            stages[name] = {"state": "finished", "result": read_json(stage.path(".result.json"))}
        elif stage.path(".npz").exists() or stage.path(".json").exists():
            stages[name] = {"state": "finished" if name == "float" else "begun"}
    if not stages:
        raise UsageError(
            f"A run folder holds a search or a fine-tuning. Received: {folder}, which holds neither."
        )
    facts: dict[str, Any] = {"stages": stages}
    if (folder / "policy.yaml").exists():
        facts["policy"] = _policy(load_policy(folder / "policy.yaml"))
    return facts | {"files": sorted(file.name for file in folder.glob("*.tflite"))}
