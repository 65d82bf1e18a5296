"""From a Keras image classifier to a proved mixed-precision `.tflite`.

A Keras model and data go in as they are; results hand on:

    import keras, tfmpq

    model = keras.saving.load_model("flowers.keras")
    small = tfmpq.compress(model, (x, y), max_drop="1%", out="flowers.tflite")  # no training
    found = tfmpq.search(model, (x, y), budget="size=0.5x", method="sensitivity")
    tuned = tfmpq.finetune(model, found.policy, (x, y), validation=(x_test, y_test), epochs=3)
    report = tfmpq.export(tuned, out="flowers.tflite")
    print(tfmpq.evaluate(report, (x_test, y_test)).top1, tfmpq.measure(report)[0].median_ms)

The functions have the names of the command line's verbs; what they return is immutable, has `to_json()`, and
shows itself as the table that the command prints. Nothing heavy is imported before a function is used. See
docs/python.md.
"""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfmpq.api.compress import compress
    from tfmpq.api.deploy import deploy
    from tfmpq.api.device_options import DeployOptions, DeviceOptions, MeasureOptions, ProfileOptions
    from tfmpq.api.devices import devices
    from tfmpq.api.evaluate import evaluate
    from tfmpq.api.export import export
    from tfmpq.api.finetune import finetune
    from tfmpq.api.inspect import inspect
    from tfmpq.api.measure import measure
    from tfmpq.api.probe import probe
    from tfmpq.api.profile import profile
    from tfmpq.api.quantize import quantize
    from tfmpq.api.report import report
    from tfmpq.api.run import run
    from tfmpq.api.search import search
    from tfmpq.api.sharpness import sharpness
    from tfmpq.api.specialize import specialize
    from tfmpq.api.verify import verify
    from tfmpq.errors import TfmpqError, UsageError
    from tfmpq.methods.compress_options import CompressOptions
    from tfmpq.methods.job_options import FinetuneOptions, QuantizeOptions, RunOptions
    from tfmpq.methods.options import SearchOptions
    from tfmpq.policy.policy import Policy, load_policy, save_policy

_HOME = {
    "CompressOptions": "methods.compress_options",
    "DeployOptions": "api.device_options",
    "DeviceOptions": "api.device_options",
    "FinetuneOptions": "methods.job_options",
    "MeasureOptions": "api.device_options",
    "Policy": "policy.policy",
    "ProfileOptions": "api.device_options",
    "QuantizeOptions": "methods.job_options",
    "RunOptions": "methods.job_options",
    "SearchOptions": "methods.options",
    "TfmpqError": "errors",
    "UsageError": "errors",
    "compress": "api.compress",
    "deploy": "api.deploy",
    "devices": "api.devices",
    "evaluate": "api.evaluate",
    "export": "api.export",
    "finetune": "api.finetune",
    "inspect": "api.inspect",
    "load_policy": "policy.policy",
    "measure": "api.measure",
    "probe": "api.probe",
    "profile": "api.profile",
    "quantize": "api.quantize",
    "report": "api.report",
    "run": "api.run",
    "save_policy": "policy.policy",
    "search": "api.search",
    "sharpness": "api.sharpness",
    "specialize": "api.specialize",
    "verify": "api.verify",
}
"""Public names, and the modules below this one that hold them."""

__all__ = [
    "CompressOptions",
    "DeployOptions",
    "DeviceOptions",
    "FinetuneOptions",
    "MeasureOptions",
    "Policy",
    "ProfileOptions",
    "QuantizeOptions",
    "RunOptions",
    "SearchOptions",
    "TfmpqError",
    "UsageError",
    "compress",
    "deploy",
    "devices",
    "evaluate",
    "export",
    "finetune",
    "inspect",
    "load_policy",
    "measure",
    "probe",
    "profile",
    "quantize",
    "report",
    "run",
    "save_policy",
    "search",
    "sharpness",
    "specialize",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("tfmpq")
    if name not in _HOME:
        raise AttributeError(f"module 'tfmpq' has no attribute '{name}'")
    found = getattr(importlib.import_module(f"tfmpq.{_HOME[name]}"), name)
    # A package of this name, which calls the verb, is what the name stands for once anything imports it.
    return sys.modules.get(f"tfmpq.{name}", found)


def __dir__() -> list[str]:
    return [*__all__, "__doc__", "__version__"]


class _Verb(ModuleType):
    """A package whose name is a verb's as well: calling it calls the verb."""

    @property
    def __wrapped__(self) -> Any:
        """The verb, whose signature and documentation are shown."""
        name = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module(f"tfmpq.{_HOME[name]}"), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)


class _Package(ModuleType):
    """This package; a sub-package that is imported becomes callable where a verb has its name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOME and isinstance(value, ModuleType):
            value.__class__ = _Verb
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
