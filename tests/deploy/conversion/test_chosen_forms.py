"""Networks with unfolded convolutions, from the export to what is said about their layers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tfmpq.api.specialize import specialize as specialize_file
from tfmpq.deploy.conversion.chosen_forms import bytes_by_width, choose_forms
from tfmpq.deploy.conversion.specialize import specialize
from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.export import export_tflite
from tfmpq.deploy.latency.layer_kernels import layer_kernels
from tfmpq.deploy.latency.operator_times import layers_of
from tfmpq.deploy.proof.verify import verify
from tfmpq.deploy.runtime.inspect_file import inspect_file
from tfmpq.deploy.runtime.interpreter import load
from tfmpq.deploy.tflite.flatbuffer import add_buffer, builtin_name, read_model, write_model
from tfmpq.deploy.tflite.layout import container_of, stored_layers
from tfmpq.deploy.tflite.metadata import read_facts, read_forms
from tfmpq.errors import UsageError
from tfmpq.graph.forms import FormOptions, FormRequest
from tfmpq.graph.frozen import FrozenModel

OPTIONS = FormOptions("size", "x86-avx2")
UNFOLDED = ["down", "wide", "dilated", "projection"]


@pytest.fixture(scope="module")
def network(make_unfoldable) -> FrozenModel:
    return make_unfoldable(4)


@pytest.fixture(scope="module")
def path(network, images, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("forms") / "packed.tflite"
    report = export_tflite(network, path, options=OPTIONS, images=images)
    assert report.verification.passed
    assert report.verification.delegate_partitions == 1
    rows = {layer.name: layer for layer in report.layers}
    assert [name for name, row in rows.items() if row.scratch] == UNFOLDED
    assert all("of the int8 time on x86-avx2" in rows[name].reason for name in UNFOLDED)
    assert json.loads(json.dumps(report.to_json()))["forms"]["prefer"] == "size"
    return path


def test_the_runtime_gives_the_codes_of_the_int8_form(network, path, images) -> None:
    plain = build_tflite(network, "litert")
    np.testing.assert_array_equal(load(path.read_bytes()).run(images), load(plain).run(images))
    assert len(build_tflite(network, "litert", OPTIONS)) < 0.8 * len(plain)


def test_every_form_becomes_every_other_without_loss(network) -> None:
    forms = {
        "storage": build_tflite(network, "storage"),
        "litert": build_tflite(network, "litert"),
        "litert-int8": build_tflite(network, "litert-int8"),
        "size": build_tflite(network, "litert", OPTIONS),
        "speed": build_tflite(network, "litert", FormOptions("speed", "x86-vnni")),
    }
    asked = {"size": OPTIONS, "speed": FormOptions("speed", "x86-vnni")}
    wanted = stored_layers(read_model(forms["litert"]))
    for start, end in itertools.product(forms, [name for name in forms if name not in ("storage", "litert")]):
        target = end if end in forms and end not in asked else "litert"
        found = specialize(forms[start], target, options=asked.get(end))
        assert verify(network, found, target).passed
        reached, exported = (stored_layers(read_model(content)) for content in (found, forms[end]))
        forms_of = [[(x.builtin, x.container_bits, x.order) for x in held] for held in (reached, exported)]
        assert forms_of[0] == forms_of[1]
        for held, layer in zip(reached, wanted, strict=True):
            np.testing.assert_array_equal(held.integers.reshape(-1), layer.integers.reshape(-1))
        if start == end:
            assert found == forms[end]


def test_other_metadata_of_a_file_stays_when_its_forms_change(path) -> None:
    model = read_model(path.read_bytes())
    other = schema.MetadataT()
    other.name, other.buffer = b"somebody's", add_buffer(model, np.arange(5, dtype=np.uint8))
    model.metadata.insert(0, other)
    changed = read_model(specialize(write_model(model), options=FormOptions("speed", "x86-vnni")))
    assert [entry.name for entry in changed.metadata] == [entry.name for entry in model.metadata]
    assert bytes(changed.buffers[changed.metadata[0].buffer].data) == bytes(range(5))
    assert read_facts(changed) == read_facts(model)
    assert read_forms(changed).options == FormOptions("speed", "x86-vnni")


def test_inspection_names_layers_and_reasons(path) -> None:
    facts = inspect_file(path)
    rows = {layer.name: layer for layer in facts.layers}
    assert list(rows) == ["stem", *UNFOLDED, "logits"]
    assert {rows[name].operator for name in UNFOLDED} == {"conv2d"}
    assert all(rows[name].scratch > 0 and "product unfolded" in rows[name].form for name in UNFOLDED)
    assert (rows["stem"].form, rows["stem"].scratch) == (None, 0)  # 27 weights a channel: no choice
    assert (facts.form, facts.delegate_partitions, facts.problems) == ("litert", 1, ())


def test_slices_belong_to_their_layer(path) -> None:
    content = path.read_bytes()
    model = read_model(content)
    names = [builtin_name(model, operator) for operator in model.subgraphs[0].operators]
    owners = layers_of(model)
    layers = ["stem", "pad", *UNFOLDED, "global", "logits"]
    assert list(dict.fromkeys(owners)) == layers
    assert {name for name, owner in zip(names, owners, strict=True) if owner == "dilated"} == {
        "PAD", "SLICE", "CONCATENATION", "FULLY_CONNECTED",
    }  # fmt: skip
    found = layer_kernels(content, dict.fromkeys(layers, True))
    assert set(found.names) == set(layers)
    if found.problem is None:
        assert all("Fully Connected" in found.names[name] for name in UNFOLDED)


def test_the_proof_finds_what_is_wrong_in_an_unfolding(network, path) -> None:
    """A slice of another place, and a product of other integers."""
    for damage in ("begin", "weights"):
        model = read_model(path.read_bytes())
        graph = model.subgraphs[0]
        owners = layers_of(model)
        number = next(
            i
            for i, operator in enumerate(graph.operators)
            if owners[i] == "dilated"
            and builtin_name(model, operator) == ("SLICE" if damage == "begin" else "FULLY_CONNECTED")
        )
        buffer = model.buffers[graph.tensors[graph.operators[number].inputs[1]].buffer]
        buffer.data = buffer.data ^ np.uint8(1)
        proof = verify(network, write_model(model), "litert")
        assert not proof.passed
        # Equal constants are there once: what is wrong in one layer may be wrong in others.
        assert any(name in proof.failures[0] for name in UNFOLDED)


def test_a_file_keeps_its_preference_until_another_is_asked_for(path, tmp_path) -> None:
    out = tmp_path / "same.tflite"
    assert specialize_file(path, out).rewritten == 0
    assert out.read_bytes() == path.read_bytes()
    changed = specialize_file(path, out, forms=FormRequest("speed", "x86-vnni"))
    assert changed.rewritten == len(UNFOLDED)
    assert {layer.builtin for layer in stored_layers(read_model(out.read_bytes()))} == {
        "CONV_2D", "FULLY_CONNECTED",
    }  # fmt: skip
    assert specialize_file(out, tmp_path / "older.tflite", "litert-int8").rewritten > 0
    with pytest.raises(UsageError, match="Leave out --prefer"):
        specialize_file(path, out, "tflm", FormRequest("size"))


@pytest.mark.parametrize("options", [OPTIONS, FormOptions("balanced", "x86-vnni"), None])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_bytes_of_a_width_are_those_of_a_network_of_that_width(
    make_unfoldable, network, options, bits
) -> None:
    held, there = bytes_by_width(network, "litert", options), make_unfoldable(bits)
    chosen = choose_forms(there, "litert", options) if options else {}
    for layer in there.weighted:
        form = chosen.get(layer.name)
        plain = container_of(there, layer, "litert").stored_bytes(
            layer.weights.integers.size, layer.weights.scales.size
        )
        assert held[layer.name][bits] == (form.chosen.bytes if form else plain)


def test_the_bytes_of_the_widths_add_up_to_the_difference_of_files(make_unfoldable, network) -> None:
    """But for alignment, names and the record of the forms."""
    held = bytes_by_width(network, "litert", OPTIONS)
    sizes = {bits: len(build_tflite(make_unfoldable(bits), "litert", OPTIONS)) for bits in (4, 8)}
    told = sum(widths[8] - widths[4] for widths in held.values())
    assert abs(sizes[8] - sizes[4] - told) < 0.05 * sizes[8]
