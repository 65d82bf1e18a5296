"""Stand-ins for the functions behind the verbs, so that the tests see what the command line itself does."""

from __future__ import annotations

import importlib
import inspect
import signal
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tfmpq.cli.main import main

FUNCTIONS = {
    "compress": "tfmpq.api.compress",
    "run": "tfmpq.api.run",
    "search": "tfmpq.api.search",
    "finetune": "tfmpq.api.finetune",
    "export": "tfmpq.api.export",
    "specialize": "tfmpq.api.specialize",
    "verify": "tfmpq.api.verify",
    "evaluate": "tfmpq.api.evaluate",
    "sharpness": "tfmpq.api.sharpness",
    "measure": "tfmpq.deploy.latency.measure",
    "profile": "tfmpq.deploy.profiling.profile",
    "devices": "tfmpq.deploy.devices.discovery",
    "deploy": "tfmpq.api.deploy",
    "report": "tfmpq.api.report",
    "inspect": "tfmpq.api.inspect",
    "probe": "tfmpq.deploy.runtime.probe",
}


class Call:
    """Takes the place of a function: remembers arguments, gives `result`, raises `error` or the signal."""

    def __init__(self) -> None:
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        self.result: dict[str, Any] = {"top1": 0.5, "table": [], "cases": [], "passed": True, "layers": []}
        self.error: BaseException | signal.Signals | None = None
        self.prints: str | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> SimpleNamespace:
        self.args, self.kwargs = args, kwargs
        if self.prints:
            print(self.prints)
            kwargs.get("progress", kwargs.get("reporter")).log(self.prints)
        if isinstance(self.error, signal.Signals):
            signal.raise_signal(self.error)
        elif self.error:
            raise self.error
        return SimpleNamespace(to_json=lambda: self.result)


@pytest.fixture
def signature(verb: str) -> inspect.Signature:
    """How the real function of the test's verb is called; to be asked for before `calls` replaces it."""
    return inspect.signature(getattr(importlib.import_module(FUNCTIONS[verb]), verb))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Call]:
    """The stand-in of every verb, by verb."""
    for name in ("KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL"):
        # Set and then deleted, so that what the command sets is undone after the test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.delenv("TFMPQ_TRACEBACK", raising=False)
    monkeypatch.delenv("TFMPQ_DATA_DIR", raising=False)
    stand_ins = {verb: Call() for verb in FUNCTIONS}
    for verb, module in FUNCTIONS.items():
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{verb: stand_ins[verb]}))
    return stand_ins


@pytest.fixture
def tfmpq(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """Runs a command line, in a folder that holds `m.tflite`, `p.yaml` and the run folder `r`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.tflite").touch()
    (tmp_path / "p.yaml").touch()
    (tmp_path / "r").mkdir()

    def invoke(line: str) -> Result:
        return CliRunner().invoke(main, line.split(), prog_name="tfmpq")

    return invoke
