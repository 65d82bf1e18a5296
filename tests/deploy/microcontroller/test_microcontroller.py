"""Files for microcontrollers: their form, what they take on their runtime, and C++ source of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tfmpq.deploy.conversion.app_file import FileOptions
from tfmpq.deploy.conversion.microcontroller_form import (
    UNPACKED,
    arena_peak,
    as_written,
    is_packed,
    packed_saving,
)
from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.export import export_tflite
from tfmpq.deploy.microcontroller.c_source import resolver_lines, write_c_source
from tfmpq.deploy.microcontroller.options import MicroOptions
from tfmpq.deploy.microcontroller.report import flash_image, operators_by_kernel
from tfmpq.deploy.microcontroller.runtime import is_installed, planned_bytes
from tfmpq.deploy.proof.reference import expected_value
from tfmpq.deploy.tflite.flatbuffer import read_model
from tfmpq.deploy.tflite.layout import stored_layers
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.graph.frozen import FrozenModel

needs_runtime = pytest.mark.skipif(not is_installed(), reason="tflite-micro has no wheel for this machine")

STAND_IN = """
#pragma once
#include <cstdio>
enum TfLiteStatus { kTfLiteOk, kTfLiteError };
namespace tflite {
template <unsigned int N> struct MicroMutableOpResolver {
  unsigned int count = 0;
  TfLiteStatus Add(const char* name) {
    std::printf("%s\\n", name);
    return ++count <= N ? kTfLiteOk : kTfLiteError;
  }
METHODS
};
}
"""
PROGRAM = """
#include <cstdint>
#include <cstdio>
#include "toy_model.h"
int main() {
  ToyOpResolver resolver;
  if (RegisterToyOps(resolver) != kTfLiteOk) return 1;
  if (reinterpret_cast<std::uintptr_t>(toy_model) % 16 != 0) return 2;
  unsigned long sum = 0;
  for (unsigned int i = 0; i < kToyModelSize; ++i) sum = (sum * 31 + toy_model[i]) % 1000003;
  std::printf("sum %lu arena %u\\n", sum, kToyArenaSize);
}
"""


def dense_network(builder, make_grid, bits: int = 4) -> FrozenModel:
    net = builder(bits)
    net.add("image", "input", (), make_grid(0.0173))
    net.add("vector", "reshape", ("image",), net.grid_of("image"), shape=(64,))
    previous = "vector"
    for name, (inputs, outputs) in {"a": (64, 32), "b": (32, 64), "small": (64, 4), "c": (4, 400)}.items():
        activation = {} if name == "c" else {"activation": "relu"}
        previous = net.weighted(
            name, "dense", previous, (inputs, outputs), make_grid(0.03, 8, name == "c"), **activation
        )
    return replace(net.model((1, 1, 64)), outputs=("c",))


def stem(builder, make_grid) -> FrozenModel:
    """A network whose largest tensors have one size, so that it matters which the runtime places first."""
    net = builder(4)
    net.add("image", "input", (), make_grid(0.0173))
    few = make_grid(0.031, 8, False)
    net.weighted("conv", "conv2d", "image", (3, 3, 3, 8), few, activation="relu", strides=(2, 2))
    net.weighted("depthwise", "depthwise_conv2d", "conv", (3, 3, 8, 1), few, activation="relu")
    net.weighted("pointwise", "conv2d", "depthwise", (1, 1, 8, 16), few, activation="relu")
    net.weighted("strided", "conv2d", "pointwise", (3, 3, 16, 8), few, activation="relu", strides=(2, 2))
    return net.model((24, 24, 3))


def test_dense_layers_become_convolutions_where_four_bits_pay(builder, make_grid) -> None:
    frozen = dense_network(builder, make_grid)
    written = as_written(frozen, "tflm")
    kinds = {layer.name: layer.kind for layer in written.layers}
    assert (kinds["a"], kinds["b"], kinds["small"], kinds["c"]) == ("conv2d", "conv2d", "dense", "conv2d")
    # One pixel is read as it is; a vector is wanted by the small layer and by whoever reads the output.
    assert [name for name, kind in kinds.items() if kind == "reshape"] == ["b/flat", "small/pixel", "c/flat"]
    assert written.returned == ("c/flat",)
    smaller, plain = (len(build_tflite(net, "tflm")) for net in (written, frozen))
    assert plain - smaller > 0.8 * packed_saving(written) - 3 * 250
    assert [layer.kind for layer in as_written(frozen, "litert").layers].count("dense") == 4
    assert as_written(dense_network(builder, make_grid, 8), "tflm").layer("a").kind == "dense"


def test_both_forms_compute_the_same(builder, make_grid) -> None:
    frozen = dense_network(builder, make_grid)
    codes = frozen.layers[0].grid.quantize(np.random.default_rng(0).uniform(-2, 2, (1, 1, 1, 64)))

    def answer(network: FrozenModel) -> np.ndarray:
        values = {network.layers[0].name: codes}
        for layer in network.layers[1:]:
            expected = expected_value(network, layer, [values[name] for name in layer.inputs])
            values[layer.name] = np.round(expected).astype(np.int8)
        return values[network.returned[0]]

    expected = answer(frozen)
    for prefer in ("flash", "ram"):
        np.testing.assert_array_equal(answer(as_written(frozen, "tflm", prefer)), expected)


def test_sparing_ram_packs_only_what_fits_beside_the_activations(builder, make_grid) -> None:
    frozen = dense_network(builder, make_grid)
    flash, ram = (as_written(frozen, "tflm", prefer) for prefer in ("flash", "ram"))
    assert arena_peak(flash) == 2048 + 64 + 32
    assert arena_peak(ram) == arena_peak(ram, unpacking=False) == 416
    assert packed_saving(ram) < packed_saving(flash)
    assert [layer.name for layer in ram.weighted if layer.attributes.get(UNPACKED)] == ["a", "b", "c"]
    assert not any(map(is_packed, ram.layers))
    held = {
        layer.name: layer.container_bits for layer in stored_layers(read_model(build_tflite(ram, "tflm")))
    }
    assert set(held.values()) == {8}


def test_an_average_of_the_whole_map_takes_no_weights(builder, make_grid) -> None:
    net = builder(4)
    net.add("image", "input", (), make_grid(0.0173))
    net.weighted("conv", "conv2d", "image", (3, 3, 3, 8), make_grid(0.031, 8, False), activation="relu")
    window = {"pool_size": (6, 5), "strides": (6, 5), "padding": "valid"}
    net.add("mean", "average_pooling2d", ("conv",), make_grid(0.02, 8, False), **window)
    net.add("flat", "reshape", ("mean",), net.grid_of("mean"), shape=(8,))
    net.weighted("logits", "dense", "flat", (8, 4), make_grid(0.09))
    for target in ("tflm", "litert"):
        content = build_tflite(net.model((6, 5, 3)), target)
        kernels = operators_by_kernel(content)
        assert "MEAN" in kernels
        assert not any(name.startswith("DEPTHWISE") for name in kernels)


@needs_runtime
@pytest.mark.parametrize("prefer", ["flash", "ram"])
def test_the_runtime_computes_every_operator_and_is_measured(
    make_every_layer, images, tmp_path, prefer
) -> None:
    wishes = MicroOptions(prefer)
    report = export_tflite(make_every_layer(4), tmp_path / "m.tflite", "tflm", micro=wishes, images=images)
    measured = report.microcontroller
    assert measured is not None
    assert measured.comparison is not None
    assert measured.comparison.operators_off_by_more == 0
    assert measured.comparison.worst <= 2
    assert measured.arena_bytes is not None
    assert measured.arena_bytes > measured.activation_bytes
    assert measured.flash_bytes < report.bytes
    assert sum(measured.operators.values()) == len(
        read_model(Path(report.path).read_bytes()).subgraphs[0].operators
    )


@needs_runtime
@pytest.mark.parametrize("prefer", ["flash", "ram"])
def test_the_planned_memory_is_what_the_runtime_plans(
    builder, make_grid, make_every_layer, make_small, prefer
) -> None:
    networks = [build(builder, make_grid) for build in (dense_network, stem)]
    for frozen in (*networks, make_every_layer(4), make_small(4)):
        written = as_written(frozen, "tflm", prefer)
        planned = arena_peak(written)
        # MEAN has a few numbers of its own there.
        assert planned <= planned_bytes(build_tflite(written, "tflm"), planned) <= planned + 64


@needs_runtime
def test_an_arena_that_is_too_small_is_refused_with_the_smallest(builder, make_grid, tmp_path) -> None:
    frozen, path = dense_network(builder, make_grid), tmp_path / "m.tflite"
    with pytest.raises(UsageError, match="needs an arena of") as error:
        export_tflite(frozen, path, "tflm", micro=MicroOptions(arena=100))
    needed, least = re.findall(r"of (\d+) bytes \(--prefer ram needs (\d+)\)", str(error.value))[0]
    assert not path.exists()
    export_tflite(frozen, path, "tflm", micro=MicroOptions(arena=int(needed)))
    export_tflite(frozen, path, "tflm", micro=MicroOptions("ram", int(least)))
    with pytest.raises(UsageError, match=f"Give at least {least} bytes"):
        export_tflite(frozen, path, "tflm", micro=MicroOptions("ram", int(least) - 1))


def test_the_c_source_compiles_and_holds_the_model(make_small, tmp_path) -> None:
    compiler = shutil.which("g++") or shutil.which("clang++")
    content = build_tflite(make_small(4), "tflm")
    header, source = write_c_source(content, tmp_path, "toy", 4000)
    assert resolver_lines(content) == ("AddConv2D", "AddDepthwiseConv2D", "AddFullyConnected", "AddMean")
    # tflite-micro's wheel has no C++ headers: a stand-in has the methods that the header calls.
    methods = "".join(
        f'  TfLiteStatus {name}() {{ return Add("{name}"); }}\n' for name in resolver_lines(content)
    )
    place = tmp_path / "tensorflow/lite/micro/micro_mutable_op_resolver.h"
    place.parent.mkdir(parents=True)
    place.write_text(STAND_IN.replace("METHODS", methods))
    (tmp_path / "main.cc").write_text(PROGRAM)
    if compiler is None:
        pytest.skip("no C++ compiler")
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-I", str(tmp_path)]
    program = tmp_path / "program"
    subprocess.run([compiler, *flags, str(tmp_path / "main.cc"), str(source), "-o", str(program)], check=True)
    said = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    total = 0
    for byte in flash_image(content):
        total = (total * 31 + byte) % 1_000_003
    assert said == [*resolver_lines(content), f"sum {total} arena 4000"]
    assert header.name == "toy_model.h"


def test_names_that_are_no_identifiers_are_made_such(make_small, tmp_path) -> None:
    header, _ = write_c_source(build_tflite(make_small(8), "tflm"), tmp_path / "new", "3 Äpfel-net", None)
    assert header.name == "model_3__pfel_net_model.h"
    assert "ArenaSize" not in header.read_text()


def test_an_operator_that_the_runtime_lacks_is_named(builder, make_grid) -> None:
    net = builder(8)
    net.add("image", "input", (), make_grid(0.0173))
    net.weighted("conv", "conv2d", "image", (3, 3, 3, 4), make_grid(0.03))
    net.add("gelu", "gelu", ("conv",), make_grid(0.03))
    with pytest.raises(TfmpqError, match="Received: GELU"):
        resolver_lines(build_tflite(net.model((6, 6, 3)), "tflm"))


def test_wishes_for_microcontrollers_are_for_their_target(tmp_path) -> None:
    for wishes in (MicroOptions("ram"), MicroOptions(arena=10), MicroOptions(c_source=tmp_path)):
        wishes.require("tflm")
        with pytest.raises(UsageError, match=r"is for microcontrollers. Received: --target litert"):
            wishes.require("litert")
    with pytest.raises(UsageError, match=r"--prefer is one of flash, ram"):
        MicroOptions("speed").require("tflm")  # type: ignore[arg-type]


@needs_runtime
def test_a_file_with_pixels_and_a_softmax_runs_on_the_runtime(make_small, tmp_path) -> None:
    options = FileOptions("uint8", "int8", True)
    report = export_tflite(make_small(4), tmp_path / "m.tflite", "tflm", file=options)
    assert report.microcontroller is not None
    assert report.microcontroller.operators["SOFTMAX"] == 1
