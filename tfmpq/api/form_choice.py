"""What decides between the forms of layers: a person's wishes, the processor at hand, a latency table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tfmpq.deploy.devices.pushed_runner import device
from tfmpq.deploy.runtime.processor import kernels_for
from tfmpq.errors import UsageError
from tfmpq.graph.containers import Target
from tfmpq.graph.forms import CHOOSING_TARGET, FormOptions, FormRequest, Processor
from tfmpq.graph.frozen import FrozenModel

if TYPE_CHECKING:
    from tfmpq.deploy.conversion.chosen_forms import DeviceTimes


def processor_here() -> Processor:
    """Kind of the processor of this machine."""
    here = device()
    return kernels_for(here["machine"], here["features"])


def form_choice(
    request: FormRequest, target: Target, frozen: FrozenModel
) -> tuple[FormOptions | None, DeviceTimes | None]:
    """What decides for a network that is exported; nothing for targets without a choice.

    Raises:
        UsageError: The target has no choice, or the latency table is no such file or that of another network.
    """
    request.require(target)
    if target != CHOOSING_TARGET or frozen.wide:
        return None, None
    sizes = {layer.name: layer.weights.integers.size for layer in frozen.weighted if layer.weights}
    times = None if request.latency_table is None else device_times(request.latency_table, sizes)
    return request.complete(processor_here()), times


def device_times(path: str | Path, weights: Mapping[str, int]) -> DeviceTimes:
    """Times of the forms of layers, from a latency table.

    Args:
        path: File of `tfmpq profile`.
        weights: Number of weights by name of the layers that are to be written.

    Raises:
        UsageError: It is no such file, or that of another form or another network; the difference is named.
    """
    # Lazy: rewriting a file on a device needs no pydantic, which reads tables.
    from tfmpq.policy.latency_table import check_device, load_table

    table = load_table(path)
    check_device(table)
    known = {layer.name: layer for layer in table.layers}
    other = next((name for name in known if known[name].weights != weights.get(name)), None)
    if table.form != CHOOSING_TARGET or other is not None:
        what = f"no layer {other} of {known[other].weights} weights" if other else f"the form {table.form}"
        raise UsageError(
            f"Forms are chosen by a latency table of the network for --target {CHOOSING_TARGET}. Received: "
            f"{path}, a table of {table.model} with {what} here. Run tfmpq profile again."
        )
    return {
        layer.name: {int(time.bits): time.ms for time in layer.times if time.decode == "native"}
        for layer in table.layers
    }
