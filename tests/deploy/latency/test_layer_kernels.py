"""Kernels by layer, from the profiler of the runtime or without it."""

from __future__ import annotations

from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.latency import layer_kernels
from tfmpq.deploy.latency.operator_times import MERGED
from tfmpq.deploy.latency.profilers import LiteRtProfiler, NoProfiler


def test_the_profiler_names_the_kernel_of_every_layer(make_small) -> None:
    frozen = make_small(4)
    content = build_tflite(frozen, "litert")
    found = layer_kernels.layer_kernels(content, {})
    assert found.problem is None
    assert set(found.names) == {layer.name for layer in frozen.layers[1:]}
    assert MERGED not in found.names.values()
    # INT4 weights have a matrix product of their own; the other two convolutions have int8 containers.
    for name, kernel in {
        "conv": "QC8",
        "depthwise": "DWConv",
        "pointwise": "QC4W",
        "logits": "QC4W",
    }.items():
        assert kernel in found.names[name]


def test_without_a_profiler_the_delegate_or_the_operator_is_named(make_small, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise NoProfiler("libLiteRt.so has no profiler")

    monkeypatch.setattr(LiteRtProfiler, "profile", refuse)
    frozen = make_small(4)
    delegated = {layer.name: layer.name != "depthwise" for layer in frozen.layers[1:]}
    found = layer_kernels.layer_kernels(build_tflite(frozen, "storage"), delegated)
    assert found.problem == "libLiteRt.so has no profiler"
    assert found.names["depthwise"] == "DEPTHWISE_CONV_2D"
    assert {name: found.names[name] for name in ("conv", "logits")} == {
        "conv": "XNNPACK",
        "logits": "XNNPACK",
    }
