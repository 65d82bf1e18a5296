from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.tflite.flatbuffer import builtin_name, pack, read_file, read_model, unpack, write_model
from tfmpq.errors import TfmpqError


@given(st.sampled_from((2, 4, 8)), st.data())
def test_unpack_inverts_pack(bits: int, data: st.DataObject) -> None:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    integers = np.array(data.draw(st.lists(st.integers(low, high), max_size=40)), np.int8)
    packed = pack(integers, bits)
    assert packed.dtype == np.uint8
    assert packed.size == -(-integers.size * bits // 8)
    np.testing.assert_array_equal(unpack(packed, bits, integers.size), integers)


def test_first_element_is_in_the_low_bits() -> None:
    assert pack(np.array([1, -1, -7], np.int8), 4).tolist() == [0xF1, 0x09]
    assert pack(np.array([1, 0, -1, 1, -1], np.int8), 2).tolist() == [0b01_11_00_01, 0b11]
    assert pack(np.array([[1], [-1]], np.int8), 8).tolist() == [1, 255]


@pytest.fixture(scope="module")
def content(make_small) -> bytes:
    return build_tflite(make_small(), "litert")


def test_reading_and_writing_changes_nothing(content: bytes) -> None:
    again = write_model(read_model(content))
    assert again == content
    names = [builtin_name(read_model(again), op) for op in read_model(again).subgraphs[0].operators]
    assert names == ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MEAN", "FULLY_CONNECTED"]


def test_tensor_contents_are_aligned(content: bytes) -> None:
    for buffer in read_model(content).buffers:
        if buffer.data is not None and buffer.data.size > 12:
            assert content.index(buffer.data.tobytes()) % 16 == 0


def test_truncated_files_are_refused(content: bytes) -> None:
    for length in range(0, len(content) - 1, 97):
        with pytest.raises(TfmpqError, match=r"Received: cut\.tflite"):
            read_model(content[:length], "cut.tflite")


@given(st.data())
def test_damaged_files_raise_no_other_error(content: bytes, data: st.DataObject) -> None:
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(TfmpqError):  # some damage cannot be seen here: the numbers are compared later
        read_model(bytes(damaged))


def test_missing_file_is_one_clear_error(tmp_path) -> None:
    with pytest.raises(TfmpqError, match=r"Received: .*nothing\.tflite \(No such file"):
        read_file(tmp_path / "nothing.tflite")
