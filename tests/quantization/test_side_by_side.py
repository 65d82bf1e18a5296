"""Both networks side by side: whatever is held and recomputed, each layer sees what the networks compute."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from tfmpq.graph.fusion import analyse
from tfmpq.progress import SilentReporter
from tfmpq.quantization import reconstruction, side_by_side
from tfmpq.quantization.reconstruction import images_needed, reconstruct
from tfmpq.quantization.side_by_side import SideBySide, _borders

from ..quantized_networks import images_of, quantize, randomise, residual_network

COUNT = 21


def inputs_of(model: keras.Model, names: list[str], images: np.ndarray) -> list[np.ndarray]:
    """What the network as a whole gives to layers."""
    probe = keras.Model(model.inputs, [model.get_layer(name).input for name in names])
    return [np.asarray(x) for x in probe.predict_on_batch(images)]


@pytest.mark.parametrize(
    ("memory", "part", "needed"),
    [
        (2**30, 2**27, COUNT),
        (2**30, 2**16, COUNT),  # several parts
        (1, 2**16, COUNT),  # one part is held, the others are computed from the image
        (2**30, 2**16, 5),  # early layers see fewer images than later ones
    ],
)
def test_every_layer_sees_what_both_networks_compute(
    memory: int, part: int, needed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "MEMORY", memory)
    monkeypatch.setattr(side_by_side, "PART_BYTES", part)
    keras.utils.set_random_seed(0)
    model, images = randomise(residual_network(), 0), images_of(COUNT, 1)
    network, quantized = quantize(model, (3,), (8,), images)
    names = [node.name for node in network.weighted]
    wanted, given = (inputs_of(m, names, images) for m in (model, quantized))
    asked = {name: needed + 4 * index for index, name in enumerate(names)}
    pair = SideBySide(quantized, network, images, asked)
    for node in network.nodes:
        if node.name in names:
            place, parts = names.index(node.name), list(pair.parts(node))
            count = sum(len(part.indices) for part in parts)
            assert count == pair.seen(node)
            if memory > 1:
                assert count >= min(asked[node.name], COUNT)
            np.testing.assert_array_equal(np.concatenate([p.indices for p in parts]), np.arange(count))
            for kind, whole in (("wanted", wanted[place]), ("given", given[place])):
                values = np.concatenate([getattr(p, kind)[0] for p in parts])
                np.testing.assert_allclose(values, whole[:count], rtol=1e-4, atol=1e-5)
        pair.pass_by(node)


def test_borders_lie_between_blocks() -> None:
    network = analyse(residual_network())
    borders = {network.nodes[index].name for index in _borders(network)}
    # One tensor; within the block there are two, and before the pooling a larger one than the image.
    assert borders == {"pool", "down", "gap"}


def test_later_layers_see_more_images() -> None:
    image = keras.Input((64, 64, 3), name="image")
    x = layers.Conv2D(8, 3, name="first")(image)
    x = layers.Conv2D(8, 3, strides=16, name="second")(x)
    x = layers.Dense(4, name="logits")(layers.GlobalAveragePooling2D(name="gap")(x))
    found = images_needed(analyse(keras.Model(image, x)), 50_000)
    assert list(found.values()) == sorted(found.values())
    assert found["first"] == reconstruction._LEAST_IMAGES
    assert found["logits"] == 50_000


def test_parts_and_memory_do_not_change_what_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    keras.utils.set_random_seed(0)
    model, images = randomise(residual_network(), 0), images_of(70, 1)
    found = []
    for part in (2**27, 2**18):
        monkeypatch.setattr(side_by_side, "PART_BYTES", part)
        network, quantized = quantize(model, (4,), (8,), images)
        dampings = reconstruct(quantized, model, network, images, SilentReporter())
        assert set(dampings) == {node.name for node in network.weighted}
        found.append(quantized)
    wanted = model.predict_on_batch(images)
    errors = [float(np.mean(np.square(made.predict_on_batch(images) - wanted))) for made in found]
    np.testing.assert_allclose(errors[0], errors[1], rtol=0.2)


def test_the_same_call_fits_the_same_kernels() -> None:
    keras.utils.set_random_seed(0)
    model, images = randomise(residual_network(), 0), images_of(70, 1)
    made: list[Any] = []
    for _ in range(2):
        network, quantized = quantize(model, (4,), (8,), images)
        reconstruct(quantized, model, network, images, SilentReporter())
        made.append(quantized.get_weights())
    for one, other in zip(*made, strict=True):
        np.testing.assert_array_equal(one, other)


def test_views_of_an_image_are_held_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    keras.utils.set_random_seed(0)
    model = randomise(residual_network(), 0)
    originals, views = images_of(40, 1), 2
    images = np.concatenate([originals, originals[:, :, ::-1]])
    network, quantized = quantize(model, (4,), (8,), images)
    kept: list[int] = []
    chosen = reconstruction.chosen_rounding

    def noted(weights: Any, seen: Any, held_out: Any, *rest: Any) -> Any:
        kept.append(held_out.count)
        return chosen(weights, seen, held_out, *rest)

    monkeypatch.setattr(reconstruction, "chosen_rounding", noted)
    reconstruct(quantized, model, network, images, SilentReporter(), views=views)
    assert kept[-1] == views * 40 // reconstruction._HELD_OUT  # a row of the classifier is an image
