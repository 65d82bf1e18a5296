"""Data sets of tensorflow-datasets, with one defined here so that nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tfmpq.data import catalogue, load_dataset, published
from tfmpq.data.catalogue import nearest
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.progress import SilentReporter

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)


class Listener(SilentReporter):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def log(self, message: str) -> None:
        self.messages.append(message)


@pytest.fixture(scope="module")
def builders() -> None:
    import tensorflow_datasets as tfds

    class TinyPictures(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        FEATURES = {  # noqa: RUF012 (never changed)
            "image": tfds.features.Image(shape=(5, 4, 3)),
            "label": tfds.features.ClassLabel(names=["cat", "dog", "ox"]),
        }

        def _info(self) -> tfds.core.DatasetInfo:
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(self.FEATURES))

        def _split_generators(self, dl_manager):
            return {
                "train": self._examples(0, 4),
                "test": self._examples(4, 5),
                "validation": self._examples(5, 6),
            }

        def _examples(self, first: int, last: int):
            for index in range(first, last):
                yield index, {"image": IMAGES[index], "label": -1 if index == 4 else index % 3}

        def _generate_examples(self):
            raise NotImplementedError

    class TinySounds(TinyPictures):
        FEATURES = {"sound": tfds.features.Scalar(dtype=np.int64)}  # noqa: RUF012 (never changed)


@pytest.mark.usefixtures("builders")
def test_a_data_set_is_announced_prepared_and_read(tmp_path: Path, capsys) -> None:
    (tmp_path / "tiny_pictures").mkdir()
    listener = Listener()
    for _ in range(2):
        data = load_dataset("tiny_pictures", data_dir=tmp_path, reporter=listener)
        assert (len(data.train), data.classes, data.class_names) == (4, 3, ("cat", "dog", "ox"))
        # Labels of -1 are secret; the validation part is used instead of that test part.
        assert data.test.labels.tolist() == [2]
        np.testing.assert_array_equal(data.test.images([0])[0], IMAGES[5])
        assert sorted(image.tobytes() for image in data.train.images(range(4))) == sorted(
            image.tobytes() for image in IMAGES[:4]
        )
    assert len(listener.messages) == 1
    assert "Downloading tiny_pictures" in listener.messages[0]
    assert not capsys.readouterr().out


@pytest.mark.usefixtures("builders")
def test_a_data_set_may_be_trained_on_two_of_its_parts(tmp_path: Path, monkeypatch) -> None:
    """As the literature does with the 102 flowers."""
    (tmp_path / "tiny_pictures").mkdir()
    monkeypatch.setattr(catalogue, "TRAIN_PARTS", {"tiny_pictures": ("train", "validation")})
    data = load_dataset("tiny_pictures", data_dir=tmp_path)
    assert len(data.train) == 5
    assert published.TRAIN_PARTS["oxford_flowers102"] == ("train", "validation")


@pytest.mark.usefixtures("builders")
def test_a_data_set_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tiny_sounds").mkdir()
    with pytest.raises(UsageError, match="features image and label"):
        load_dataset("tiny_sounds", data_dir=tmp_path)


@pytest.mark.usefixtures("builders")
def test_unknown_names_are_met_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean tiny_pictures"):
        load_dataset("tiny_picture")


@pytest.mark.usefixtures("builders")
def test_failures_to_prepare_are_one_line(tmp_path: Path, monkeypatch) -> None:
    import tensorflow_datasets as tfds

    def fails(self, **options) -> None:
        raise OSError("no network\nmore about it")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fails)
    (tmp_path / "tiny_pictures").mkdir()
    with pytest.raises(TfmpqError, match=r"OSError: no network\)\. Check"):
        load_dataset("tiny_pictures", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("CIFAR10", "cifar10"),
        ("cifar-10", "cifar10"),
        ("Cifar 100", "cifar100"),
        ("ImageNet", "imagenet2012"),
        ("cifr10", "cifar10"),
        ("pictures of my cat", None),
    ],
)
def test_the_data_set_that_a_name_is_for_is_found(name: str, meant: str | None) -> None:
    assert nearest(name, ["digits", "cifar10", "cifar100", "imagenet2012", "mnist"]) == meant


def test_another_spelling_is_asked_back() -> None:
    with pytest.raises(UsageError, match=r"Did you mean cifar10\?"):
        load_dataset("CIFAR10")
