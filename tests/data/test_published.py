"""Data sets of the literature: small synthetic copies in the form in which their authors distribute them."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tfmpq.data import Dataset, load_dataset
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.models.registry import load_model
from tfmpq.progress import SilentReporter
from tfmpq.tasks.task import image_shape, load_task


def picture(path: Path, shade: int, side: tuple[int, int] = (20, 30)) -> None:
    """A JPEG file of one shade of grey in colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    Image.new("RGB", (side[1], side[0]), (shade, shade, shade)).save(content, "JPEG")
    path.write_bytes(content.getvalue())


def lines(path: Path, *text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(text) + "\n", encoding="utf-8")


def shades(data: Dataset) -> tuple[list[int], list[int]]:
    """What tells the images of both parts apart."""
    train, test = (
        [round(float(image.mean())) for image in part.images(range(len(part)))]
        for part in (data.train, data.test)
    )
    return train, test


CIFAR_PIXELS = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), np.uint8)
CIFAR_LABELS = np.arange(12) % 10


def cifar_files(name: str, pickled: bool) -> tuple[list[tuple[str, slice]], str]:
    """Files of the Python or the binary version with the images that they hold, and their folder."""
    ending = "" if pickled else ".bin"
    if name == "cifar10":
        parts = [(f"data_batch_{i + 1}{ending}", slice(2 * i, 2 * i + 2)) for i in range(5)]
        found = [*parts, (f"test_batch{ending}", slice(10, 12))]
        return found, "cifar-10-batches-py" if pickled else "cifar-10-batches-bin"
    found = [(f"train{ending}", slice(0, 10)), (f"test{ending}", slice(10, 12))]
    return found, "cifar-100-python" if pickled else "cifar-100-binary"


def write_cifar(folder: Path, name: str, pickled: bool) -> Path:
    files, place = cifar_files(name, pickled)
    root = folder / place
    root.mkdir()
    count = int(name.removeprefix("cifar"))
    words = [f"word{i}" for i in range(count)]
    for file, part in files:
        rows, labels = CIFAR_PIXELS[part].reshape(-1, 3072), CIFAR_LABELS[part]
        if pickled:
            key = b"labels" if name == "cifar10" else b"fine_labels"
            content = {b"data": rows, key: labels.tolist(), b"coarse_labels": [0] * len(labels)}
            (root / file).write_bytes(pickle.dumps(content, protocol=2))
        else:
            coarse = [] if name == "cifar10" else [np.full((len(labels), 1), 99)]
            whole = np.concatenate([*coarse, labels[:, None], rows], axis=1).astype(np.uint8)
            (root / file).write_bytes(whole.tobytes())
    if pickled:
        meta, key = ("batches.meta", b"label_names") if name == "cifar10" else ("meta", b"fine_label_names")
        (root / meta).write_bytes(pickle.dumps({key: [word.encode() for word in words]}, protocol=2))
    else:
        lines(root / ("batches.meta.txt" if name == "cifar10" else "fine_label_names.txt"), *words)
    return root


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("pickled", [True, False], ids=["python", "binary"])
def test_cifar_is_read_from_either_version(tmp_path: Path, name: str, pickled: bool) -> None:
    write_cifar(tmp_path, name, pickled)
    data = load_dataset(name, data_dir=tmp_path)
    assert (len(data.train), len(data.test), data.name) == (10, 2, name)
    assert data.classes == len(data.class_names or ()) == int(name.removeprefix("cifar"))
    for part, images in ((data.train, CIFAR_PIXELS[:10]), (data.test, CIFAR_PIXELS[10:])):
        np.testing.assert_array_equal(part.array, images.transpose(0, 2, 3, 1))
    assert [*data.train.labels, *data.test.labels] == CIFAR_LABELS.tolist()
    assert image_shape(data) == (32, 32, 3)


class _Harm:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.mkdir, (Path("harm"),)  # type: ignore[return-value]


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({b"data": _Harm()}, protocol=2),
        pickle.dumps([1], protocol=2),
        pickle.dumps({b"data": np.zeros((2, 7), np.uint8), b"fine_labels": [0, 1]}, protocol=2),
        pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [0]}, protocol=2),
        b"\x80\x02}q",
    ],
    ids=["code", "list", "shape", "labels", "cut"],
)
def test_a_damaged_batch_is_named_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    (write_cifar(tmp_path, "cifar100", True) / "train").write_bytes(content)
    with pytest.raises(TfmpqError, match="cifar-100-python/train"):
        load_dataset("cifar100", data_dir=tmp_path)
    assert not (tmp_path / "harm").exists()


def write_flowers(folder: Path) -> None:
    root = folder / "flowers-102"
    for number in range(1, 9):
        picture(root / "jpg" / f"image_{number:05d}.jpg", 10 * number)
    savemat(root / "imagelabels.mat", {"labels": np.arange(1, 9)[None]})
    savemat(root / "setid.mat", {"trnid": [[8, 1]], "valid": [[3]], "tstid": [[2, 4, 5, 6, 7]]})


def write_pets(folder: Path) -> None:
    root = folder / "oxford-iiit-pet"
    for word, shade in {"Abyssinian_1": 10, "yorkshire_terrier_9": 20, "Abyssinian_2": 30}.items():
        picture(root / "images" / f"{word}.jpg", shade)
    lines(root / "annotations" / "trainval.txt", "#Image CLASS-ID SPECIES BREED", "Abyssinian_1 1 1 1")
    with (root / "annotations" / "trainval.txt").open("a") as file:
        file.write("yorkshire_terrier_9 37 2 25\n")
    lines(root / "annotations" / "test.txt", "Abyssinian_2 1 1 1")


