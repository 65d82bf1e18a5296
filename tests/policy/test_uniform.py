"""One width for all layers between the ends: its form, its policies, and SAQ's published bit operations."""

from __future__ import annotations

from functools import cache

import pytest

from tfmpq.errors import UsageError
from tfmpq.graph.fusion import analyse
from tfmpq.graph.network import Network
from tfmpq.models.registry import load_model
from tfmpq.policy.budget import exceeded, parse_budgets
from tfmpq.policy.network_cost import cost_model
from tfmpq.policy.uniform import UniformWidths, names_uniform


@cache
def network(name: str, side: int, classes: int) -> Network:
    return analyse(load_model(name, input_shape=(side, side, 3), classes=classes).model)


@pytest.mark.parametrize(
    ("text", "ends", "widths"),
    [
        ("uniform:4", None, (4, 8, 8)),
        ("uniform:2/4", None, (2, 4, 8)),
        ("uniform:8/2", "same", (8, 2, None)),
        ("uniform:3/3", 4, (3, 3, 4)),
    ],
)
def test_what_is_left_out_has_eight_bits(
    text: str, ends: int | str | None, widths: tuple[int, int, int | None]
) -> None:
    assert names_uniform(text)
    assert UniformWidths.read(text, ends) == UniformWidths(*widths)


@pytest.mark.parametrize(
    "text",
    ["uniform:", "uniform:1", "uniform:9", "uniform:4/16", "uniform:4/", "uniform:4/4/4", "uniform:-4"],
)
def test_other_texts_are_refused_with_what_was_received(text: str) -> None:
    with pytest.raises(UsageError, match="each 2 to 8 bits") as caught:
        UniformWidths.read(text, None)
    assert repr(text) in str(caught.value)


def test_the_ends_are_the_first_and_the_last_layer_and_what_the_last_one_reads() -> None:
    found = network("resnet8", 32, 10)
    policy = UniformWidths.read("uniform:2/4", 6).policy(found, "resnet8")
    assert [bits for name, bits in policy.weight_bits.items() if name not in ("conv1", "dense")] == [2] * 8
    assert (policy.weight_bits["conv1"], policy.weight_bits["dense"]) == (6, 6)
    bits = policy.activation_bits(found.tensors)
    assert (bits["image"], bits["avgpool"], bits["dense"]) == (8, 6, 8)
    assert {width for name, width in bits.items() if name not in ("image", "avgpool", "dense")} == {4}
    policy.check_against(bits_of_layers(found), found.tensors)


def bits_of_layers(found: Network) -> list[str]:
    return [node.name for node in found.weighted]


def test_the_same_ends_have_the_widths_of_the_others() -> None:
    found = network("resnet8", 32, 10)
    policy = UniformWidths.read("uniform:2/4", "same").policy(found, "resnet8")
    assert set(policy.weight_bits.values()) == {2}
    assert policy.activation_bits(found.tensors)["avgpool"] == 4


def test_a_network_without_layers_between_its_ends_is_refused() -> None:
    import keras
    from keras import layers

    image = keras.Input((8, 8, 3), name="image")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu", name="conv")(image))
    two = analyse(keras.Model(image, layers.Dense(2, name="logits")(x)))
    with pytest.raises(UsageError, match=r"conv, logits alone\. Give --ends same"):
        UniformWidths.read("uniform:4", None).policy(two, "two")
    same = UniformWidths.read("uniform:4", "same").policy(two, "two")
    assert same.weight_bits == {"conv": 4, "logits": 4}


@pytest.mark.parametrize(
    ("name", "side", "classes", "text", "bops"),
    [
        ("resnet20_projection", 32, 100, "uniform:4/4", 674_643_968),
        ("resnet20_projection", 32, 100, "uniform:3/3", 392_052_736),
        ("resnet18", 224, 1000, "uniform:4/4", 34_714_419_200),
        ("resnet18", 224, 1000, "uniform:2/2", 14_367_850_496),
        ("mobilenet_v2", 224, 1000, "uniform:4/4", 5_394_053_120),
    ],
)
def test_bit_operations_are_those_of_saqs_tables_for_policies_and_for_budgets(
    name: str, side: int, classes: int, text: str, bops: int
) -> None:
    """arXiv 2111.12273: 674.6M, 392.1M; 34.7G, 14.4G; 5.3G, where the count is 5.394G."""
    found = network(name, side, classes)
    costs = cost_model(found)
    policy = UniformWidths.read(text, None).policy(found, name)
    bits = policy.weight_bits, policy.activation_bits(found.tensors)
    assert costs.bops(*bits) == costs.report(*bits).bops == bops
    just, less = (parse_budgets([f"bops={limit / 1000:.3f}k"], costs) for limit in (bops, bops - 1))
    assert not exceeded(just, costs, *bits)
    assert exceeded(less, costs, *bits)
