"""`inspect` of `.keras` files: layer by layer, in a child process that a damaged file cannot take along."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tfmpq.deploy.runtime.sandbox import Sandbox
from tfmpq.errors import TfmpqError

# Keras 3 converts TensorFlow's variables by a call that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

INSPECT = "tfmpq.api.inspect:inspect_model"
QUICK, THOROUGH = 30, 1000


@pytest.fixture(scope="module")
def networks() -> ModuleType:
    place = Path(__file__).parents[1] / "user_networks.py"
    spec = importlib.util.spec_from_file_location("inspected_networks", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def files(networks, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    for name in ("small", "unsupported"):
        getattr(networks, name)((16, 16, 3), 10).save(folder / f"{name}.keras")
    return {name: folder / f"{name}.keras" for name in ("small", "unsupported")}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """One child for all tests, because it imports Keras."""
    with Sandbox("model.keras") as sandbox:
        yield sandbox


def test_a_supported_model(sandbox, files) -> None:
    facts = sandbox.call(INSPECT, str(files["small"]))
    assert (facts["supported"], facts["unsupported_layers"]) == (True, [])
    assert (facts["model"], facts["input_shape"], facts["classes"]) == ("small", [16, 16, 3], 10)
    rows = {row["name"]: row for row in facts["layers"]}
    assert all(row["supported"] and row["reason"] is None for row in rows.values())
    found = {
        name: (rows[name]["operator"], rows[name]["weights"]) for name in ("stem", "pointwise", "logits")
    }
    assert found == {
        "stem": ("conv2d", 27 * 16),
        "pointwise": ("pointwise", 16 * 32),
        "logits": ("dense", 320),
    }
    assert rows["stem"]["packed_at_4_bits"] == ["storage", "tflm"]  # no packed product of an odd fan-in
    assert rows["down"]["packed_at_4_bits"] == ["litert", "storage", "tflm"]  # unfolded, where that pays
    assert rows["logits"]["packed_at_4_bits"] == ["litert", "storage"]
    json.dumps(facts)


def test_reasons_are_those_with_which_a_search_refuses(sandbox, files) -> None:
    facts = sandbox.call(INSPECT, str(files["unsupported"]))
    assert facts["supported"] is False
    reasons = {row["name"]: row["reason"] for row in facts["layers"]}
    assert [name for name, reason in reasons.items() if reason] == facts["unsupported_layers"]
    with pytest.raises(TfmpqError) as refused:
        _refuse(files["unsupported"])
    for name in facts["unsupported_layers"]:
        assert f"{name} (" in str(refused.value)
        assert reasons[name] in str(refused.value)


def _refuse(path: Path) -> None:
    from tfmpq.graph.fusion import analyse
    from tfmpq.models.registry import load_model

    analyse(load_model(str(path), input_shape=(0, 0, 0), classes=0).model)


def fuzz(sandbox: Sandbox, original: Path, folder: Path, count: int, seed: int) -> int:
    """How many of `count` damaged files are refused; none may be anything but refused or inspected."""
    generator = random.Random(seed)
    content = original.read_bytes()
    path = folder / "fuzzed.keras"
    refused = unclear = 0
    for _ in range(count):
        data = bytearray(content)
        if generator.random() < 0.3:
            del data[generator.randrange(1, len(data)) :]
        for _ in range(generator.randint(1, 10)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        path.write_bytes(data)
        try:
            sandbox.call(INSPECT, str(path))
        except TfmpqError as error:
            refused += 1
            unclear += "Received: " not in str(error) or "\n" in str(error)
    assert not unclear
    return refused


def test_damaged_files_are_refused(sandbox, files, tmp_path) -> None:
    assert fuzz(sandbox, files["small"], tmp_path, QUICK, seed=1) > QUICK // 3


@pytest.mark.slow
def test_a_thousand_damaged_files(sandbox, files, tmp_path) -> None:
    assert fuzz(sandbox, files["small"], tmp_path, THOROUGH, seed=2) > THOROUGH // 3