def write_food(folder: Path) -> None:
    root = folder / "food-101"
    for word, shade in {"apple_pie/11": 10, "waffles/12": 20, "waffles/13": 30}.items():
        picture(root / "images" / f"{word}.jpg", shade)
    lines(root / "meta" / "classes.txt", "apple_pie", "waffles")
    lines(root / "meta" / "train.txt", "apple_pie/11", "waffles/13")
    lines(root / "meta" / "test.txt", "waffles/12")


def write_tiny(folder: Path) -> None:
    root = folder / "tiny-imagenet-200"
    lines(root / "wnids.txt", "n02", "n01")
    for word, shade in {"n01/images/n01_0": 10, "n02/images/n02_0": 20, "n02/images/n02_1": 30}.items():
        picture(root / "train" / f"{word}.JPEG", shade, (64, 64))
    for number, shade in enumerate((40, 50)):
        picture(root / "val" / "images" / f"val_{number}.JPEG", shade, (64, 64))
    lines(root / "val" / "val_annotations.txt", "val_0.JPEG\tn02\t0\t0\t9\t9", "val_1.JPEG\tn01\t0\t0\t9\t9")


def write_imagenet(folder: Path, table: bool) -> None:
    root = folder / ("ILSVRC/Data/CLS-LOC" if table else "imagenet2012")
    for word, shade in {"n01/n01_1": 10, "n02/n02_1": 20, "n02/n02_2": 30}.items():
        picture(root / "train" / f"{word}.JPEG", shade)
    for word, number, shade in (("n02", 1, 40), ("n01", 2, 50)):
        place = root / "val" if table else root / "val" / word
        picture(place / f"ILSVRC2012_val_{number}.JPEG", shade)
    if table:
        lines(
            folder / "LOC_val_solution.csv",
            "ImageId,PredictionString",
            "ILSVRC2012_val_1,n02 85 1 499 272",
            "ILSVRC2012_val_2,n01 1 2 3 4 n01 5 6 7 8",
        )


WRITTEN: dict[str, tuple[Callable[[Path], None], tuple[list[int], list[int]], list[int], list[int], int]] = {
    "oxford_flowers102": (
        write_flowers, ([80, 10, 30], [20, 40, 50, 60, 70]), [7, 0, 2], [1, 3, 4, 5, 6], 224,
    ),
    "oxford_iiit_pet": (write_pets, ([10, 20], [30]), [0, 36], [0], 224),
    "food101": (write_food, ([10, 30], [20]), [0, 1], [1], 224),
    "tiny_imagenet": (write_tiny, ([10, 20, 30], [40, 50]), [0, 1, 1], [1, 0], 64),
    "imagenet2012": (
        lambda folder: write_imagenet(folder, True), ([10, 20, 30], [40, 50]), [0, 1, 1], [1, 0], 224,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_images_have_the_labels_the_split_and_the_size_of_the_papers(tmp_path: Path, name: str) -> None:
    write, found, train, test, side = WRITTEN[name]
    write(tmp_path)
    data = load_dataset(name, data_dir=tmp_path)
    assert shades(data) == found
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == (train, test)
    assert image_shape(data) == (side, side, 3)
    classes = {"oxford_flowers102": 102, "oxford_iiit_pet": 37}
    assert (data.name, data.classes) == (name, classes.get(name, 2))


def test_imagenet_may_have_a_folder_for_each_class_of_both_parts(tmp_path: Path) -> None:
    write_imagenet(tmp_path, False)
    data = load_dataset("imagenet2012", data_dir=tmp_path)
    assert (shades(data), data.name) == (([10, 20, 30], [50, 40]), "imagenet2012")
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 1, 1], [0, 1])


@pytest.mark.parametrize(
    ("name", "augmentation", "side"), [("tiny_imagenet", "crop_flip", 64), ("food101", "imagenet", 224)]
)
def test_training_images_are_augmented_as_is_usual_for_their_size(
    tmp_path: Path, name: str, augmentation: str, side: int
) -> None:
    WRITTEN[name][0](tmp_path)
    data = load_dataset(name, data_dir=tmp_path)
    task = load_task("resnet8", data, reporter=SilentReporter())
    batches = task.batches(2, seed=0)
    assert batches.augment == augmentation
    assert batches.batch(0, 0)[0].shape == (2, side, side, 3)
    built = load_model("resnet8", input_shape=(side, side, 3), classes=data.classes)
    assert task.model.input_shape == built.model.input_shape


@pytest.mark.parametrize(
    ("name", "file", "content", "told"),
    [
        ("food101", "food-101/meta/test.txt", "pancakes/12\n", "the class 'pancakes'"),
        ("oxford_iiit_pet", "oxford-iiit-pet/annotations/test.txt", "Abyssinian_2 38 1 1\n", "a class of 1"),
        ("oxford_flowers102", "flowers-102/imagelabels.mat", "noise", "no row labels"),
        (
            "tiny_imagenet",
            "tiny-imagenet-200/val/val_annotations.txt",
            "val_0.JPEG\tn03\n",
            "the class 'n03'",
        ),
        ("imagenet2012", "LOC_val_solution.csv", "ImageId,PredictionString\nx\n", "no image and its boxes"),
    ],
)
def test_a_damaged_list_is_named(tmp_path: Path, name: str, file: str, content: str, told: str) -> None:
    WRITTEN[name][0](tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(TfmpqError) as caught:
        load_dataset(name, data_dir=tmp_path)
    assert file in str(caught.value)
    assert told in str(caught.value)


def test_a_set_that_nobody_else_prepares_asks_for_its_archive(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Unpack its archive in the folder that --data-dir names"):
        load_dataset("tiny_imagenet", data_dir=tmp_path)
