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
    from tfmpq.api.evaluate import evaluate
    from tfmpq.api.export import export
    from tfmpq.api.finetune import finetune
    from tfmpq.api.inspect import inspect
    from tfmpq.api.quantize import quantize
    from tfmpq.api.report import report
    from tfmpq.api.run import run
    from tfmpq.api.search import search
    from tfmpq.api.specialize import specialize
    from tfmpq.api.verify import verify
    from tfmpq.deploy.latency.measure import measure
    from tfmpq.deploy.profiling.profile import profile
    from tfmpq.errors import TfmpqError, UsageError
    from tfmpq.policy.policy import Policy, load_policy, save_policy

_HOME = {
    "Policy": "policy.policy",
    "TfmpqError": "errors",
    "UsageError": "errors",
    "evaluate": "api.evaluate",
    "export": "api.export",
    "finetune": "api.finetune",
    "inspect": "api.inspect",
    "load_policy": "policy.policy",
    "measure": "deploy.latency.measure",
    "profile": "deploy.profiling.profile",
    "quantize": "api.quantize",
    "report": "api.report",
    "run": "api.run",
    "save_policy": "policy.policy",
    "search": "api.search",
    "specialize": "api.specialize",
    "verify": "api.verify",
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
