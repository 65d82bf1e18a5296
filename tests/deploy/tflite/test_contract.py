"""What a file says to those who never saw the training: contract and programs that run it."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tfmpq.data.preprocess import preprocess
from tfmpq.deploy.conversion.app_file import FileOptions
from tfmpq.deploy.export import export_tflite
from tfmpq.deploy.runtime.inspect_file import inspect_file
from tfmpq.deploy.runtime.interpreter import load
from tfmpq.deploy.tflite.contract import read_contract
from tfmpq.deploy.tflite.flatbuffer import read_model, write_model
from tfmpq.errors import TfmpqError
from tfmpq.graph.frozen import TensorGrid

LABELS = ("cat", "dog", "bird", "none")


@pytest.fixture
def network(make_small):
    def build(preprocessing: str, grid: TensorGrid):
        frozen = make_small(4)
        first = replace(frozen.layers[0], grid=grid)
        metadata = {"preprocessing": preprocessing, "classes": 4}
        return replace(frozen, layers=(first, *frozen.layers[1:]), metadata=metadata)

    return build


@pytest.mark.parametrize(
    ("preprocessing", "grid", "options"),
    [
        ("tf", TensorGrid(float(np.float32(1 / 127.5)), halfway=True), FileOptions()),
        ("torch", TensorGrid(0.0208), FileOptions("float32", "float32", True, LABELS)),
        ("caffe", TensorGrid(1.2), FileOptions(None, "uint8", False, LABELS)),
    ],
    ids=["tf", "torch", "caffe"],
)
def test_the_program_runs_the_file(network, tmp_path, preprocessing, grid, options) -> None:
    path = tmp_path / "net.tflite"
    export_tflite(network(preprocessing, grid), path, file=options)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    facts = inspect_file(path)
    assert facts.python is not None
    assert len(facts.python.splitlines()) <= 12
    run = subprocess.run(
        [sys.executable, "-c", facts.python], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    answer = load(path.read_bytes()).run(preprocess(pixels[None], preprocessing))[0]
    if options.labels:
        label, score = run.stdout.split()
        assert label == LABELS[answer.argmax()]
        assert float(score) == pytest.approx(answer.max(), rel=1e-4)
    else:
        found = np.array([float(value) for value in run.stdout.strip(" []\n").split()])
        np.testing.assert_allclose(found, answer, rtol=1e-4, atol=1e-4)
    assert facts.kotlin is not None
    assert ("Interpreter" in facts.kotlin) != facts.mediapipe


def test_files_of_others_have_a_contract_without_promises(network, tmp_path) -> None:
    path = tmp_path / "net.tflite"
    export_tflite(network("tf", TensorGrid(float(np.float32(1 / 127.5)), halfway=True)), path)
    model = read_model(path.read_bytes())
    model.metadata = model.signatureDefs = None
    content = write_model(model)
    contract = read_contract(read_model(content), content)
    assert (contract.holds, contract.preprocessing, contract.labels) == (None, None, ())
    (tmp_path / "other.tflite").write_bytes(content)
    facts = inspect_file(tmp_path / "other.tflite")
    assert (facts.python, facts.kotlin, facts.mediapipe) == (None, None, False)


def test_damaged_metadata_are_one_clear_error(network, tmp_path) -> None:
    path = tmp_path / "net.tflite"
    export_tflite(network("tf", TensorGrid(0.01)), path, file=FileOptions(labels=LABELS))
    model = read_model(path.read_bytes())
    entry = next(held for held in model.metadata if held.name == b"TFLITE_METADATA")
    generator = np.random.default_rng(0)
    clean = np.array(model.buffers[entry.buffer].data)
    for _ in range(60):
        damaged = clean.copy()
        damaged[generator.integers(0, len(damaged), 8)] = generator.integers(0, 256, 8)
        model.buffers[entry.buffer].data = damaged
        content = write_model(model)
        with suppress(TfmpqError):  # and nothing else
            read_contract(read_model(content), content)
        model = read_model(content)
        entry = next(held for held in model.metadata if held.name == b"TFLITE_METADATA")
