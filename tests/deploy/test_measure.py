from __future__ import annotations

import json
from pathlib import Path

import pytest

from tfmpq.deploy import measure
from tfmpq.deploy.surgery import build_tflite
from tfmpq.errors import TfmpqError, UsageError


@pytest.fixture(scope="module")
def path(make_small, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("measure") / "net.tflite"
    path.write_bytes(build_tflite(make_small(4), "litert"))
    return path


def test_measurement_is_complete(path, tmp_path) -> None:
    result = measure.measure(path, runs=60, out=tmp_path / "latency.json")
    document = json.loads((tmp_path / "latency.json").read_text())
    assert document == json.loads(json.dumps(result.to_json()))
    assert 0 < document["min_ms"] <= document["p10_ms"] <= document["median_ms"] <= document["p90_ms"]
    assert document["runs"] >= 60
    assert document["warmup_runs"] >= 5
    assert len(document["round_medians_ms"]) == 5
    assert document["delegate_partitions"] == 1
    assert document["bytes"] == path.stat().st_size
    assert document["runtime"]["name"] == "ai-edge-litert"
    assert {"machine", "cpu", "cores", "os"} <= set(document["device"])
    assert document["load_ms"] > 0
    assert document["first_inference_ms"] > 0
    assert [file.name for file in tmp_path.iterdir()] == ["latency.json"]


def test_several_files_are_measured_together(path, make_small, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(measure, "MIN_SECONDS", 0.1)
    monkeypatch.setattr(measure, "WARMUP_SECONDS", 0.1)
    other = tmp_path / "other.tflite"
    other.write_bytes(build_tflite(make_small(8), "litert"))
    first, second = measure.measure_together([path, other], threads=2)
    assert (first.path, second.path) == (str(path), str(other))
    assert first.sha256 != second.sha256
    assert first.threads == 2


@pytest.mark.parametrize("content", [b"", b"no model"])
def test_refused_file_is_one_clear_error(content, tmp_path) -> None:
    (tmp_path / "bad.tflite").write_bytes(content)
    with pytest.raises(TfmpqError, match=r"Received: .*bad\.tflite, on which it stopped with exit code 1"):
        measure.measure(tmp_path / "bad.tflite")


def test_crash_of_the_runtime_names_the_signal(path, tmp_path, monkeypatch) -> None:
    program = tmp_path / "crash.py"
    program.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(measure, "_PROGRAM", program)
    with pytest.raises(TfmpqError, match="crashed with SIGSEGV: nothing"):
        measure.measure(path)


def test_crash_between_rounds(path, tmp_path, monkeypatch) -> None:
    program = tmp_path / "crash.py"
    program.write_text("import sys\nprint('{}', flush=True)\ninput()\nsys.exit('out of memory')\n")
    monkeypatch.setattr(measure, "_PROGRAM", program)
    with pytest.raises(TfmpqError, match="stopped with exit code 1: out of memory"):
        measure.measure(path)


def test_bad_calls(path, tmp_path) -> None:
    with pytest.raises(TfmpqError, match=r"Received: .*none\.tflite"):
        measure.measure(tmp_path / "none.tflite")
    with pytest.raises(UsageError, match="threads=0"):
        measure.measure(path, threads=0)


def test_doubtful_numbers_are_marked() -> None:
    import numpy as np

    steady = np.full(100, 1.0)
    assert measure._warnings(steady, (1.0, 1.05), 4, 1) == []
    assert "differ by 20%" in measure._warnings(steady, (1.0, 1.2), 4, 1)[0]
    assert "8 threads share 4 cores" in measure._warnings(steady, (1.0, 1.0), 4, 8)
    assert "20 us" in measure._warnings(steady / 100, (0.01, 0.01), 4, 1)[0]
    assert "standard deviation" in measure._warnings(np.tile((1.0, 2.0), 50), (1.5, 1.5), 4, 1)[0]
