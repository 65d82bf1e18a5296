"""Transformers by name: their sizes, and what they become."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from scipy.special import erf

from tfmpq.errors import TfmpqError, UsageError
from tfmpq.graph.equivalence import lowered
from tfmpq.graph.fusion import analyse
from tfmpq.models import load_weights, vit
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


WIDTH, DEPTH, CLASSES = 12, 2, 5


@pytest.fixture(scope="module")
def small() -> keras.Model:
    model = vit._transformer((8, 8, 3), CLASSES, "small", patch=4, width=WIDTH, depth=DEPTH, heads=3)
    return lowered(model, model, (False,), lambda note: None)


def state_dict() -> dict[str, np.ndarray]:
    """A transformer of that size under timm's names, in PyTorch's layouts."""
    generator = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 5, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, 4, 4),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        "head.weight": (CLASSES, WIDTH),
        "head.bias": (CLASSES,),
    }
    for i in range(DEPTH):
        shapes |= {f"blocks.{i}.{norm}.{name}": (WIDTH,) for norm in ("norm1", "norm2") for name in WORDS}
        for name, rows, columns in (
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", 4 * WIDTH, WIDTH),
            ("mlp.fc2", WIDTH, 4 * WIDTH),
        ):
            shapes |= {f"blocks.{i}.{name}.weight": (rows, columns), f"blocks.{i}.{name}.bias": (rows,)}
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


WORDS = ("weight", "bias")


def of_hugging_face(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same under the names of Hugging Face, where queries, keys and values are apart."""
    renamed = {
        "vit.embeddings.cls_token": arrays["cls_token"],
        "vit.embeddings.position_embeddings": arrays["pos_embed"],
    }
    for word in WORDS:
        renamed |= {
            f"vit.embeddings.patch_embeddings.projection.{word}": arrays[f"patch_embed.proj.{word}"],
            f"vit.layernorm.{word}": arrays[f"norm.{word}"],
            f"classifier.{word}": arrays[f"head.{word}"],
        }
        for i in range(DEPTH):
            own, its = f"blocks.{i}", f"vit.encoder.layer.{i}"
            fused = arrays[f"{own}.attn.qkv.{word}"]
            for number, part in enumerate(("query", "key", "value")):
                rows = fused[number * WIDTH : (number + 1) * WIDTH]
                renamed[f"{its}.attention.attention.{part}.{word}"] = rows
            for mine, theirs in (
                ("norm1", "layernorm_before"),
                ("norm2", "layernorm_after"),
                ("attn.proj", "attention.output.dense"),
                ("mlp.fc1", "intermediate.dense"),
                ("mlp.fc2", "output.dense"),
            ):
                renamed[f"{its}.{theirs}.{word}"] = arrays[f"{own}.{mine}.{word}"]
    return renamed


def computed(arrays: dict[str, np.ndarray], image: np.ndarray) -> np.ndarray:
    """What timm's VisionTransformer computes of one image (3, 8, 8), written out in float64."""
    given = {name: array.astype(np.float64) for name, array in arrays.items()}

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ given[f"{name}.weight"].T + given[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return centred / spread * given[f"{name}.weight"] + given[f"{name}.bias"]

    kernel = given["patch_embed.proj.weight"].reshape(WIDTH, -1)
    patches = [image[:, r : r + 4, c : c + 4].reshape(-1) for r in (0, 4) for c in (0, 4)]
    x = np.stack(patches) @ kernel.T + given["patch_embed.proj.bias"]
    x = np.concatenate([given["cls_token"][0], x]) + given["pos_embed"][0]
    for i in range(DEPTH):
        q, k, v = (
            part.transpose(1, 0, 2)
            for part in linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv")
            .reshape(5, 3, 3, WIDTH // 3)
            .transpose(1, 0, 2, 3)
        )
        scores = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(WIDTH // 3))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ v
        x = x + linear(mixed.transpose(1, 0, 2).reshape(5, WIDTH), f"blocks.{i}.attn.proj")
        y = linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")
        y = y * 0.5 * (1 + erf(y / np.sqrt(2)))
        x = x + linear(y, f"blocks.{i}.mlp.fc2")
    return linear(norm(x, "norm")[0], "head")


@pytest.mark.parametrize("names", [dict, of_hugging_face], ids=["timm", "Hugging Face"])
def test_a_state_dict_computes_what_it_does_in_its_own_framework(
    small: keras.Model, names: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], tmp_path: Path
) -> None:
    arrays = state_dict()
    np.savez(tmp_path / "w.npz", **names(arrays))
    load_weights(small, tmp_path / "w.npz")
    image = np.random.default_rng(1).normal(size=(8, 8, 3)).astype(np.float32)
    given = np.asarray(small(image[None]))[0]
    wanted = computed(arrays, image.transpose(2, 0, 1).astype(np.float64))
    np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a | {"pos_embed": np.zeros((1, 17, WIDTH), np.float32)}, "images of another size"),
        (lambda a: {n: v for n, v in a.items() if "blocks.1" not in n}, "missing blocks_1_norm1/gamma"),
        (lambda a: a | {"dist_token": a["cls_token"]}, "surplus dist_token"),
    ],
)
def test_weights_of_another_transformer_are_refused(
    small: keras.Model,
    change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
    message: str,
    tmp_path: Path,
) -> None:
    np.savez(tmp_path / "w.npz", **change(state_dict()))
    with pytest.raises(TfmpqError, match=message) as caught:
        load_weights(small, tmp_path / "w.npz")
    assert "\n" not in str(caught.value)


def test_weights_do_not_go_into_layers_of_layers_by_half(tmp_path: Path) -> None:
    model = vit._transformer((8, 8, 3), CLASSES, "small", patch=4, width=WIDTH, depth=1, heads=3)
    np.savez(tmp_path / "w.npz", **state_dict())
    with pytest.raises(TfmpqError, match="holds others"):
        load_weights(model, tmp_path / "w.npz")
