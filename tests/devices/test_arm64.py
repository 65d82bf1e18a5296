"""Files on an emulated arm64 machine, end to end over ssh: do both runtimes compute what this one does?"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from tfmpq.deploy import device_errors as errors
from tfmpq.deploy.devices import devices
from tfmpq.deploy.measure import measure
from tfmpq.deploy.python_runner import PythonRunner
from tfmpq.deploy.runtime import open_interpreter
from tfmpq.deploy.transports import transport

pytestmark = pytest.mark.slow

IMAGES = 20
PYTHONS = {"ai-edge-litert": "python-ai_edge_litert", "tflite-runtime": "python-tflite_runtime"}


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> dict[str, Path]:
    """Four layers in 4 and 8 bits, and a deep network with every kind of layer."""
    from tfmpq.deploy.surgery import build_tflite

    source = Path(__file__).parents[1] / "deploy" / "conftest.py"
    spec = importlib.util.spec_from_file_location("networks_for_devices", source)
    assert spec is not None
    assert spec.loader is not None
    fixtures = sys.modules["networks_for_devices"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fixtures)
    frozen = {"small4": fixtures.small(4), "small8": fixtures.small(8), "deep8": fixtures.every_layer(8)}
    folder = tmp_path_factory.mktemp("networks")
    for name, model in frozen.items():
        (folder / f"{name}.tflite").write_bytes(build_tflite(model, "litert"))
    return {name: folder / f"{name}.tflite" for name in frozen}


def _host(path: Path, codes: np.ndarray) -> np.ndarray:
    interpreter = open_interpreter(path.read_bytes())
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]
    outputs = []
    for code in codes:
        interpreter.set_tensor(source, code[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(target)[0].copy())
    return np.stack(outputs)


# tflite-runtime 2.14 is older than 4-bit weights. A layer may round another way on ARM, by 1 LSB; in the deep
# network such differences add up, most of them from average pooling.
@pytest.mark.parametrize(
    ("runtime", "network", "limit"),
    [
        ("ai-edge-litert", "small4", 1),
        ("ai-edge-litert", "deep8", 2),
        ("tflite-runtime", "small8", 1),
        ("tflite-runtime", "deep8", 2),
    ],
)
def test_outputs_are_those_of_this_machine(raspberry, networks, tmp_path, runtime, network, limit) -> None:
    path = networks[network]
    shape = open_interpreter(path.read_bytes()).get_input_details()[0]["shape"][1:]
    codes = np.random.default_rng(0).integers(-128, 128, (IMAGES, *shape), dtype=np.int8)
    np.save(tmp_path / "inputs.npy", codes)
    with transport("ssh:pi", ssh_config=raspberry.config, python=PYTHONS[runtime]) as device:
        program = PythonRunner(device)
        name, inputs = device.push(path), device.push(tmp_path / "inputs.npy")
        said = program.infer(name, path, inputs, "outputs.npy", 300)
        device.pull("outputs.npy", tmp_path / "outputs.npy")
    assert said["runtime"]["name"] == runtime
    found, expected = np.load(tmp_path / "outputs.npy"), _host(path, codes)
    distance = np.abs(found.astype(int) - expected.astype(int))
    assert distance.max() <= limit
    assert np.mean(found.argmax(axis=-1) == expected.argmax(axis=-1)) >= 0.9


def test_times_of_an_emulation_are_none(raspberry, files, short) -> None:
    found = measure(files[:1], on="ssh:pi", ssh_config=raspberry.config, python=PYTHONS["ai-edge-litert"])
    document = found.to_json()
    assert document["device"]["machine"] == "aarch64"
    assert document["emulated"] is True
    assert document["median_ms"] is None
    assert document["processes"][0]["latency_ms"]["count"] >= 5


def test_packages_of_this_machine_on_the_other(raspberry, files) -> None:
    with transport("ssh:pi", ssh_config=raspberry.config) as device:
        (found,) = devices(["ssh:pi"], ssh_config=raspberry.config).devices
        assert (found.state, found.machine) == ("no_numpy", "aarch64")
        with pytest.raises(errors.NoNumpy):
            PythonRunner(device).require_runtime()
