"""Bad input to the whole command line: one line, the right exit code, and nothing changed on disk."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import Result

# Keras 3 converts TensorFlow's variables by a call that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SEARCH = "search --model user_networks:small --proxy digits --epochs 0 --out new"
FINETUNE = "finetune {} --target digits --model user_networks:small --weights none --epochs 0 --out new"


def assert_one_line(result: Result, code: int, *fragments: str) -> None:
    """Progress may come before it, but the failure is the last line of stderr, and stdout is empty."""
    assert (result.exit_code, result.stdout) == (code, ""), result.stderr
    *before, last = result.stderr.splitlines()
    assert last.startswith("Error: ")
    assert not any("Error" in line or "Traceback" in line for line in before), result.stderr
    assert "Internal error" not in last, last
    for fragment in fragments:
        assert fragment in last, last


@pytest.fixture(scope="module")
def damaged(workshop) -> Path:
    """Files that are no longer, or never were, what their names say."""
    folder = workshop.folder / "damaged"
    folder.mkdir()
    for name, source in {
        "policy.yaml": "run/policy.yaml",
        "cut.tflite": "small.litert.tflite",
        "cut.keras": "run/search.float.keras",
    }.items():
        content = (workshop.folder / source).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
    (folder / "policy.yaml").write_text("format: tfmpq-policy/1\nmodel: small\nlayers: {stem: {weight_b")
    for name in ("noise.npz", "noise.tflite", "noise.weights.h5", "noise.yaml"):
        (folder / name).write_bytes(np.random.default_rng(0).bytes(4096))
    (folder / "empty.tflite").touch()
    (folder / "two.tflite").write_bytes(_with_two_outputs(workshop.folder / "small.litert.tflite"))
    (folder / "nothing").mkdir()
    (folder / "no_images" / "class").mkdir(parents=True)
    np.savez(folder / "no_images.npz", x=np.zeros((0, 8, 8, 3), np.uint8), y=np.zeros(0, int))
    for name, counts in {"untested": (20, 0), "untrained": (0, 20)}.items():
        for part, count in zip(("train", "test"), counts, strict=True):
            images = np.zeros((count, 8, 8, 1), np.uint8)
            np.savez(folder / f"{name}_{part}.npz", x=images, y=np.arange(count) % 10)
    np.savez(folder / "other.npz", something=np.zeros(3))
    images = np.zeros((8, 16, 16, 3), np.uint8)
    for name, labels in {"one": np.zeros(8, int), "three": np.arange(8) % 3}.items():
        np.savez(folder / f"{name}_class.npz", x=images, y=labels)
    np.savez(folder / "pickled.npz", x=np.array([{"a": 1}, None]), y=np.zeros(2))
    (folder / "code.yaml").write_text("!!python/object/apply:os.mkdir [damaged/executed]\n")
    content = yaml.safe_load((workshop.folder / "run" / "policy.yaml").read_text())
    for name, old, new, bits in (("layer", "down", "dawn", 4), ("bits", "down", "down", 9)):
        layers = {
            k if k != old else new: v if k != old else {"weight_bits": bits}
            for k, v in content["layers"].items()
        }
        (folder / f"{name}.yaml").write_text(
            yaml.safe_dump(content | {"layers": layers}, default_flow_style=False)
        )
    shutil.copytree(workshop.folder / "run", folder / "run")
    (folder / "run" / "finetune.keras").write_bytes(b"PK\x03\x04 cut off")
    return folder


def _with_two_outputs(path: Path) -> bytes:
    from tfmpq.deploy.tflite.flatbuffer import read_model, write_model

    model = read_model(path.read_bytes())
    graph = model.subgraphs[0]
    graph.outputs = np.append(graph.outputs, graph.operators[0].outputs).astype(np.int32)
    return write_model(model)


CASES = {
    "unknown model": (SEARCH.replace("user_networks:small", "resnet9"), 2, ("resnet9", "resnet8")),
    "no such module": (SEARCH.replace("user_networks", "no_networks"), 2, ("no_networks",)),
    "no such function": (SEARCH.replace(":small", ":large"), 2, ("user_networks:large",)),
    "no such model file": (SEARCH.replace("user_networks:small", "no.keras"), 2, ("no.keras",)),
    "no such weights": (f"{SEARCH} --weights no.npz", 2, ("no.npz",)),
    "several outputs": (SEARCH.replace(":small", ":two_heads"), 2, ("2 outputs", "keras.Model")),
    "several outputs in the file to deploy": (
        "deploy damaged/two.tflite --data digits",
        2,
        ("two.tflite", "2 outputs", "tfmpq measure"),
    ),
    "one output twice": (
        "export user_networks:twice --tflite --calibrate random --weight-bits 8 --out new.tflite",
        2,
        ("logits, logits",),
    ),
    "file as run folder": (SEARCH.replace("--out new", "--out user_networks.py"), 2, ("user_networks.py",)),
    "no such processor": ("measure small.litert.tflite --affinity 4711", 2, ("4711",)),
    "empty folder as data": (SEARCH.replace("digits", "folder:damaged/nothing"), 2, ("damaged/nothing",)),
    "folder without images as data": (
        SEARCH.replace("digits", "folder:damaged/no_images"),
        2,
        ("damaged/no_images",),
    ),
    "no images in a file of data": (SEARCH.replace("digits", "npz:damaged/no_images.npz"), 2, ("no_images",)),
    "unknown data set": (SEARCH.replace("digits", "digitz"), 2, ("digitz", "digits")),
    "no such data file": (SEARCH.replace("digits", "npz:no.npz"), 2, ("no.npz",)),
    "unknown budget": (f"{SEARCH} --budget colour=3", 2, ("colour=3", "size, bops, weight-bits")),
    "unknown unit": (f"{SEARCH} --budget size=12parsec", 2, ("12parsec", "kB")),
    "out of reach": (f"{SEARCH} --budget bops=0.01x", 2, ("bops=0.01x", "smallest that can be met: bops=")),
    "bits outside the space": (f"{SEARCH} --weight-bits 2,9", 2, ("2,9", "2 to 8")),
    "unsupported layers": (
        SEARCH.replace(":small", ":unsupported"),
        1,
        ("bent", "softplus", "normalised", "LayerNormalization"),
    ),
    "layer not in the network": (FINETUNE.format("damaged/layer.yaml"), 2, ("dawn", "nearest: down")),
    "bits in a policy": (FINETUNE.format("damaged/bits.yaml"), 2, ("layers.down.weight_bits", "9", "2 to 8")),
    "truncated policy": (FINETUNE.format("damaged/policy.yaml"), 2, ("damaged/policy.yaml", "line 3")),
    "noise as policy": ("inspect damaged/noise.yaml", 2, ("damaged/noise.yaml",)),
    "code in a policy": ("inspect damaged/code.yaml", 2, ("damaged/code.yaml",)),
    "noise as data": (SEARCH.replace("digits", "npz:damaged/noise.npz"), 1, ("damaged/noise.npz",)),
    "other arrays as data": (SEARCH.replace("digits", "npz:damaged/other.npz"), 1, ("something",)),
    "pickle as data": (SEARCH.replace("digits", "npz:damaged/pickled.npz"), 1, ("damaged/pickled.npz",)),
    "one class": (SEARCH.replace("digits", "npz:damaged/one_class.npz"), 2, ("one_class", "1 class")),
    "another target without weights in the whole job": (
        "run --model resnet8 --proxy digits --target npz:damaged/three_class.npz --out new",
        2,
        ("Give --weights FILE",),
    ),
    "policy that names code": (
        "finetune run/policy.yaml --target digits --weights none --out new",
        2,
        ("Give --model user_networks:small",),
    ),
    "uniform widths out of range": (FINETUNE.format("uniform:9"), 2, ("'uniform:9'", "2 to 8")),
    "uniform activations out of range": (FINETUNE.format("uniform:4/16"), 2, ("'uniform:4/16'",)),
    "uniform widths of no network": (
        FINETUNE.format("uniform:4").replace("--model user_networks:small ", ""),
        2,
        ("uniform:4 and no model",),
    ),
    "radius of plain gradients": (
        f"{FINETUNE.format('uniform:4')} --rho 0.1",
        2,
        ("--rho with --method qat",),
    ),
    "no radius": (f"{FINETUNE.format('uniform:4')} --method saq --rho 0", 2, ("--rho", "x>0")),
    "no second gradient": (
        f"{FINETUNE.format('uniform:4')} --method saq --second-gradient-every 0",
        2,
        ("--second-gradient-every", "x>=1"),
    ),
    "case of another method": (
        f"{FINETUNE.format('uniform:4')} --method sam --saq-case 3",
        2,
        ("--saq-case 3 with --method sam",),
    ),
    "ends out of range": (f"{FINETUNE.format('uniform:4')} --ends 9", 2, ("--ends", "2 to 8")),
    "ends of a policy": (f"{FINETUNE.format('run/policy.yaml')} --ends 8", 2, ("--ends 8 beside one",)),
    "noise as weights": (f"{SEARCH} --weights damaged/noise.weights.h5", 1, ("noise.weights.h5",)),
    "truncated weights": (f"{SEARCH} --weights damaged/cut.keras", 1, ("damaged/cut.keras",)),
    "other weights": (f"{SEARCH} --weights damaged/other.npz", 1, ("something",)),
    "truncated model": (
        SEARCH.replace("user_networks:small", "damaged/cut.keras"),
        1,
        ("damaged/cut.keras",),
    ),
    "truncated .keras": ("evaluate damaged/cut.keras --data digits", 1, ("damaged/cut.keras",)),
    "damaged run": ("export damaged/run --tflite", 1, ("finetune.keras",)),
    "proof against no run": (
        "verify small.litert.tflite --against damaged/nothing",
        2,
        ("A file is that of a fine-tuned run. Received: damaged/nothing",),
    ),
    "no images to measure on": (
        f"{SEARCH.replace('digits', 'untested')} --data-dir damaged",
        2,
        ("untested, whose test part is empty",),
    ),
    "no images to calibrate on": (
        "export user_networks:small --tflite --calibrate untrained --data-dir damaged --weight-bits 8 "
        "--weights run/search.float.keras --out new.tflite",
        2,
        ("untrained, whose train part is empty",),
    ),
    "no run": ("evaluate damaged --data digits", 2, ("damaged",)),
    "no format": ("export run", 2, ("--tflite",)),
    "no file": ("measure no.tflite", 2, ("no.tflite",)),
    "other search": ("{search} --seed 4", 2, ("seed=4", "run has 3")),
    "other fine-tuning": ("{finetune} --epochs 6", 2, ("epochs=6", "run has 5")),
} | {
    f"{name} file in {verb}": (f"{line.format(f'damaged/{name}.tflite')}", 1, (f"damaged/{name}.tflite",))
    for name in ("cut", "noise", "empty")
    for verb, line in {
        "evaluate": "evaluate {} --data digits",
        "measure": "measure {}",
        "inspect": "inspect {}",
    }.items()
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_leaves_no_trace(workshop, damaged: Path, case: str) -> None:
    line, code, fragments = CASES[case]
    before = workshop.contents()
    assert_one_line(workshop.invoke(line.format(**workshop.commands) + " --json"), code, *fragments)
    assert workshop.contents() == before


def test_missing_weights_leave_a_folder_that_can_be_begun(workshop) -> None:
    line = "finetune run/policy.yaml --target digits --model user_networks:small --epochs 0 --out unweighted"
    assert_one_line(workshop.invoke(line), 2, "--weights FILE")
    assert workshop.invoke(f"{line} --weights run/search.float.keras").exit_code == 0


@pytest.fixture
def held(workshop) -> Iterator[None]:
    """Another process uses the run folder."""
    program = (
        "import fcntl, sys\n"
        "file = open('run/.lock', 'a')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=workshop.folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield
        process.stdin.close()


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("verb", ["search", "finetune"])
def test_a_run_folder_serves_one_process(workshop, verb: str) -> None:
    before = workshop.contents()
    assert_one_line(workshop.invoke(workshop.commands[verb]), 1, "in use by another", "--out")
    assert workshop.contents() == before


@pytest.mark.parametrize("verb", ["storage", "measure small.litert.tflite --runs 1 --out latency.json"])
def test_no_space_left_keeps_earlier_results(workshop, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    line = workshop.commands.get(verb, verb)
    workshop.invoke(line)
    before = workshop.contents()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", _no_space)
        assert_one_line(workshop.invoke(line), 1, "No space left on device")
    assert workshop.contents() == before


def test_no_space_left_in_a_search_leaves_nothing_half_written(
    workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = workshop.contents()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", _no_space)
        assert_one_line(workshop.invoke(SEARCH.replace("new", "full")), 1, "No space left on device")
    assert set(workshop.contents()) - set(before) <= {"full", "full/.lock"}
    assert workshop.invoke(SEARCH.replace("new", "full")).exit_code == 0


def _no_space(source: str, target: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source), None, str(target))
