"""Policy files: exact round trips, one-line refusals, nothing half-written."""

import os
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfmpq.errors import UsageError
from tfmpq.policy.policy import (
    FORMAT,
    BudgetRecord,
    LayerChoice,
    Policy,
    SearchSpace,
    load_policy,
    save_policy,
    uniform_policy,
)
from tfmpq.policy.policy_text import MAX_FILE_BYTES

HEAD = "format: tfmpq-policy/1\nmodel: resnet8\n"
MINIMAL = HEAD + "layers:\n  conv1: {weight_bits: 4}\n  logits: {weight_bits: 8}\n"

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
bits = st.integers(2, 8)
numbers = st.floats(allow_nan=False, allow_infinity=False)
policies = st.builds(
    Policy,
    format=st.just(FORMAT),
    model=names,
    layers=st.dictionaries(names, st.builds(LayerChoice, weight_bits=bits), min_size=1, max_size=5),
    activations=st.dictionaries(names, bits, max_size=4) | st.just(16),
    budget=st.lists(
        st.builds(
            BudgetRecord,
            key=st.sampled_from(["size", "bops", "weight-bits"]),
            asked=names,
            limit=numbers,
            reached=numbers,
        ),
        max_size=2,
    ),
    search_space=st.none()
    | st.builds(
        SearchSpace, weight_bits=st.lists(bits, max_size=3), activation_bits=st.lists(bits, max_size=2)
    ),
    method=st.none() | names,
    proxy=st.none() | names,
    seed=st.none() | st.integers(),
    versions=st.dictionaries(names, names, max_size=2),
    created=st.none() | st.dates(),
    results=st.dictionaries(names, st.integers() | numbers, max_size=3),
)


@settings(max_examples=40, deadline=None)
@given(policy=policies)
def test_the_round_trip_through_a_file_is_exact(tmp_path_factory, policy):
    path = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    save_policy(policy, path)
    loaded = load_policy(path)
    assert loaded == policy
    assert list(loaded.layers) == list(policy.layers)
    assert [type(v) for v in loaded.results.values()] == [type(v) for v in policy.results.values()]
    text = path.read_text(encoding="utf-8")
    save_policy(loaded, path)
    assert path.read_text(encoding="utf-8") == text


