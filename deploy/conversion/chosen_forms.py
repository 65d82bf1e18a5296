"""The forms of a network's layers: chosen for a file, written into it, read back from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tfmpq.deploy.conversion.topology import Shape, geometry, output_shapes
from tfmpq.deploy.tflite.layout import StoredLayer, container_of
from tfmpq.deploy.tflite.metadata import Forms
from tfmpq.graph.containers import WEIGHT_BITS, Container, Target, alternatives
from tfmpq.graph.forms import Choice, FormOptions, Work, choose
from tfmpq.graph.frozen import FrozenLayer, FrozenModel
from tfmpq.graph.unfolding import Window

DeviceTimes = Mapping[str, Mapping[int, float]]
"""Measured times by layer and bits of the container, in one unit."""


def choose_forms(
    frozen: FrozenModel, target: Target, options: FormOptions, times: DeviceTimes | None = None
) -> dict[str, Choice]:
    """Choose the form of every layer that has a choice, by its name.

    Args:
        frozen: A network that passed `tfmpq.deploy.conversion.topology.deployable`.
        target: Form of the file.
        options: What decides.
        times: What a latency table of the device says; layers that it does not know follow the cost model.
    """
    shapes = output_shapes(frozen)
    found = {}
    for layer in () if frozen.wide else frozen.weighted:
        work = work_of(layer, shapes)
        unfoldable = work.operator != "conv2d" or (work.window is not None and work.window.is_unfoldable)
        if unfoldable and alternatives(work.operator, work.bits, work.fan_in, target):
            found[layer.name] = choose(work, target, options, (times or {}).get(layer.name))
    return found


def bytes_by_width(
    frozen: FrozenModel, target: Target, options: FormOptions | None, times: DeviceTimes | None = None
) -> dict[str, dict[int, int]]:
    """What every layer with weights would take in a file at each weight bit-width, in bytes.

    Where a form is not worth its time, fewer bits save nothing; a search has to know.

    Args:
        frozen: A network of any widths that passed `tfmpq.deploy.conversion.topology.deployable`.
        target: Form of the file.
        options: What decides where layers have a choice of forms; None for the forms of the rule table.
        times: What a latency table of the device says.

    Returns:
        Bytes of weights, scales and biases, and of the operators of an unfolding, by layer and bits.
    """
    found: dict[str, dict[int, int]] = {layer.name: {} for layer in frozen.weighted}
    for bits in WEIGHT_BITS:
        layers = tuple(
            replace(layer, weights=replace(layer.weights, bits=bits)) if layer.weights else layer
            for layer in frozen.layers
        )
        there = replace(frozen, layers=layers)
        chosen = choose_forms(there, target, options, times) if options else {}
        for layer in there.weighted:
            if layer.weights is None:
                continue
            count, channels = layer.weights.integers.size, layer.weights.scales.size
            held = container_of(there, layer, target).stored_bytes(count, channels)
            found[layer.name][bits] = chosen[layer.name].chosen.bytes if layer.name in chosen else held
    return found


def work_of(layer: FrozenLayer, shapes: Mapping[str, Shape]) -> Work:
    """What a layer with weights computes.

    Args:
        layer: The layer.
        shapes: Shapes of all outputs, by layer name.
    """
    if layer.weights is None:
        raise ValueError(f"Only layers with weights have forms. Received: {layer.name} ({layer.kind}).")
    shape = shapes[layer.name]
    pixels = shape[0] * shape[1] if len(shape) == 3 else 1
    return Work(
        layer.operator, layer.weights.bits, layer.fan_in, layer.weights.scales.size, pixels,
        window_of_layer(layer, shapes[layer.inputs[0]]),
    )  # fmt: skip


def window_of_layer(layer: FrozenLayer, image: Shape) -> Window | None:
    """How a convolution reads its input; None for a grouped one and for other kinds."""
    if layer.kind != "conv2d" or layer.attributes.get("groups", 1) != 1:
        return None
    kernel, strides, dilation = geometry(layer)
    return Window((image[0], image[1], image[2]), kernel, strides, dilation, layer.attributes["padding"])


def forms_record(frozen: FrozenModel, options: FormOptions, choices: Mapping[str, Choice]) -> Forms:
    """What a file says about its forms."""
    shapes = output_shapes(frozen)
    layers = {}
    for name, choice in choices.items():
        layer = frozen.layer(name)
        window = window_of_layer(layer, shapes[layer.inputs[0]])
        layers[name] = entry_of(choice, window)
    return Forms(options, layers)


def entry_of(choice: Choice, window: Window | None) -> dict[str, Any]:
    """What a file says about the form of one layer."""
    told = choice.chosen if choice.chosen.container.order else choice.rejected
    if told is None:
        return {}
    entry: dict[str, Any] = {"time": round(told.time, 3)}
    if choice.measured:
        entry["measured"] = True
    if choice.chosen.container.order and window is not None:
        entry |= {"order": choice.chosen.container.order, "scratch": choice.chosen.scratch}
        entry |= window.to_record()
    return entry


def held_containers(
    frozen: FrozenModel, forms: Forms, stored: Mapping[str, StoredLayer], target: Target
) -> dict[str, Container]:
    """The container that each layer has to have in a file, which may have chosen where there is a choice.

    Args:
        frozen: A network that passed `tfmpq.deploy.conversion.topology.deployable`.
        forms: What the file says about its forms.
        stored: Its layers with weights, by name.
        target: Form of the file.
    """
    shapes = output_shapes(frozen)
    found = {}
    for layer in frozen.weighted:
        found[layer.name] = container_of(frozen, layer, target)
        held = stored.get(layer.name)
        if frozen.wide or held is None or layer.weights is None:
            continue
        order, work = forms.order(layer.name), work_of(layer, shapes)
        unfolded = work.operator == "conv2d"
        if unfolded != (order is not None) or (unfolded and work.window is None):
            continue
        for other in alternatives(work.operator, work.bits, work.fan_in, target):
            if other.bits == held.container_bits:
                found[layer.name] = replace(other, order=order)
    return found
