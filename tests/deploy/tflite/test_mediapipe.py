"""The real MediaPipe Tasks open our files, in an environment of their own: TFMOT wants another absl-py."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tfmpq.data.preprocess import preprocess
from tfmpq.deploy.conversion.app_file import FileOptions, as_app_file
from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.runtime.interpreter import load
from tfmpq.deploy.tflite.contract import read_contract
from tfmpq.deploy.tflite.flatbuffer import read_model
from tfmpq.deploy.tflite.snippets import takes_mediapipe
from tfmpq.graph.frozen import TensorGrid

pytestmark = pytest.mark.slow  # 480 MB are installed once, into build/mediapipe

FOLDER = Path(__file__).parents[3] / "build" / "mediapipe"
PROGRAM = """
import json, sys
import mediapipe as mp, numpy as np
from mediapipe.tasks.python import vision
from mediapipe.tasks.python.core.base_options import BaseOptions
found = []
for path in sys.argv[2:]:
    options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=path), max_results=-1)
    try:
        with vision.ImageClassifier.create_from_options(options) as classifier:
            image = mp.Image(mp.ImageFormat.SRGB, np.load(sys.argv[1]))
            answer = classifier.classify(image).classifications[0].categories
            found.append({entry.category_name: entry.score for entry in answer})
    except (ValueError, NotImplementedError) as error:
        found.append(str(error))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def python() -> Path:
    program = FOLDER / "bin" / "python"
    if not (FOLDER / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(FOLDER)], check=True)
        subprocess.run([program, "-m", "pip", "install", "--quiet", "mediapipe>=1.2"], check=True)
        (FOLDER / "installed").touch()
    return program


def test_its_classifier_gives_the_answers_of_the_file(python, make_small, tmp_path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    labels = ("cat", "dog", "bird", "none")
    cases = {
        (name, input_type, output_type, softmax)
        for name in ("tf", "torch")
        for input_type in ("uint8", "float32", None)
        for output_type in ("uint8", "float32")
        for softmax in (False, True)
    }
    grids = {"tf": TensorGrid(float(np.float32(1 / 127.5)), halfway=True), "torch": TensorGrid(0.0208)}
    expected, files = [], []
    networks = {}
    for name, grid in grids.items():
        frozen = make_small(4)
        first = replace(frozen.layers[0], grid=grid)
        metadata = {"preprocessing": name, "classes": 4}
        frozen = replace(frozen, layers=(first, *frozen.layers[1:]), metadata=metadata)
        networks[name] = frozen, build_tflite(frozen, "litert")
    for number, (name, input_type, output_type, softmax) in enumerate(sorted(cases, key=str)):
        frozen, core = networks[name]
        content = as_app_file(core, frozen, "litert", FileOptions(input_type, output_type, softmax, labels))
        path = tmp_path / f"{number}.tflite"
        path.write_bytes(content)
        files.append(path)
        taken = takes_mediapipe(read_contract(read_model(content), content))
        # It scales all channels of a float image alike.
        assert taken == (input_type == "uint8" or (input_type == "float32" and name == "tf"))
        answer = load(content).run(preprocess(pixels[None], name))[0]
        expected.append(dict(zip(labels, answer.tolist(), strict=True)) if taken else None)
    command = [python, "-c", PROGRAM, tmp_path / "pixels.npy", *files]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for file, wanted, found in zip(files, expected, json.loads(said.splitlines()[-1]), strict=True):
        if wanted is None:
            assert isinstance(found, str), file
        else:
            assert found == pytest.approx(wanted, abs=1e-5), file
