"""Convolutions as unfolded windows and a matrix product: the very codes of CONV_2D, in one partition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tfmpq.deploy.conversion.specialize import specialize
from tfmpq.deploy.runtime.convolution_models import NAME, convolution_model
from tfmpq.deploy.runtime.interpreter import execution_plan, tensor_values
from tfmpq.deploy.tflite.flatbuffer import builtin_name, contents, read_model, write_model
from tfmpq.deploy.tflite.layout import stored_layers
from tfmpq.errors import TfmpqError
from tfmpq.graph.forms import FormOptions
from tfmpq.graph.unfolding import MOST_CONCATENATED, ORDERS, Order, Step, Window, traffic

KERNELS = ((3, 3), (5, 5), (7, 7), (1, 3), (3, 1), (1, 1), (2, 2), (1, 7), (4, 4))
PAIRS = ((1, 1), (2, 2), (1, 2), (3, 3))


@st.composite
def windows(draw: st.DrawFn) -> Window:
    """Any ungrouped convolution that is not pointwise; TensorFlow has strides or dilation, not both."""
    kernel = draw(st.sampled_from(KERNELS))
    strides = draw(st.sampled_from(PAIRS))
    dilation = draw(st.sampled_from(PAIRS)) if strides == (1, 1) else (1, 1)
    image = (draw(st.integers(1, 17)), draw(st.integers(1, 17)), draw(st.sampled_from((1, 2, 4, 6, 16))))
    window = Window(image, kernel, strides, dilation, draw(st.sampled_from(("same", "valid"))))
    assume(not window.is_pointwise and min(window.output) > 0)
    return window


def followed(steps: tuple[Step, ...], image: np.ndarray) -> np.ndarray:
    """What the steps make of an image, in NumPy."""
    values = [image]
    for step in steps:
        read = [values[number] for number in step.inputs]
        if step.kind == "PAD":
            value = np.pad(read[0], (*step.pads, (0, 0)))
        elif step.kind == "RESHAPE":
            value = read[0].reshape(step.shape)
        elif step.kind == "SLICE":
            value = read[0][tuple(slice(b, b + n) for b, n in zip(step.begin, step.shape, strict=True))]
        else:
            value = np.concatenate(read, axis=-1)
        assert value.shape == step.shape
        values.append(value)
    return values[-1]


@settings(max_examples=150, deadline=None)
@given(window=windows(), order=st.sampled_from(ORDERS))
def test_every_pixel_holds_its_window_in_the_order_of_the_kernel(window: Window, order: Order) -> None:
    image = np.arange(1, math.prod(window.image) + 1).reshape(window.image)
    padded = np.pad(image, (*window.pads, (0, 0)))
    (rows, columns), (down, right), (tall, wide) = window.output, window.strides, window.dilation
    parts = [
        padded[i * tall :: down, j * wide :: right][:rows, :columns] for i, j in np.ndindex(*window.kernel)
    ]
    steps = window.unfold(order)
    np.testing.assert_array_equal(followed(steps, image), np.concatenate(parts, axis=-1))
    assert max((len(step.inputs) for step in steps), default=0) <= MOST_CONCATENATED
    moved = traffic(window, order)
    assert moved.copied == sum(math.prod(step.shape) for step in steps)
    assert moved.operators == len(steps)
    assert moved.scratch >= max(math.prod(step.shape) for step in steps if step.kind != "RESHAPE")


@settings(max_examples=60, deadline=None)
@given(
    window=windows(),
    order=st.sampled_from(ORDERS),
    bits=st.sampled_from((2, 3, 4, 8)),
    channels=st.sampled_from((1, 5, 8, 16)),
    seed=st.integers(0, 99),
)
def test_no_element_differs_from_the_convolution(
    window: Window, order: Order, bits: int, channels: int, seed: int
) -> None:
    container = 8 if bits == 8 or window.fan_in % 2 else 4 if bits > 2 or window.fan_in % 4 else 2
    plain = convolution_model(window, channels, bits, seed=seed)
    unfolded = convolution_model(window, channels, bits, order=order, container=container, seed=seed)
    answers = [
        tensor_values(model.content, None, model.source, "default")[NAME] for model in (plain, unfolded)
    ]
    np.testing.assert_array_equal(answers[0], answers[1])
    # The answer by another way; ties may round either way in float32.
    assert np.abs(answers[0] - plain.expected).max() <= 0.5 + 1e-3
    plan = execution_plan(unfolded.content)
    assert (plan.partitions, plan.complete) == (1, True)


@settings(max_examples=40, deadline=None)
@given(window=windows(), order=st.sampled_from(ORDERS), bits=st.sampled_from((2, 4)))
def test_an_unfolded_convolution_becomes_the_convolution_again(
    window: Window, order: Order, bits: int
) -> None:
    assume(window.fan_in % 4 == 0)
    plain = convolution_model(window, 8, bits)
    unfolded = convolution_model(window, 8, bits, order=order)
    back = read_model(specialize(unfolded.content, "litert-int8"))
    (held,), (wanted,) = stored_layers(back), stored_layers(read_model(plain.content))
    assert (held.builtin, held.container_bits, held.shape) == ("CONV_2D", 8, wanted.shape)
    for what in ("integers", "scales", "bias"):
        np.testing.assert_array_equal(getattr(held, what), getattr(wanted, what))
    (operator,), (original,) = back.subgraphs[0].operators, read_model(plain.content).subgraphs[0].operators
    assert vars(operator.builtinOptions) == vars(original.builtinOptions)
    again = specialize(write_model(back), "litert", options=FormOptions("size"))
    (layer,) = stored_layers(read_model(again))
    np.testing.assert_array_equal(layer.integers.reshape(wanted.shape), wanted.integers)


def test_a_file_keeps_the_form_that_it_has() -> None:
    content = convolution_model(Window((9, 9, 8), (3, 3), padding="same"), 8, 4, order="at once").content
    assert specialize(content, "litert") == content
    assert [layer.operator for layer in stored_layers(read_model(content))] == ["conv2d"]


@pytest.mark.parametrize("damage", ["begin", "kind", "record", "order", "large", "scratch"])
def test_an_unfolding_that_is_another_is_refused(damage: str) -> None:
    """A file that says of its operators what they are not would become another network."""
    content = convolution_model(Window((9, 9, 8), (3, 3)), 8, 4, order="rows first").content
    model = read_model(content)
    operators = model.subgraphs[0].operators
    if damage == "begin":
        cut = next(op for op in operators[1:] if builtin_name(model, op) == "SLICE")
        tensor = model.subgraphs[0].tensors[cut.inputs[1]]
        begin = contents(model, tensor).view(np.int32).copy()
        begin[2] = 0
        model.buffers[tensor.buffer].data = begin.view(np.uint8)
    elif damage == "kind":
        operators[0].opcodeIndex = next(
            op.opcodeIndex for op in operators if builtin_name(model, op) == "CONCATENATION"
        )
    else:
        entry = next(entry for entry in model.metadata if entry.name == b"tfmpq")
        text = bytes(bytearray(model.buffers[entry.buffer].data))
        changed = {
            "record": (b'"kernel":[3,3]', b'"kernel":[3,0]'),
            "order": (b'"order":"rows first"', b'"order":"at once"'),
            "large": (b'"kernel":[3,3]', b'"kernel":[3,999999999]'),
            "scratch": (b'"kernel":[3,3]', b'"kernel":[3,3],"scratch":"many"'),
        }[damage]
        assert changed[0] in text
        model.buffers[entry.buffer].data = np.frombuffer(text.replace(*changed), np.uint8)
    with pytest.raises(TfmpqError, match="damaged"):
        specialize(write_model(model), "litert-int8")
