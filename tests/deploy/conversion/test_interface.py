"""Types, pixels and softmax at the ends of a file, and what others read of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tfmpq.data.preprocess import PREPROCESSINGS, pixel_step, pixels_of, preprocess, value_range
from tfmpq.deploy.conversion.app_file import FileOptions, as_app_file, read_labels, refuse_other_labels
from tfmpq.deploy.conversion.interface import FILE_TYPES, Interface, add_interface
from tfmpq.deploy.conversion.specialize import specialize
from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.proof.interface import interface_failures, split_interface
from tfmpq.deploy.runtime.interpreter import execution_plan, load, tensor_values
from tfmpq.deploy.tflite.contract import read_contract
from tfmpq.deploy.tflite.flatbuffer import read_model, write_model
from tfmpq.deploy.tflite.read_app_metadata import attached_files, read_app_metadata
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.graph.frozen import FrozenModel, TensorGrid

LABELS = ("cat", "dog", "Äpfel", "none of these")


def image_grid(name: str) -> TensorGrid:
    low, high = value_range(name)
    step = pixel_step(name)
    if step is not None:
        return TensorGrid(float(np.float32(step)), halfway=True)
    span = max(-low, high) / 127 if low < 0 else high / 255
    return TensorGrid(float(np.float32(span)), signed=low < 0)


@pytest.fixture(scope="module", params=PREPROCESSINGS)
def network(request, make_small) -> tuple[FrozenModel, bytes, np.ndarray]:
    """A network with the image's grid of a preprocessing, its file, and pixels."""
    frozen = make_small(4)
    first = replace(frozen.layers[0], grid=image_grid(request.param))
    metadata = {"preprocessing": request.param, "classes": 4, "model": "toy"}
    frozen = replace(frozen, layers=(first, *frozen.layers[1:]), metadata=metadata)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)
    return frozen, build_tflite(frozen, "litert"), pixels


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_pixels_come_back_from_preprocessed_values(name: str) -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    np.testing.assert_array_equal(pixels_of(preprocess(pixels, name), name), pixels)


def test_a_scaled_pixel_is_its_own_code() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    grid = image_grid("tf")
    assert (grid.scale, grid.zero_point) == (float(np.float32(1 / 127.5)), -1)
    codes = grid.quantize(preprocess(pixels, "tf"))
    np.testing.assert_array_equal(codes, pixels.astype(int) - 128)
    away = np.abs(grid.dequantize(codes) - preprocess(pixels, "tf"))
    np.testing.assert_allclose(away, 0.5 * grid.scale, rtol=1e-4)


@pytest.mark.parametrize("softmax", [False, True])
def test_every_type_gives_what_the_network_gives(network, softmax: bool) -> None:
    frozen, core, pixels = network
    values = preprocess(pixels, frozen.metadata["preprocessing"])
    for input_type in FILE_TYPES:
        for output_type in FILE_TYPES:
            options = FileOptions(input_type, output_type, softmax)
            content = as_app_file(core, frozen, "litert", options)
            inside, interface = split_interface(content)
            assert list(interface_failures(content, inside, interface, frozen, values)) == []
            contract = read_contract(read_model(content), content)
            assert (contract.inputs[0].type, contract.outputs[0].type) == (input_type, output_type)
            assert contract.probabilities == softmax
            if input_type == "uint8":
                np.testing.assert_array_equal(contract.codes(values), pixels)
            if input_type == "int8":
                np.testing.assert_array_equal(contract.codes(values), pixels.astype(int) - 128)
            if not softmax:
                assert execution_plan(content).partitions == 1
                # A convolution that takes pixels rounds its bias; nothing else may change an answer.
                kept = interface.pixels is None
                found = load(content).run(values)
                expected = load(core).run(values)
                step = frozen.layers[-1].grid.scale
                assert np.abs(found - expected).max() <= (1e-5 if kept else 3 * step)


def test_what_is_recorded_is_what_is_there(network) -> None:
    frozen, core, _ = network
    content = as_app_file(core, frozen, "litert", FileOptions("uint8", "uint8", True))
    model = read_model(content)
    model.subgraphs[0].operators[-1].builtinOptionsType = 0
    with pytest.raises(TfmpqError, match="other operators at its ends than it records"):
        split_interface(write_model(model))


def test_metadata_and_labels_are_read_back_and_survive_rewriting(network) -> None:
    frozen, core, _ = network
    content = as_app_file(core, frozen, "litert", FileOptions("uint8", "float32", True, LABELS))
    for held in (content, specialize(content, "litert-int8")):
        found = read_app_metadata(read_model(held), held)
        assert found is not None
        assert found.labels == LABELS
        rule = PREPROCESSINGS[frozen.metadata["preprocessing"]]
        wanted = np.broadcast_to(1 / np.array(rule.scale), len(found.std))
        np.testing.assert_allclose(found.std, wanted, rtol=1e-6)
        assert attached_files(held) == {"labels.txt": "".join(f"{label}\n" for label in LABELS)}
    again = as_app_file(core, frozen, "litert", FileOptions("uint8", "float32", True, LABELS))
    assert again == content


def test_a_microcontroller_gets_no_metadata(network) -> None:
    frozen, core, _ = network
    content = as_app_file(core, frozen, "tflm", FileOptions(labels=LABELS))
    assert read_app_metadata(read_model(content), content) is None
    assert attached_files(content) == {}


def test_labels_of_another_number_are_refused() -> None:
    refuse_other_labels((), [3, 4])
    for labels, sizes in ((("a",), [2]), (("a", "b"), [2, 2])):
        with pytest.raises(UsageError, match="Labels name the classes of one output"):
            refuse_other_labels(labels, sizes)


def test_labels_are_lines_of_a_file(tmp_path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("cat\n\ndog \n\n")
    assert read_labels(path) == ("cat", "", "dog")
    for content in (b"", b"\xff\xfe\xff"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="Labels are lines of a text file"):
            read_labels(path)


def test_a_softmax_needs_one_vector_of_logits(network) -> None:
    _, core, _ = network
    several = read_model(core)
    graph = several.subgraphs[0]
    graph.outputs = np.array([*graph.outputs, graph.operators[0].outputs[0]], np.int32)
    with pytest.raises(UsageError, match="A softmax turns the logits of one output"):
        add_interface(write_model(several), Interface(softmax=True))


def test_types_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--input-type is one of uint8, int8, float32. Received: int4"):
        FileOptions("int4")  # type: ignore[arg-type]


def test_codes_reach_the_file_as_they_are(network) -> None:
    frozen, core, pixels = network
    values = preprocess(pixels, frozen.metadata["preprocessing"])
    plain = as_app_file(core, frozen, "litert", FileOptions())
    codes = frozen.layers[0].grid.quantize(values)
    expected = tensor_values(core, None, codes, "default")
    found = tensor_values(plain, None, read_contract(read_model(plain), plain).codes(values), "default")
    np.testing.assert_array_equal(next(iter(found.values())), next(iter(expected.values())))
