"""ai-edge-quantizer on the same float network with the same ranges writes the same numbers."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfmpq.deploy.conversion.specialize import specialize
from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.runtime.interpreter import open_interpreter
from tfmpq.deploy.tflite.flatbuffer import builtin_name, read_model
from tfmpq.deploy.tflite.layout import StoredLayer, stored_layers, tensor_name
from tfmpq.graph.frozen import FrozenModel
from tfmpq.graph.fusion import analyse
from tfmpq.quantization.freeze import freeze
from tfmpq.quantization.insertion import quantize_model
from tfmpq.quantizers.choices import quantize_wrappers

aeq = pytest.importorskip("ai_edge_quantizer", reason="ai-edge-quantizer is not installed")

SHAPE = (12, 12, 3)
WIDTHS = {
    "all 8 bits": {},
    "4 bits where it has them": {"stem": 4, "wide": 4, "narrow": 4, "logits": 4},
    "mixed": {"wide": 4, "logits": 4},
}
"""Weight bits of layers; 8 for others. It has INT4 in CONV_2D and FULLY_CONNECTED."""


@dataclass(frozen=True)
class Pair:
    """One network twice: ours as integers, and the file of the other tool."""

    ours: FrozenModel
    theirs: bytes


def network() -> keras.Model:
    keras.utils.set_random_seed(4)
    image = keras.Input(SHAPE, name="image")
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem")(image)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = skip = layers.ReLU(name="stem_relu")(x)
    x = layers.Conv2D(12, 1, activation="relu", name="wide")(x)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.BatchNormalization(name="depthwise_bn")(x)
    x = layers.ReLU(name="depthwise_relu")(x)
    x = layers.Conv2D(8, 1, name="narrow")(x)
    x = layers.Add(name="sum")([x, skip])
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    model = keras.Model(image, layers.Dense(5, name="logits")(x))
    rng = np.random.default_rng(9)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            size = layer.gamma.shape
            # A negative factor flips the signs of a channel's integers.
            gamma = rng.uniform(0.5, 1.5, size) * rng.choice([-1, 1], size)
            layer.set_weights(
                [gamma, rng.normal(0, 0.3, size), rng.normal(0, 1, size), rng.uniform(1, 2, size)]
            )
        elif layer.weights and layer.name != "stem":
            layer.set_weights([rng.normal(0, 0.4, w.shape) for w in layer.get_weights()])
    return model


def ours(model: keras.Model, bits: dict[str, int], images: np.ndarray) -> FrozenModel:
    """Quantized with steps that map the largest weight of each channel to the largest level."""
    graph = analyse(model)
    quantized = quantize_model(
        model,
        graph,
        {node.name: (bits.get(node.name, 8),) for node in graph.weighted},
        dict.fromkeys(graph.tensors, (8,)),
        images,
        (-4, 4),
    )
    for wrapper in quantize_wrappers(quantized):
        if wrapper.weight_quantizer is not None:
            kernel, step = np.asarray(wrapper.layer.kernel), wrapper.weight_variables["log_step"]
            axes = tuple(axis for axis, size in enumerate(step.shape[1:]) if size == 1)
            peak = np.abs(kernel).max(axes, keepdims=True) / wrapper.weight_quantizer.levels[0].high
            step.assign(np.log(peak)[None])
    return freeze(quantized, analyse(quantized))


def theirs(model: keras.Model, bits: dict[str, int], frozen: FrozenModel) -> bytes:
    """The float file, quantized by ai-edge-quantizer to the ranges of our grids."""
    from ai_edge_quantizer import qtyping, quantizer, recipe

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    content = bytes(converter.convert())
    graph = read_model(content).subgraphs[0]
    names = [tensor_name(graph.tensors[int(graph.inputs[0])])]
    names += [tensor_name(graph.tensors[int(operator.outputs[0])]) for operator in graph.operators]
    assert len(names) == len(frozen.layers)  # one operator a layer, in the same order
    ranges = {}
    for name, layer in zip(names, frozen.layers, strict=True):
        low, high = layer.grid.dequantize(np.array([-128, 127]))
        ranges[name] = {"min": np.float32(low), "max": np.float32(high)}
    work = quantizer.Quantizer(bytearray(content), recipe.static_wi8_ai8())
    for name, layer in zip(names, frozen.layers, strict=True):
        if bits.get(layer.name, 8) == 4:
            operation = qtyping.TFLOperationName
            kind = operation.FULLY_CONNECTED if layer.kind == "dense" else operation.CONV_2D
            work.add_static_config(f"^{re.escape(name)}", kind, activation_num_bits=8, weight_num_bits=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on the memory that an interpreter of all tensors takes
        return bytes(work.quantize(ranges).quantized_model)


@pytest.fixture(scope="module", params=WIDTHS.values(), ids=WIDTHS)
def pair(request: pytest.FixtureRequest) -> Pair:
    model = network()
    images = np.random.default_rng(1).normal(0, 1, (16, *SHAPE)).astype(np.float32)
    frozen = ours(model, request.param, images)
    return Pair(frozen, theirs(model, request.param, frozen))


def by_output(content: bytes) -> list[StoredLayer]:
    return stored_layers(read_model(content))


def test_same_integers_scales_and_biases(pair: Pair) -> None:
    mine, other = by_output(build_tflite(pair.ours, "tflite-runtime")), by_output(pair.theirs)
    assert [layer.builtin for layer in mine] == [layer.builtin for layer in other]
    differing = total = 0
    for one, two in zip(mine, other, strict=True):
        np.testing.assert_allclose(two.scales, one.scales, rtol=1e-5)
        distance = np.abs(two.integers.astype(int) - one.integers.astype(int))
        assert distance.max() <= 1
        differing, total = differing + np.count_nonzero(distance), total + distance.size
        assert np.abs(two.bias.astype(int) - one.bias.astype(int)).max() <= 1
    # They divide folded weights by folded scales, in float32; a weight between two levels may go either way.
    assert differing <= 1e-3 * total


def test_same_grids_of_activations(pair: Pair) -> None:
    graph = read_model(pair.theirs).subgraphs[0]
    outputs = [int(graph.inputs[0]), *(int(operator.outputs[0]) for operator in graph.operators)]
    for index, layer in zip(outputs, pair.ours.layers, strict=True):
        grid = graph.tensors[index].quantization
        assert grid.scale[0] == pytest.approx(layer.grid.scale, rel=1e-6)
        assert int(grid.zeroPoint[0]) == layer.grid.zero_point


def logits(content: bytes, codes: np.ndarray) -> np.ndarray:
    interpreter = open_interpreter(content)
    entry, leaving = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    found = []
    for image in codes:
        interpreter.set_tensor(entry["index"], image[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(leaving["index"]).ravel().astype(int))
    return np.stack(found)


def test_same_answers(pair: Pair) -> None:
    images = np.random.default_rng(2).normal(0, 1, (40, *SHAPE)).astype(np.float32)
    codes = pair.ours.layers[0].grid.quantize(images)
    # Their file in the form that XNNPACK takes, as ours: LiteRT's own INT4 kernels round twice.
    distance = np.abs(
        logits(specialize(pair.theirs, "litert"), codes) - logits(build_tflite(pair.ours, "litert"), codes)
    )
    assert distance.max() <= 1
    assert np.count_nonzero(distance) <= 0.02 * distance.size


def test_the_file_of_the_other_tool_has_what_was_asked_for(pair: Pair) -> None:
    model = read_model(pair.theirs)
    bits = [layer.container_bits for layer in by_output(pair.theirs)]
    assert bits == [layer.weights.bits for layer in pair.ours.weighted if layer.weights]
    assert "QUANTIZE" not in {builtin_name(model, operator) for operator in model.subgraphs[0].operators}
