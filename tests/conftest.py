"""What all rooms share: how hypothesis runs, small networks, and a folder where the whole chain has run."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import settings

from .quantized_networks import float64, searchable, trainer  # noqa: F401

# How long an example takes depends on what else the machine does.
settings.register_profile("tfmpq", deadline=None)
settings.load_profile("tfmpq")

COMMANDS = {
    "search": "search --model user_networks:small --proxy digits --budget size=0.4x --budget bops=0.7x "
    "--float-epochs 10 --epochs 3 --batch-size 64 --seed 3 --out run --json",
    "finetune": "finetune run --target digits --epochs 5 --batch-size 64 --out run --json",
    "storage": "export run --tflite --target storage --out small.storage.tflite --json",
    "litert": "export run --tflite --target litert --out small.litert.tflite --json",
}


@dataclass(frozen=True)
class Workshop:
    """A user's folder.

    Attributes:
        folder: Where commands run.
        commands: The command lines of the chain by verb or, for exports, by target.
        results: What they printed.
    """

    folder: Path
    commands: dict[str, str]
    results: dict[str, Any] = field(default_factory=dict)

    def invoke(self, line: str) -> Result:
        """Run a command line in the folder, in this process."""
        from tfmpq.cli.main import main

        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setenv("KERAS_BACKEND", "tensorflow")
            patch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
            patch.delenv("TFMPQ_DATA_DIR", raising=False)
            patch.delenv("TFMPQ_TRACEBACK", raising=False)
            return CliRunner().invoke(main, line.split(), prog_name="tfmpq")

    def json(self, line: str) -> dict[str, Any]:
        """Run a command line that must succeed, and parse stdout, which holds one JSON object and no more."""
        result = self.invoke(line)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    def contents(self) -> dict[str, str]:
        """Digest of every file by its path; empty for folders."""
        return {
            str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            if path.is_file()
            else ""
            for path in self.folder.rglob("*")
            if "__pycache__" not in path.parts
        }


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A searched and fine-tuned `run`, and its files `small.storage.tflite` and `small.litert.tflite`."""
    place = Workshop(tmp_path_factory.mktemp("workshop"), COMMANDS)
    shutil.copy(Path(__file__).with_name("user_networks.py"), place.folder)
    for name, line in COMMANDS.items():
        place.results[name] = place.json(line)
    return place
