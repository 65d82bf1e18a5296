"""A network on a device: form, outputs, latency."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tfmpq.api.deploy import _file_beside, choose_form, deploy
from tfmpq.cli.main import main
from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.devices import errors, python_runner
from tfmpq.deploy.tflite.flatbuffer import read_model, write_model
from tfmpq.errors import TfmpqError, UsageError

# Keras 3 converts TensorFlow's variables by a call that NumPy 2 warns of.
pytestmark = [
    pytest.mark.usefixtures("short"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def storage(make_small, tmp_path_factory) -> Path:
    """A network of 8x8 images in storage form."""
    path = tmp_path_factory.mktemp("storage") / "toy.storage.tflite"
    path.write_bytes(build_tflite(make_small(4), "storage"))
    return path


def test_a_file_is_written_for_the_machine_compared_and_measured(pi, storage, tmp_path) -> None:
    source = Path(shutil.copy(storage, tmp_path))
    line = ["deploy", str(source), "--data", "digits", "--on", "ssh:pi", "--limit", "30", "--json"]
    done = CliRunner().invoke(main, [*line, "--ssh-config", str(pi.config)], prog_name="tfmpq")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["form"] == "litert"
    assert result["path"] == str(tmp_path / "toy.litert.tflite")
    assert result["bytes"] == (tmp_path / "toy.litert.tflite").stat().st_size
    # The device is this machine with this runtime.
    agreement = result["agreement"]
    assert (agreement["images"], agreement["total"]) == (30, 120)
    assert (agreement["max_lsb"], agreement["differing"], agreement["top1_agreement"]) == (0, 0, 1.0)
    assert agreement["top1"] == agreement["top1_here"]
    assert result["measurement"]["target"]["kind"] == "ssh"
    assert result["measurement"]["median_ms"] > 0
    assert pi.folders() == []


@pytest.mark.parametrize("on", ["local", "ssh:pi"])
def test_a_run_is_written_compared_and_measured(pi, workshop, tmp_path, on) -> None:
    out = tmp_path / "out.tflite"
    line = ["deploy", str(workshop.folder / "run"), "--data", "digits", "--on", on, "--out", str(out)]
    before = workshop.contents()
    done = CliRunner().invoke(main, [*line, "--ssh-config", str(pi.config), "--json"], prog_name="tfmpq")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert out.read_bytes() == (workshop.folder / "small.litert.tflite").read_bytes()
    assert (result["form"], result["agreement"]["max_lsb"]) == ("litert", 0)
    assert result["agreement"]["top1"] > 0.7
    assert result["measurement"]["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    kept = "run/export.out.json"  # the proof, in the place of that of another file of this name
    assert json.loads((workshop.folder / kept).read_text())["path"] == str(out)
    assert {**workshop.contents(), kept: ""} == {**before, kept: ""}


def test_a_phone_with_benchmark_model_shows_no_outputs(phone, storage, program, tmp_path) -> None:
    line = ["deploy", str(storage), "--data", "digits", "--on", "adb", "--out", str(tmp_path / "o.tflite")]
    refused = CliRunner().invoke(main, line, prog_name="tfmpq")
    assert refused.exit_code == 1
    assert "--benchmark-model" in refused.stderr
    assert not (tmp_path / "o.tflite").exists()
    done = CliRunner().invoke(main, [*line, "--benchmark-model", str(program()), "--json"], prog_name="tfmpq")
    assert done.exit_code == 0, done.stderr
    assert "Outputs are not compared" in done.stderr
    result = json.loads(done.stdout)
    assert (result["form"], result["agreement"]) == ("litert", None)
    assert result["measurement"]["source"] == "benchmark_model"
    assert result["measurement"]["sha256"] == hashlib.sha256((tmp_path / "o.tflite").read_bytes()).hexdigest()
    # For people as well.
    shown = CliRunner().invoke(main, [*line, "--benchmark-model", str(program())], prog_name="tfmpq")
    assert "benchmark_model" in shown.stdout


def test_other_outputs_are_an_error(storage, tmp_path, monkeypatch) -> None:
    program = tmp_path / "program.py"
    source = python_runner.PROGRAM.read_text()
    program.write_text(source.replace("np.stack(outputs)", "np.stack(outputs)[:, ::-1]"))
    assert program.read_text() != source
    monkeypatch.setattr(python_runner, "PROGRAM", program)
    with pytest.raises(errors.OutputsDiffer, match=r"Received: local: \d+\.\d% of 20 images do"):
        deploy(storage, "digits", limit=20, out=tmp_path / "out.tflite")


@pytest.mark.parametrize(
    ("machine", "features", "runtime", "form"),
    [
        ("x86_64", "fpu avx2", "ai-edge-litert", "litert"),
        ("aarch64", "fp asimd crc32 asimddp", "ai-edge-litert", "litert"),
        ("aarch64", "fp asimd crc32", "ai-edge-litert", "litert-int8"),
        ("armv7l", "neon asimddp", "ai-edge-litert", "litert-int8"),
        ("aarch64", "fp asimddp", "tflite-runtime", "tflite-runtime"),
        ("aarch64", None, "ai-edge-litert", "litert-int8"),
    ],
)
def test_the_form_suits_processor_and_runtime(machine, features, runtime, form) -> None:
    probed = {"runtime": {"name": runtime}, "device": {"machine": machine, "features": features}}
    assert choose_form(probed) == form


def test_what_cannot_be_delivered(files, tmp_path) -> None:
    with pytest.raises(UsageError, match="benchmark_model measures on Android"):
        deploy(files[0], "digits", benchmark_model=files[0])
    with pytest.raises(UsageError, match="no record"):
        deploy(files[0], "digits", out=tmp_path / "out.tflite")


def test_16_bit_activations_have_one_form(make_small, tmp_path, monkeypatch) -> None:
    slow = {"machine": "aarch64", "features": "fp asimd"}
    assert choose_form({"runtime": {"name": "ai-edge-litert"}, "device": slow}, wide=True) == "litert"
    with pytest.raises(UsageError, match="Received: a device with tflite-runtime"):
        choose_form({"runtime": {"name": "tflite-runtime"}, "device": slow}, wide=True)
    frozen = make_small(8)
    layers = [replace(layer, grid=replace(layer.grid, bits=16, container=16)) for layer in frozen.layers]
    source = tmp_path / "wide.tflite"
    source.write_bytes(build_tflite(replace(frozen, layers=tuple(layers)), "litert"))
    monkeypatch.setattr("tfmpq.api.deploy.target_for", lambda *_: "litert-int8")
    done = deploy(source, "digits", limit=5)
    assert (done.form, done.path) == ("litert", str(tmp_path / "wide.litert.tflite"))
    assert done.agreement is not None
    assert (done.agreement.max_lsb, done.agreement.total) == (0, 20)


def test_a_file_with_several_outputs_is_refused(storage, tmp_path) -> None:
    model = read_model(storage.read_bytes())
    graph = model.subgraphs[0]
    graph.outputs = np.append(graph.outputs, graph.operators[0].outputs).astype(np.int32)
    source = tmp_path / "two.tflite"
    source.write_bytes(write_model(model))
    with pytest.raises(TfmpqError, match=r"two.tflite with 1 inputs and 2 outputs. Use tfmpq specialize"):
        deploy(source, "digits")
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("net.0.35.tflite", "net.0.35.litert.tflite"),
        ("net.0.5.tflite", "net.0.5.litert.tflite"),
        ("net.tflite-runtime.tflite", "net.litert.tflite"),
        ("net.litert.storage.tflite", "net.litert.litert.tflite"),
        ("litert.tflite", "litert.litert.tflite"),
    ],
)
def test_files_with_dots_in_their_names_stay_apart(storage, name, written) -> None:
    assert _file_beside(storage.with_name(name), "litert") == storage.with_name(written)


def test_a_folder_without_a_run_is_refused_before_the_device_and_tensorflow(tmp_path) -> None:
    script = (
        "import sys; from pathlib import Path; from tfmpq.api.deploy import deploy\n"
        "from tfmpq.errors import UsageError\n"
        "try: deploy(Path('.'), 'digits', on='ssh:nowhere.invalid')\n"
        "except UsageError as error: print(error)\n"
        "print(sorted({'keras', 'tensorflow'} & set(sys.modules)))"
    )
    line = [sys.executable, "-c", script]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=tmp_path)
    message, heavy = done.stdout.splitlines()
    assert message == "A fine-tuned run is deployed. Received: ., not fine-tuned. Run tfmpq finetune .."
    assert heavy == "[]"


def test_libraries_say_nothing_while_they_load(storage, tmp_path) -> None:
    script = "from tfmpq.cli.main import main; main()"
    line = ["deploy", str(storage), "--data", "digits", "--limit", "2", "--out", str(tmp_path / "o.tflite")]
    done = subprocess.run([sys.executable, "-c", script, *line], capture_output=True, text=True, check=True)
    assert [text.split(":")[0] for text in done.stderr.splitlines()] == ["measure", "measure"]
