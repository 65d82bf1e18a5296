from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tfmpq.api.device_options import PROTOCOLS as OFFERED
from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.devices import python_runner
from tfmpq.deploy.devices.errors import (
    BadAffinity,
    Crashed,
    ModelInvalid,
    NoNumpy,
    NoPython,
    NoRuntime,
    TimedOut,
    WrongArchitecture,
)
from tfmpq.deploy.devices.protocol import PROTOCOLS, Protocol
from tfmpq.deploy.devices.state import drift, state_warnings, throttling
from tfmpq.deploy.devices.transports import transport
from tfmpq.deploy.latency import measure, profilers
from tfmpq.deploy.latency.measurement import compare, statistics
from tfmpq.errors import TfmpqError, UsageError

SHORT = Protocol("quick", runs=20, seconds=0.05, warmup_runs=2, warmup_seconds=0.01)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "quick", SHORT)
    monkeypatch.setattr(measure, "PAUSE_SECONDS", 0.0)


@pytest.fixture(scope="module")
def path(make_small, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("measure") / "net.tflite"
    path.write_bytes(build_tflite(make_small(4), "litert"))
    return path


@pytest.fixture(scope="module")
def other(make_small, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("measure") / "other.tflite"
    path.write_bytes(build_tflite(make_small(8), "litert"))
    return path


def _program(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str) -> None:
    """Put another program in the runner's place."""
    program = folder / "program.py"
    program.write_text(text)
    monkeypatch.setattr(python_runner, "PROGRAM", program)


def test_measurement_is_complete(path, tmp_path) -> None:
    result = measure.measure(path, runs=60, affinity="0", out=tmp_path / "latency.json")
    document = json.loads((tmp_path / "latency.json").read_text())
    assert document == json.loads(json.dumps(result.to_json()))
    assert document["path"] == str(path)
    assert 0 < document["min_ms"] <= document["p10_ms"] <= document["median_ms"] <= document["p90_ms"]
    assert document["p90_ms"] <= document["p95_ms"] <= document["p99_ms"] <= document["max_ms"]
    assert document["runs"] == sum(len(process["latency_ms_raw"]) for process in document["processes"])
    assert document["runs"] >= 180
    assert document["warmup_runs"] >= 6
    assert len(document["process_medians_ms"]) == 3
    assert document["delegate_partitions"] == 1
    assert document["bytes"] == path.stat().st_size
    assert document["runtime"]["name"] == "ai-edge-litert"
    assert document["device"]["cores"] == 1
    assert {"machine", "cpu", "os", "libc", "python", "memory_kb"} <= set(document["device"])
    assert document["load_ms"] > 0
    assert document["first_inference_ms"] > 0
    assert document["memory_kb"] > 0
    assert document["energy"] is None
    assert document["emulated"] is False
    assert document["protocol"]["affinity"] == "0"
    for process in document["processes"]:
        assert {"cpufreq", "celsius", "load_1min", "throttled"} == set(process["state_before"])
        assert process["latency_ms"]["p50"] == pytest.approx(np.median(process["latency_ms_raw"]))
    assert [file.name for file in tmp_path.iterdir()] == ["latency.json"]


def test_several_files_take_turns_and_are_compared(path, other) -> None:
    found = measure.measure([path, other], threads=2)
    assert [file.path for file in found] == [str(path), str(other)]
    assert found[0].sha256 != found[1].sha256
    assert found[0].threads == 2
    document = found.to_json()
    starts = [[process["process_index"] for process in file["processes"]] for file in document["files"]]
    assert starts == [[0, 1, 2], [0, 1, 2]]
    assert document["comparisons"][0]["reference"] == str(path)
    assert measure.measure_together([path], runs=1)[0].path == str(path)


def test_a_difference_within_the_spread_is_none(path, other) -> None:
    first, second = measure.measure([path, other]).files
    steady = replace(first, process_medians_ms=(1.0, 1.02, 1.01), spread=0.02)
    for medians, spread, verdict in (
        ((1.01, 1.0, 1.02), 0.02, "none"),
        ((0.5, 0.52, 0.51), 0.04, "faster"),
        ((2.0, 2.01, 1.99), 0.01, "slower"),
        ((0.5, 1.5, 0.8), 1.25, "none"),
    ):
        item = compare([steady, replace(second, process_medians_ms=medians, spread=spread)])[0]
        assert item.verdict == verdict
        assert item.lowest <= item.ratio <= item.highest


def test_an_emulation_has_no_latency(path, tmp_path, monkeypatch) -> None:
    source = python_runner.PROGRAM.read_text()
    mark = '"board": "Emulated by qemu-user (timings mean nothing)" or'
    _program(monkeypatch, tmp_path, source.replace('"board":', mark, 1))
    found = measure.measure([path, path])
    document = found.to_json()
    assert document["files"][0]["emulated"] is True
    assert document["files"][0]["median_ms"] is None
    assert document["files"][0]["process_medians_ms"] is None
    assert document["comparisons"][0]["verdict"] is None
    assert document["comparisons"][0]["ratio"] is None
    assert "no latency" in document["files"][0]["warnings"][0]


@pytest.mark.parametrize("content", [b"", b"no model"])
def test_refused_file_is_one_clear_error(content, tmp_path) -> None:
    (tmp_path / "bad.tflite").write_bytes(content)
    with pytest.raises(ModelInvalid, match=r"Received: local: .*bad\.tflite: "):
        measure.measure(tmp_path / "bad.tflite")


def _dies(how: str) -> str:
    probe = "print('TFMPQ_RESULT {\"problem\": null}')"
    return f"import os, sys, signal\nif sys.argv[1:]:\n    {how}\n{probe}\n"


def test_crash_of_the_runtime_names_the_signal(path, tmp_path, monkeypatch) -> None:
    _program(monkeypatch, tmp_path, _dies("os.kill(os.getpid(), signal.SIGSEGV)"))
    with pytest.raises(Crashed, match=r"net\.tflite: the runtime crashed with SIGSEGV: it said nothing"):
        measure.measure(path)


def test_end_without_a_result(path, tmp_path, monkeypatch) -> None:
    _program(monkeypatch, tmp_path, _dies("sys.exit('out of memory')"))
    with pytest.raises(Crashed, match="stopped with exit code 1: out of memory"):
        measure.measure(path)


def test_an_endless_run_is_ended(tmp_path) -> None:
    with transport("local") as device, pytest.raises(TimedOut, match="no result in 1 s"):
        device.run(["sleep", "60"], 1)


@pytest.mark.parametrize(
    ("kind", "error"),
    [("no_numpy", NoNumpy), ("no_runtime", NoRuntime), ("wrong_architecture", WrongArchitecture)],
)
def test_what_the_device_lacks_is_said_before_anything_is_measured(
    kind, error, path, tmp_path, monkeypatch
) -> None:
    problem = json.dumps({"problem": {"kind": kind, "message": "what is amiss"}})
    _program(monkeypatch, tmp_path, f"print('TFMPQ_RESULT', {problem!r})")
    with pytest.raises(error, match="what is amiss"):
        measure.measure(path)


def test_bad_calls(path, tmp_path) -> None:
    with pytest.raises(TfmpqError, match=r"Received: .*none\.tflite"):
        measure.measure(tmp_path / "none.tflite")
    with pytest.raises(UsageError, match="threads=0"):
        measure.measure(path, threads=0)
    with pytest.raises(UsageError, match="at least 1"):
        measure.measure(path, runs=0)
    with pytest.raises(UsageError, match="Protocols are quick"):
        measure.measure(path, protocol="slow")
    with pytest.raises(UsageError, match="none"):
        measure.measure([])
    for on in ("phone", "ssh", "ssh:", "ssh:-oProxyCommand=x", "ssh:a b", "locally"):
        with pytest.raises(UsageError, match="--on"):
            measure.measure(path, on=on)
    with pytest.raises(BadAffinity, match="4711"):
        measure.measure(path, affinity="4711")
    with pytest.raises(NoPython, match="absent"):
        measure.measure(path, python=str(tmp_path / "absent"))


def _process(times, **changes):
    record = {
        "latency_ms_raw": times,
        "drift_last_over_first_quarter": drift(times),
        "cpu_seconds_over_wall": 1.0,
        "state_before": {"cpufreq": {}},
        "state_after": {"throttled": None},
    }
    return record | changes


def test_doubtful_states_are_marked() -> None:
    steady = [1.0] * 100
    assert state_warnings(_process(steady), 1) == []
    assert "rose" in state_warnings(_process([1.0] * 50 + [1.2] * 50), 1)[0]
    assert "standard deviation" in state_warnings(_process([1.0, 2.0] * 52), 1)[0]
    assert "80%" in state_warnings(_process(steady, cpu_seconds_over_wall=0.5), 1)[0]
    assert state_warnings(_process(steady, cpu_seconds_over_wall=0.5), 2) == []
    governor = {"cpufreq": {"policy0": {"scaling_governor": "powersave"}}}
    assert state_warnings(_process(steady, state_before=governor), 1) == ["the governor is powersave"]
    assert "throttled now" in state_warnings(_process(steady, state_after={"throttled": "0x4"}), 1)[0]


def test_flags_of_a_raspberry_pi() -> None:
    assert throttling("0x50005") == ["undervoltage now", "throttled now"]
    assert throttling("50000") == ["undervoltage since the start", "throttled since the start"]
    assert throttling("0x0") == throttling(None) == throttling("denied") == []


def test_statistics_are_numpys() -> None:
    times = np.random.default_rng(0).gamma(2, 1, 500)
    found = statistics(times)
    assert found["p99"] == pytest.approx(np.quantile(times, 0.99))
    assert found["stddev"] == pytest.approx(np.std(times, ddof=1))
    assert statistics([]) is None


def test_the_command_line_offers_the_protocols() -> None:
    assert tuple(PROTOCOLS) == OFFERED


def test_the_program_for_devices_is_python_3_7() -> None:
    ast.parse(python_runner.PROGRAM.read_text(), feature_version=(3, 7))


def test_operators_are_measured_when_asked(path, other, tmp_path) -> None:
    out = tmp_path / "out.json"
    found = measure.measure([path, other], ops=True, out=out)
    written = json.loads(out.read_text())
    for file, measured in zip(written["files"], found, strict=True):
        if file["ops"] is None:
            pytest.skip(file["ops_note"])
        layers = {row["name"]: row for row in file["ops"]["layers"]}
        assert list(layers) == ["conv", "depthwise", "pointwise", "global", "logits"]
        # The profiler counts whole microseconds, of which this network may take none.
        shares = [row["share"] for row in layers.values()]
        if file["ops_note"] is None:
            assert sum(shares) == pytest.approx(1 if file["ops"]["operators_ms"] else 0)
        else:
            assert "too short" in file["ops_note"]
            assert set(shares) == {None}
        assert file["ops"]["runs"] >= 3 * 20
        assert "GEMM" in layers["pointwise"]["kernel"]
        assert layers["pointwise"]["weight_bits"] == measured.operators.profile.layers[2].weight_bits
        assert "processes" in file
    assert [row["container"] for row in written["files"][0]["ops"]["layers"]][2] == 4
    assert "ops" not in measure.measure(path).to_json()


def test_without_a_profiler_there_are_totals_and_a_reason(path, monkeypatch, tmp_path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr(profilers, "PROGRAM", program)
    (found,) = measure.measure(path, ops=True)
    shown = found.to_json()
    assert shown["median_ms"] > 0
    assert shown["ops"] is None
    assert shown["ops_note"].startswith("This runtime tells totals only: ")
    assert "SIGSEGV" in shown["ops_note"]


def test_operators_of_an_emulation_have_no_times(path) -> None:
    (found,) = measure.measure(path, ops=True)
    shown = replace(found, emulated=True).to_json()
    assert shown["ops"] is None
    assert "emulation" in shown["ops_note"]
