"""Which kernel of the runtime runs each layer of a file, on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tfmpq.deploy.devices.errors import DeviceError
from tfmpq.deploy.devices.protocol import Protocol
from tfmpq.deploy.devices.transports import transport
from tfmpq.deploy.latency.operator_times import operator_profile
from tfmpq.deploy.latency.profilers import LiteRtProfiler, NoProfiler
from tfmpq.deploy.tflite.flatbuffer import builtin_name, read_model
from tfmpq.deploy.tflite.layout import tensor_name

_PLAN = Protocol("kernels", runs=1, seconds=0.0, limit_seconds=60.0)


@dataclass(frozen=True, slots=True)
class LayerKernels:
    """Kernels by layer.

    Attributes:
        names: Kernels by layer, as the runtime's profiler calls them, XNNPACK's microkernels included; where
            it tells none, `XNNPACK` or the name of LiteRT's own operator.
        problem: Why the profiler tells none; None if it does.
    """

    names: Mapping[str, str]
    problem: str | None


def layer_kernels(content: bytes, delegated: Mapping[str, bool]) -> LayerKernels:
    """Run a file once under LiteRT's profiler, in a process of its own.

    Args:
        content: Bytes of a `.tflite`.
        delegated: Whether XNNPACK runs a layer, by the name of its output tensor.
    """
    with tempfile.TemporaryDirectory() as folder, transport("local") as device:
        path = Path(folder, "model.tflite")
        path.write_bytes(content)
        try:
            process = LiteRtProfiler(device).profile(device.push(path), 1, _PLAN, None)
        except (NoProfiler, DeviceError) as error:
            return LayerKernels(_operators(content, delegated), " ".join(str(error).split()))
    profile = operator_profile(content, [process], LiteRtProfiler.source)
    return LayerKernels({layer.name: layer.kernel for layer in profile.layers}, None)


def _operators(content: bytes, delegated: Mapping[str, bool]) -> dict[str, str]:
    model = read_model(content)
    graph = model.subgraphs[0]
    outputs = (
        (tensor_name(graph.tensors[int(o.outputs[0])]), builtin_name(model, o)) for o in graph.operators
    )
    return {name: "XNNPACK" if delegated.get(name) else builtin for name, builtin in outputs if name}