def test_a_policy_loads_into_a_network_with_another_head_and_resolution(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(MINIMAL)
    policy = load_policy(path)
    assert policy.weight_bits == {"conv1": 4, "logits": 8}
    policy.check_against(["conv1", "logits"], ["image", "relu1"])
    assert policy.activation_bits(["image", "relu1"]) == {"image": 8, "relu1": 8}
    assert not {"classes", "input_shape"} & set(Policy.model_fields)


def test_16_bits_are_for_all_activations_but_the_image(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(MINIMAL + "activations: 16")
    policy = load_policy(path)
    assert policy.wide
    policy.check_against(["conv1", "logits"], ["image", "relu1", "logits"])
    assert policy.activation_bits(["image", "relu1", "logits"]) == {"image": 8, "relu1": 16, "logits": 16}
    assert not uniform_policy("m", ["conv1"], 4).wide
    assert uniform_policy("resnet8", ["conv1"], 4, 16).activations == 16


def test_a_saved_policy_can_be_read_by_a_person(tmp_path):
    path = tmp_path / "policy.yaml"
    layers = {"stem": LayerChoice(weight_bits=8), "conv": LayerChoice(weight_bits=2)}
    created = date(2025, 3, 1)
    policy = Policy(format=FORMAT, model="m", layers=layers, seed=0, created=created, results={"top1": 0.5})
    save_policy(policy, path)
    lines = path.read_text().splitlines()
    content = [line for line in lines if not line.startswith("#")]
    assert lines[0].startswith("# Bit-widths")
    assert content == [
        "format: tfmpq-policy/1", "model: m",
        "layers:", "  stem: {weight_bits: 8}", "  conv: {weight_bits: 2}",
        "seed: 0", "created: 2025-03-01",
        "results:", "  top1: 0.5",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["the file must be a mapping", "None"]),
        ("- 1", ["the file must be a mapping"]),
        (HEAD, ["layers is required", "only format, model"]),
        (HEAD + "layers: {}", ["layers must not be empty"]),
        (HEAD + "layers: {conv1: 4}", ["layers.conv1 must be a mapping", "NAME: {weight_bits: 4}"]),
        (MINIMAL.replace("4", "9"), ["layers.conv1.weight_bits", "from 2 to 8. Received: 9"]),
        (MINIMAL.replace("4", "1"), ["Received: 1"]),
        (MINIMAL.replace("4", "4.0"), ["Received: 4.0"]),
        (MINIMAL.replace("4", "yes"), ["Received: True"]),
        (MINIMAL.replace("4", "'4'"), ["Received: '4'"]),
        (
            MINIMAL.replace("4}", "4, bits: 3}"),
            ["layers.conv1.bits is no field", "The fields are weight_bits."],
        ),
        (MINIMAL + "colour: red", ["colour is no field", "The fields are format, model"]),
        (MINIMAL.replace("policy/1", "policy/2"), ["format should be 'tfmpq-policy/1'"]),
        (MINIMAL + "activations: {relu1: 1}", ["activations.relu1", "Received: 1"]),
        (
            MINIMAL + "activations: {image: 8, relu1: 16}",
            ["activations.relu1", "Received: 16", "activations: 16 for 16 bits in all", "codes have one"],
        ),
        (MINIMAL + "activations: 8", ["activations must be 16, dynamic, or a", "Received: 8", "{NAME: 4}"]),
        (MINIMAL + "activations: 16.0", ["activations must be 16, dynamic, or a", "Received: 16.0"]),
        (
            MINIMAL + f"activations: {10**30}",
            ["activations must be 16, dynamic, or a", f"Received: {10**30}"],
        ),
        (MINIMAL + "activations: [16]", ["activations must be a mapping", "Received: [16]"]),
        (MINIMAL + "results: {top1: .nan}", ["results.top1 must be a finite number"]),
        (MINIMAL + "budget: [{key: time, asked: a, limit: 1, reached: 1}]", ["budget.0.key", "'time'"]),
        (MINIMAL + "created: soon", ["created should be a valid date"]),
        (MINIMAL + "created: 2024-13-01", ["month must be in 1..12"]),
        (MINIMAL + "  conv1: {weight_bits: 2}", ["line 6: 'conv1' twice"]),
        (MINIMAL[:-10], ["well-formed YAML", "line 5"]),
        (HEAD + "layers: &a {conv1: {weight_bits: 4}}\nactivations: *a", ["an alias"]),
        ("[" * 5000, ["nested too deeply"]),
        ("!!python/object/apply:os.mkdir [planted]", ["could not determine a constructor"]),
        ("\0", ["special characters are not allowed"]),
        (b"\xff\xfe\xfa", ["well-formed YAML"]),
        (HEAD + "? [a, b]\n: 3", ["well-formed YAML"]),
        ("#" * (MAX_FILE_BYTES + 1), ["at most", "larger"]),
    ],
)
def test_a_broken_file_is_refused_in_one_line(tmp_path, monkeypatch, text, parts):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "policy.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as caught:
        load_policy(path)
    message = str(caught.value)
    assert all(part in message for part in (str(path), "Received: ", *parts)), message
    assert "\n" not in message
    assert os.listdir(tmp_path) == ["policy.yaml"]


def test_a_path_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.yaml \(No such file"):
        load_policy(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="directory"):
        load_policy(tmp_path)


def test_unknown_and_missing_names_are_listed_with_the_nearest(tmp_path):
    layers = {name: LayerChoice(weight_bits=4) for name in ("conv_1", "conv2", "xyz")}
    policy = Policy(format=FORMAT, model="resnet8", layers=layers, activations={"relu": 4, "image": 8})
    with pytest.raises(UsageError) as caught:
        policy.check_against(["conv1", "conv2"], ["image", "relu1"])
    message = str(caught.value)
    for part in (
        "layer conv_1 (nearest: conv1)",
        "layer xyz,",
        "activation relu (nearest: relu1)",
        "not in the policy: layer conv1.",
        "resnet8",
    ):
        assert part in message
    assert "conv2" not in message


def test_a_failed_write_leaves_the_old_policy(tmp_path, monkeypatch):
    path = tmp_path / "policy.yaml"
    path.write_text(MINIMAL)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        save_policy(load_policy(path), path)
    assert path.read_text() == MINIMAL
    assert os.listdir(tmp_path) == ["policy.yaml"]
