"""From a Keras image classifier to a proved mixed-precision `.tflite`.

The functions have the names of the command line's verbs and return frozen results with `to_json()`:

    import tfmpq

    tfmpq.search("resnet8", "digits", out="runs/digits", float_epochs=8, budgets=["size=0.35x"])
    tfmpq.finetune("runs/digits", "digits", out="runs/digits", epochs=8)
    report = tfmpq.export("runs/digits")
    print(tfmpq.evaluate(report.path, "digits").top1, tfmpq.measure(report.path)[0].median_ms)

Nothing heavy is imported before a function is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfmpq.deploy.measure import measure
    from tfmpq.deploy.profiling import profile
    from tfmpq.errors import TfmpqError, UsageError
    from tfmpq.evaluation import evaluate
    from tfmpq.exporting import export
    from tfmpq.finetuning import finetune
    from tfmpq.inspection import inspect
    from tfmpq.job import run
    from tfmpq.policy import Policy, load_policy, save_policy
    from tfmpq.posttraining import quantize
    from tfmpq.reporting import report
    from tfmpq.searching import search
    from tfmpq.specializing import specialize
    from tfmpq.verifying import verify

_HOME = {
    "Policy": "policy",
    "TfmpqError": "errors",
    "UsageError": "errors",
    "evaluate": "evaluation",
    "export": "exporting",
    "finetune": "finetuning",
    "inspect": "inspection",
    "load_policy": "policy",
    "measure": "deploy.measure",
    "profile": "deploy.profiling",
    "quantize": "posttraining",
    "report": "reporting",
    "run": "job",
    "save_policy": "policy",
    "search": "searching",
    "specialize": "specializing",
    "verify": "verifying",
}

__all__ = [
    "Policy",
    "TfmpqError",
    "UsageError",
    "evaluate",
    "export",
    "finetune",
    "inspect",
    "load_policy",
    "measure",
    "profile",
    "quantize",
    "report",
    "run",
    "save_policy",
    "search",
    "specialize",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tfmpq' has no attribute '{name}'")
    return getattr(importlib.import_module(f"tfmpq.{_HOME[name]}"), name)
