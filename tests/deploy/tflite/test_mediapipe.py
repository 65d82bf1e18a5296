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
from tfmpq.deploy.conversion.app_file import FileOptions
from tfmpq.deploy.export import export_tflite
from tfmpq.deploy.runtime.inspect_file import inspect_file
from tfmpq.deploy.runtime.interpreter import load
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
    for number, (name, input_type, output_type, softmax) in enumerate(sorted(cases, key=str)):
        frozen = make_small(4)
        metadata = {"preprocessing": name, "classes": 4}
        first = replace(frozen.layers[0], grid=grids[name])
        frozen = replace(frozen, layers=(first, *frozen.layers[1:]), metadata=metadata)
        path = tmp_path / f"{number}.tflite"
        export_tflite(frozen, path, file=FileOptions(input_type, output_type, softmax, labels))
        files.append(path)
        taken = inspect_file(path).mediapipe
        # It scales all channels of a float image alike.
        assert taken == (input_type == "uint8" or (input_type == "float32" and name == "tf"))
        answer = load(path.read_bytes()).run(preprocess(pixels[None], name))[0]
        expected.append(dict(zip(labels, answer.tolist(), strict=True)) if taken else None)
    command = [python, "-c", PROGRAM, tmp_path / "pixels.npy", *files]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for file, wanted, found in zip(files, expected, json.loads(said.splitlines()[-1]), strict=True):
        if wanted is None:
            assert isinstance(found, str), file
        else:
            assert found == pytest.approx(wanted, abs=1e-5), file
