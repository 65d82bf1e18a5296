"""Transformers by name: their sizes, and what they become."""

from __future__ import annotations

import keras
import pytest

from tfmpq.errors import UsageError
from tfmpq.graph.fusion import analyse
from tfmpq.models import vit
from tfmpq.models.registry import load_model


@pytest.mark.parametrize(
    ("name", "side", "classes", "parameters"),
    [
        ("vit_tiny", 224, 1000, 5_717_416),
        ("deit_tiny", 224, 1000, 5_717_416),
        ("vit_cifar", 32, 10, 906_922),
        pytest.param("vit_s16", 224, 1000, 22_050_664, marks=pytest.mark.slow),
        pytest.param("vit_b16", 224, 1000, 86_567_656, marks=pytest.mark.slow),
        pytest.param("convnext_tiny", 224, 1000, 28_589_128, marks=pytest.mark.slow),
    ],
)
def test_a_transformer_has_as_many_parameters_as_published(
    name: str, side: int, classes: int, parameters: int
) -> None:
    model: keras.Model = getattr(vit, name)((side, side, 3), classes)
    assert model.count_params() == parameters


def test_a_transformer_by_name_is_a_network_of_known_layers_with_all_its_parameters() -> None:
    loaded = load_model("vit_cifar", input_shape=(32, 32, 3), classes=10)
    assert loaded.model.count_params() == 906_922
    network = analyse(loaded.model, dynamic=True)
    assert len(network.weighted) == 1 + 8 * 6 + 1
    assert {node.kind for node in network.nodes} >= {"layer_normalization", "softmax", "matmul", "constant"}
    assert network.weighted[1].name == "blocks_0_attn_query"


def test_an_image_that_patches_do_not_fill_is_refused() -> None:
    with pytest.raises(UsageError, match="multiples of 16 pixels"):
        load_model("vit_tiny", input_shape=(100, 224, 3), classes=10)
