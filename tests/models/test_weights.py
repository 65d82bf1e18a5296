"""Weights in and out of every file format, and the words for what does not fit."""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from tfmpq.errors import TfmpqError, UsageError
from tfmpq.models import load_model, load_weights

# Saving in Keras converts variables in a way that NumPy 2 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPE = (8, 8, 3)


def resnet(classes: int = 5, name: str = "resnet20") -> keras.Model:
    """A network whose weights and moving statistics are all random."""
    model = load_model(name, input_shape=SHAPE, classes=classes).model
    generator = np.random.default_rng()
    model.set_weights([generator.uniform(0.5, 1.5, w.shape).astype(np.float32) for w in model.get_weights()])
    return model


def renamed(model: keras.Model) -> keras.Model:
    """The same network with other layer names."""

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        return type(layer).from_config({**layer.get_config(), "name": f"other_{layer.name}"})

    copy = keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy


def plain_arrays(model: keras.Model) -> dict[str, np.ndarray]:
    """Arrays named `<layer>/<weight>` with kernels in PyTorch's layout."""
    arrays = {}
    for layer in model.layers:
        for variable in layer.weights:
            name, value = variable.name, variable.numpy()
            if name == "kernel" and value.ndim == 4:
                depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
                name, value = "kernel_oihw", value.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
            elif name == "kernel":
                name, value = "kernel_oi", value.T
            arrays[f"{layer.name}/{name}"] = value
    return arrays


def torch_arrays(model: keras.Model) -> dict[str, np.ndarray]:
    """The same under the names of a PyTorch state dict."""
    words = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean"}
    words |= {"moving_variance": "running_var", "kernel_oihw": "weight", "kernel_oi": "weight"}
    arrays = {}
    for name, value in plain_arrays(model).items():
        layer, _, weight = name.rpartition("/")
        arrays[f"module.{layer}.{words.get(weight, weight)}"] = value
    arrays["module.bn1.num_batches_tracked"] = np.array(7)
    return arrays


def same_weights(a: keras.Model, b: keras.Model) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a.get_weights(), b.get_weights(), strict=True))


@pytest.mark.parametrize("ending", [".keras", ".weights.h5", ".h5"])
@pytest.mark.parametrize("change", [lambda model: model, renamed])
def test_files_of_keras_come_back(ending: str, change, tmp_path: Path) -> None:
    logging.getLogger("absl").setLevel(logging.ERROR)
    source, target = resnet(), resnet()
    path = tmp_path / f"w{ending}"
    saved = change(source)
    saved.save_weights(path) if ending == ".weights.h5" else saved.save(path)
    load_weights(target, path)
    assert same_weights(source, target)


@pytest.mark.parametrize(
    ("name", "arrays_of"),
    [
        ("resnet20", plain_arrays),
        ("resnet20_projection", torch_arrays),
        ("mobilenet_v2", plain_arrays),
        ("resnet8", torch_arrays),
    ],
)
def test_arrays_of_npz_come_back(name: str, arrays_of, tmp_path: Path) -> None:
    source, target = resnet(name=name), resnet(name=name)
    np.savez(tmp_path / "w.npz", **arrays_of(source))
    load_weights(target, tmp_path / "w.npz")
    assert same_weights(source, target)


def test_missing_surplus_and_misshapen_arrays_are_named(tmp_path: Path) -> None:
    source, target = resnet(), resnet()
    before = target.get_weights()
    arrays = plain_arrays(source)
    del arrays["bn1/gamma"]
    arrays["layer9.0.conv1/kernel_oihw"] = np.zeros((1, 1, 1, 1), np.float32)
    arrays["linear/bias"] = np.zeros(6, np.float32)
    np.savez(tmp_path / "w.npz", **arrays)
    with pytest.raises(TfmpqError) as caught:
        load_weights(target, tmp_path / "w.npz")
    message = str(caught.value)
    assert "missing bn1/gamma" in message
    assert "surplus layer9.0.conv1/kernel_oihw" in message
    assert "linear/bias (6,) instead of (5,)" in message
    assert all(np.array_equal(a, b) for a, b in zip(before, target.get_weights(), strict=True))


def test_at_most_eight_names_are_listed(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", nothing=np.zeros(1))
    with pytest.raises(TfmpqError, match=r"and 89 more; surplus nothing"):
        load_weights(resnet(), tmp_path / "w.npz")


@pytest.mark.parametrize("ending", [".npz", ".weights.h5", ".keras"])
def test_another_number_of_classes_is_said_and_can_be_skipped(ending: str, tmp_path: Path) -> None:
    source, target = resnet(classes=9), resnet(classes=5)
    path = tmp_path / f"w{ending}"
    if ending == ".npz":
        np.savez(path, **plain_arrays(source))
    else:
        source.save_weights(path) if ending == ".weights.h5" else source.save(path)
    kept = target.get_layer("linear").get_weights()
    with pytest.raises(TfmpqError, match="for 9 classes and the model for 5"):
        load_weights(target, path)
    load_weights(target, path, skip_classifier=True)
    assert np.array_equal(target.get_layer("linear").kernel, kept[0])
    assert np.array_equal(
        target.get_layer("layer3.2.conv2").kernel, source.get_layer("layer3.2.conv2").kernel
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(bad: float, tmp_path: Path) -> None:
    arrays = plain_arrays(resnet())
    arrays["bn1/beta"] = np.full_like(arrays["bn1/beta"], bad)
    np.savez(tmp_path / "w.npz", **arrays)
    with pytest.raises(TfmpqError, match=r"finite.*bn1/beta"):
        load_weights(resnet(), tmp_path / "w.npz")


@pytest.mark.parametrize("ending", [".keras", ".weights.h5", ".h5", ".npz"])
@pytest.mark.parametrize("damage", ["empty", "noise", "truncated"])
def test_damaged_files_are_one_line(ending: str, damage: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{ending}"
    model = resnet()
    if ending == ".npz":
        np.savez(path, **plain_arrays(model))
    else:
        model.save_weights(tmp_path / "v.weights.h5")
        (tmp_path / "v.weights.h5").rename(path) if ending != ".keras" else model.save(path)
    content = {"empty": b"", "noise": bytes(range(256)) * 8}.get(damage, path.read_bytes()[:5000])
    path.write_bytes(content)
    with pytest.raises(TfmpqError, match="copied completely") as caught:
        load_weights(model, path)
    assert "\n" not in str(caught.value)


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", a=np.array([{"x": 1}], dtype=object))
    with pytest.raises(TfmpqError, match="Python objects"):
        load_weights(resnet(), tmp_path / "w.npz")


def test_data_of_other_files_is_not_read_through_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "w.weights.h5"
    (tmp_path / "secret").write_bytes(bytes(4 * 5))
    resnet().save_weights(path)
    with h5py.File(path, "a") as file:
        group = file["layers/dense/vars"]
        del group["1"]
        group.create_dataset("1", (5,), np.float32, external=[(str(tmp_path / "secret"), 0, 20)])
    with pytest.raises(TfmpqError):
        load_weights(resnet(), path)


def test_unknown_endings_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(TfmpqError, match="must exist"):
        load_weights(resnet(), tmp_path / "none.npz")
    (tmp_path / "w.pth").write_bytes(b"")
    with pytest.raises(UsageError, match=r"\.npz files"):
        load_weights(resnet(), tmp_path / "w.pth")


def test_networks_of_another_shape_are_not_mapped_by_order(tmp_path: Path) -> None:
    renamed(resnet(name="resnet20_projection")).save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(TfmpqError, match="very same network"):
        load_weights(resnet(), tmp_path / "w.weights.h5")
