"""The form that suits a processor."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tfmpq.api.specialize import specialize
from tfmpq.deploy.conversion.specialize import specialize as rewritten
from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.devices import pushed_runner
from tfmpq.deploy.runtime.processor import target_for
from tfmpq.deploy.tflite.metadata import read_metadata


@pytest.mark.parametrize(
    ("machine", "features", "target"),
    [
        ("x86_64", "fpu sse4_2 avx avx2 fma", "litert"),
        ("x86_64", "fpu sse4_2 avx", "litert-int8"),
        ("AMD64", None, "litert"),
        ("aarch64", "fp asimd atomics asimddp", "litert"),
        ("aarch64", "fp asimd crc32", "litert-int8"),
        ("aarch64", None, "litert-int8"),
        ("arm64", None, "litert"),
        ("armv7l", "neon vfpv4 asimddp", "litert-int8"),
        ("riscv64", None, "litert-int8"),
    ],
)
def test_target_follows_the_processor(machine, features, target) -> None:
    assert target_for(machine, features) == target
    assert target_for(machine, features, "tflite-runtime") == "tflite-runtime"


@pytest.mark.parametrize(
    ("told", "features"),
    [
        (
            {"machdep.cpu.features": "FPU SSE4.2\n", "machdep.cpu.leaf7_features": "AVX2 BMI1\n"},
            "fpu sse4.2 avx2 bmi1",
        ),
        ({"hw.optional.arm.FEAT_DotProd": "1\n"}, "asimddp"),
        ({"hw.optional.arm.FEAT_DotProd": "0\n"}, None),
        (None, None),
    ],
)
def test_a_mac_is_asked_by_sysctl(told, features, monkeypatch) -> None:
    def run(command, **_) -> SimpleNamespace:
        if told is None:
            raise FileNotFoundError(command[0])
        return SimpleNamespace(stdout=told.get(command[-1], ""))

    monkeypatch.setattr(pushed_runner.subprocess, "run", run)
    monkeypatch.setattr(pushed_runner.sys, "platform", "darwin")
    assert pushed_runner.features_elsewhere() == features


@pytest.mark.parametrize(
    ("machine", "features", "target"),
    [("aarch64", "fp asimd", "litert-int8"), ("aarch64", "fp asimd asimddp", "litert")],
)
def test_auto_asks_the_processor_at_hand(
    make_small, tmp_path, monkeypatch, machine, features, target
) -> None:
    source, out = tmp_path / "a.tflite", tmp_path / "b.tflite"
    source.write_bytes(build_tflite(make_small(4), "storage"))
    here = pushed_runner.device() | {"machine": machine, "features": features}
    monkeypatch.setattr("tfmpq.api.specialize.device", lambda: here)
    assert specialize(source, out, "auto").target == target
    assert out.read_bytes() == rewritten(source.read_bytes(), target)
    assert read_metadata(out.read_bytes())
