"""Damaged and hostile files: one clear error or a result, never a crash, a hang or endless memory."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tfmpq.deploy.conversion.specialize import specialize
from tfmpq.deploy.proof.verify import verify
from tfmpq.deploy.runtime.convolution_models import convolution_model
from tfmpq.deploy.runtime.inspect_file import inspect_content
from tfmpq.deploy.runtime.probe_models import Case, all_cases, make_probe
from tfmpq.deploy.runtime.sandbox import Sandbox
from tfmpq.deploy.tflite.flatbuffer import IDENTIFIER, read_model, reading, write_model
from tfmpq.deploy.tflite.layout import stored_layers
from tfmpq.errors import TfmpqError
from tfmpq.graph.containers import SPECIALIZED
from tfmpq.graph.frozen import FrozenModel
from tfmpq.graph.unfolding import ORDERS, Window

QUICK, THOROUGH = 300, 10_000


@pytest.fixture(scope="module")
def originals(make_small) -> list[bytes]:
    """Small whole files: ours in three forms, and single operators."""
    from tfmpq.deploy.conversion.surgery import build_tflite

    ours = [build_tflite(make_small(bits), target) for bits in (2, 8) for target in ("litert", "storage")]
    dense = make_probe(Case("FULLY_CONNECTED", 4, "int8", fan_in=16)).content
    window = Window((5, 5, 4), (3, 3), padding="same")
    return [*ours, dense, *(convolution_model(window, 4, 4, order=order).content for order in ORDERS)]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("fuzzed.tflite", seconds=30, memory=2 << 30) as sandbox:
        yield sandbox


def mutated(content: bytes, generator: random.Random) -> bytes:
    """One of: cut off, bits flipped, words overwritten, a stretch moved."""
    data = bytearray(content)
    kind = generator.randrange(5)
    if kind == 0:
        return bytes(data[: generator.randrange(len(data))])
    for _ in range(generator.randint(1, 12)):
        position = generator.randrange(len(data))
        if kind == 1:
            data[position] ^= 1 << generator.randrange(8)
        elif kind == 2:
            word = generator.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, generator.getrandbits(32)))
            position -= position % 4
            data[position : position + 4] = word.to_bytes(4, "little")
        elif kind == 3:
            length = generator.randrange(1, 64)
            start = generator.randrange(len(data))
            data[position : position + length] = data[start : start + length]
        else:
            data[position] = generator.randrange(256)
    return bytes(data)


def fuzz(
    originals: list[bytes], frozen: FrozenModel, sandbox: Sandbox, count: int, seed: int
) -> Counter[str]:
    """Have every reader of files work on mutants; counts of results and refusals."""
    generator = random.Random(seed)
    outcomes: Counter[str] = Counter()
    crashes = 0
    for number in range(count):
        content = mutated(generator.choice(originals), generator)
        for work in ("inspect", "specialize", "verify", "run"):
            begin = time.monotonic()
            try:
                if work == "inspect":
                    facts = inspect_content(content, "fuzzed.tflite", sandbox)
                    crashes += any("crashed with" in problem for problem in facts.problems)
                elif work == "specialize":
                    specialize(content, SPECIALIZED[number % len(SPECIALIZED)], "fuzzed.tflite")
                elif work == "verify":
                    with reading("fuzzed.tflite"):
                        verify(frozen, content, "litert", None, sandbox)
                elif number % 4 == 0:
                    sandbox.call(
                        "tfmpq.deploy.runtime.interpreter:open_network",
                        content,
                        "fuzzed.tflite",
                        1,
                        "default",
                    )
                    sandbox.call(
                        "tfmpq.deploy.runtime.interpreter:run_network", np.zeros((1, 8, 8, 3), np.float32)
                    )
                outcomes[f"{work}: done"] += 1
            except TfmpqError as error:
                crashes += "crashed with" in str(error)
                outcomes[f"{work}: refused" if _clear(str(error)) else f"unclear: {error}"] += 1
            assert time.monotonic() - begin < 60
    print(f"{count} files, {dict(outcomes)}, {crashes} crashes of the child process")
    return outcomes


def _clear(message: str) -> bool:
    return "Received: " in message and "\n" not in message


def test_a_few_hundred_damaged_files(originals, make_small, sandbox) -> None:
    outcomes = fuzz(originals, make_small(8), sandbox, QUICK, seed=1)
    assert sum(outcomes.values()) == 4 * QUICK
    assert not [outcome for outcome in outcomes if outcome.startswith("unclear")]
    assert outcomes["inspect: done"] > 10
    assert outcomes["inspect: refused"] > 10


@pytest.mark.slow
def test_ten_thousand_damaged_files(originals, make_small, sandbox) -> None:
    outcomes = fuzz(originals, make_small(8), sandbox, THOROUGH, seed=2)
    assert sum(outcomes.values()) == 4 * THOROUGH
    assert not [outcome for outcome in outcomes if outcome.startswith("unclear")]


def shared_tables(count: int) -> bytes:
    """A file whose subgraph vector names one graph many times, and that graph one tensor many times."""
    builder = flatbuffers.Builder(1 << 20)
    name = builder.CreateString("x" * 4096)
    schema.TensorStart(builder)
    schema.TensorAddName(builder, name)
    tensor = schema.TensorEnd(builder)
    schema.SubGraphStartTensorsVector(builder, count)
    for _ in range(count):
        builder.PrependUOffsetTRelative(tensor)
    tensors = builder.EndVector()
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tensors)
    graph = schema.SubGraphEnd(builder)
    schema.ModelStartSubgraphsVector(builder, count)
    for _ in range(count):
        builder.PrependUOffsetTRelative(graph)
    graphs = builder.EndVector()
    schema.ModelStart(builder)
    schema.ModelAddSubgraphs(builder, graphs)
    builder.Finish(schema.ModelEnd(builder), IDENTIFIER)
    return bytes(builder.Output())


def test_a_small_file_that_unpacks_to_terabytes_is_refused_at_once() -> None:
    content = shared_tables(20_000)
    assert len(content) < 200_000
    begin = time.monotonic()
    with pytest.raises(TfmpqError, match="claim far more room than it has"):
        read_model(content, "bomb.tflite")
    assert time.monotonic() - begin < 5


def test_constants_of_the_wrong_size_are_refused(make_small) -> None:
    content = make_probe(all_cases()[0]).content
    model = read_model(content)
    weights = model.subgraphs[0].tensors[1]
    weights.shape = np.array([1 << 20, 1 << 10, 1 << 20, 1], np.int32)
    with pytest.raises(TfmpqError, match="a constant of shape"):
        read_model(write_model(model))
    weights.shape = np.array([-32, -3, 3, 32], np.int32)
    with pytest.raises(TfmpqError, match="a constant of shape"):
        read_model(write_model(model))


def test_many_tensors_of_one_buffer_are_refused() -> None:
    model = read_model(make_probe(all_cases()[0]).content)
    graph = model.subgraphs[0]
    graph.tensors = [*graph.tensors, *([graph.tensors[1]] * 64)]
    graph.outputs = np.arange(len(graph.tensors), dtype=np.int32)  # keeps them from being dropped
    with pytest.raises(TfmpqError, match="share their contents"):
        read_model(write_model(model))


def test_whole_files_pass(originals, tmp_path: Path) -> None:
    for content in originals:
        assert stored_layers(read_model(content))
    for case in all_cases():
        read_model(make_probe(case).content)
