"""Every kind of data set, written here and read back, and the words for what is wrong with one."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfmpq.data import Dataset, load_dataset
from tfmpq.data.images import decode_image
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.progress import SilentReporter
from tfmpq.tasks.fitting import fitted
from tfmpq.tasks.task import load_task

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (20, 8, 6, 3), dtype=np.uint8)
LABELS = GENERATOR.permutation(np.arange(20) % 4)


class Listener(SilentReporter):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def log(self, message: str) -> None:
        self.messages.append(message)


def pixels(dataset: Dataset) -> set[tuple[bytes, int]]:
    """All images with their labels, whatever their order and split."""
    return {
        (image.tobytes(), int(label))
        for split in (dataset.train, dataset.test)
        for image, label in zip(split.images(range(len(split))), split.labels, strict=True)
    }


EXPECTED = {(image.tobytes(), int(label)) for image, label in zip(IMAGES, LABELS, strict=True)}


def test_digits_are_the_real_ones_in_a_fixed_split() -> None:
    from sklearn.datasets import load_digits

    data = load_dataset("digits")
    assert (len(data.train), len(data.test), data.classes) == (1437, 360, 10)
    assert data.train.array is not None
    assert data.train.array.shape == (1437, 16, 16, 3)
    assert data.train.labels.dtype == np.int64
    assert np.ptp(np.bincount(data.test.labels)) <= 2
    assert data.fingerprint == load_dataset("digits").fingerprint
    # Blocks of 2x2 pixels average back to the original, up to rounding and the blur of interpolation.
    whole = np.concatenate([data.train.array, data.test.array])[..., 0].astype(float)
    blocks = np.sort(whole.reshape(-1, 8, 2, 8, 2).mean((2, 4)).mean((1, 2)))
    np.testing.assert_allclose(blocks, np.sort(load_digits().images.mean((1, 2)) * 255 / 16), atol=8)


@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y")])
def test_single_npz_is_split_and_said_so(names: tuple[str, str], tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **dict(zip(names, (IMAGES, LABELS[:, None]), strict=True)))
    listener = Listener()
    data = load_dataset(f"npz:{tmp_path / 'd.npz'}", reporter=listener)
    assert (len(data.train), len(data.test), data.classes, data.name) == (16, 4, 4, "d")
    assert pixels(data) == EXPECTED
    assert len(listener.messages) == 1
    assert "16 of its 20 images" in listener.messages[0]


@pytest.mark.parametrize("where", ["d", "d.npz", "d_train.npz", "d_test.npz"])
def test_pairs_of_npz_are_found_by_any_of_their_names(where: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "d_train.npz", x=IMAGES[:12], y=LABELS[:12], class_names=list("abcd"))
    np.savez(tmp_path / "d_test.npz", x=IMAGES[12:], y=LABELS[12:])
    data = load_dataset(f"npz:{tmp_path / where}")
    np.testing.assert_array_equal(data.test.array, IMAGES[12:])
    np.testing.assert_array_equal(data.train.labels, LABELS[:12])
    assert data.class_names == ("a", "b", "c", "d")


def test_names_are_looked_up_in_the_data_folder(tmp_path: Path, monkeypatch) -> None:
    np.savez(tmp_path / "mine_train.npz", x=IMAGES[:12, ..., 0], y=LABELS[:12])
    np.savez(tmp_path / "mine_test.npz", x=IMAGES[12:, ..., 0], y=LABELS[12:])
    data = load_dataset("mine", data_dir=tmp_path)
    assert data.test.array is not None
    assert data.test.array.shape == (8, 8, 6, 1)
    monkeypatch.setenv("TFMPQ_DATA_DIR", str(tmp_path))
    assert load_dataset("mine").fingerprint == data.fingerprint
    monkeypatch.setenv("TFMPQ_DATA_DIR", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="folder must exist"):
        load_dataset("mine")


def test_tiles_of_lossless_webp_are_taken_apart(tmp_path: Path) -> None:
    images = GENERATOR.integers(0, 256, (2500, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(2500) % 10
    rows = [np.concatenate(images[start : start + 50], axis=1) for start in range(0, 2500, 50)]
    stream = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(stream, "webp", lossless=True, quality=0, method=0)
    tile = np.frombuffer(stream.getvalue(), np.uint8)
    for part in ("train", "test"):
        np.savez(tmp_path / f"t_{part}.npz", tile_00=tile, labels=labels.astype(np.uint8))
    data = load_dataset("t", data_dir=tmp_path)
    np.testing.assert_array_equal(data.train.array, images)
    np.savez(tmp_path / "t_test.npz", tile_00=tile[:999], labels=labels)
    with pytest.raises(TfmpqError, match="Tiles must be WebP"):
        load_dataset("t", data_dir=tmp_path)


def save_folder(root: Path, images: np.ndarray, labels: np.ndarray) -> None:
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.{'png' if index % 2 else 'PNG'}", "png")
        (folder / "notes.txt").write_text("not an image")


def test_folders_are_read_with_and_without_a_test_part(tmp_path: Path) -> None:
    save_folder(tmp_path / "one", IMAGES, LABELS)
    data = load_dataset(f"folder:{tmp_path / 'one'}")
    assert pixels(data) == EXPECTED
    assert (len(data.train), data.class_names) == (16, ("class0", "class1", "class2", "class3"))
    save_folder(tmp_path / "two" / "train", IMAGES[:12], LABELS[:12])
    save_folder(tmp_path / "two" / "val", IMAGES[12:], LABELS[12:])
    data = load_dataset(f"folder:{tmp_path / 'two'}")
    assert pixels(data) == EXPECTED
    assert len(data.test) == 8
    (tmp_path / "two" / "val" / "other").mkdir()
    with pytest.raises(TfmpqError, match="with other"):
        load_dataset(f"folder:{tmp_path / 'two'}")


def test_fingerprints_depend_on_labels_and_pixels_but_not_on_the_place(tmp_path: Path) -> None:
    seen = []
    for folder, change in (("a", 0), ("b", 0), ("c", 1), ("d", 2)):
        (tmp_path / folder).mkdir()
        images, labels = IMAGES.copy(), LABELS.copy()
        if change == 1:
            images ^= 1
        if change == 2:
            labels = labels[::-1]
        np.savez(tmp_path / folder / "d.npz", x=images, y=labels)
        seen.append(load_dataset(f"npz:{tmp_path / folder / 'd'}").fingerprint)
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": IMAGES, "y": LABELS[:-1]}, "20 images and 19 labels"),
        ({"x": IMAGES[0, 0, 0], "y": LABELS}, "Images are numbers"),
        ({"x": IMAGES.astype(str), "y": LABELS}, "Images are numbers"),
        ({"x": np.where(IMAGES > 99, np.nan, IMAGES), "y": LABELS}, "NaN or infinity"),
        ({"x": IMAGES, "y": LABELS.astype(str)}, "Labels are whole numbers"),
        ({"x": IMAGES, "y": LABELS * np.nan}, "Labels are finite numbers"),
        ({"x": IMAGES, "y": LABELS - 1}, "Labels are 0 to"),
        ({"pictures": IMAGES, "y": LABELS}, "named images or x"),
        ({"x": np.array([None] * 20, dtype=object), "y": LABELS}, "Python objects"),
        ({"x": IMAGES[:0], "y": LABELS[:0]}, "needs images"),
    ],
)
def test_wrong_arrays_are_one_line(arrays: dict[str, np.ndarray], words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(TfmpqError, match=words) as caught:
        load_dataset(f"npz:{tmp_path / 'd.npz'}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["float16", "float64", "int8", "int32", "bool"])
@pytest.mark.parametrize("shape", [(6,), (5, 3), (4, 5, 7)])
def test_arrays_of_any_type_and_shape_are_model_inputs_as_they_are(
    kind: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    values = (np.random.default_rng(0).normal(0, 40, (20, *shape))).astype(kind)
    np.savez(tmp_path / "d.npz", x=values, y=LABELS)
    data = load_dataset(f"npz:{tmp_path / 'd.npz'}")
    assert data.train.array is not None
    assert data.train.array.dtype == np.float32
    assert data.train.array.ndim == 4
    assert data.seen == pytest.approx((float(values.min()), float(values.max())))
    image_shape = (1, 1, *shape)[-3:]
    found = fitted(data, image_shape).test.array
    assert found is not None
    assert found.shape[1:] == image_shape
    np.testing.assert_array_equal(found.reshape(-1, *shape), _test_part(values).astype(np.float32))


def _test_part(values: np.ndarray) -> np.ndarray:
    """The fifth that is held out, by the fixed permutation."""
    return values[np.random.default_rng(0).permutation(len(values))[16:]].astype(np.float64)


@pytest.mark.parametrize(
    "labels", [np.eye(4, dtype=np.float32)[LABELS], LABELS.astype(np.float64), LABELS[:, None]]
)
def test_labels_may_be_rows_with_a_one_or_whole_float_numbers(labels: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=IMAGES, y=labels)
    assert pixels(load_dataset(f"npz:{tmp_path / 'd.npz'}")) == EXPECTED


def test_images_alone_have_no_classes_and_are_no_data_to_train_on(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=IMAGES)
    np.save(tmp_path / "alone.npy", IMAGES)
    (tmp_path / "flat").mkdir()
    for number, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / "flat" / f"{number}.png")
    for spec in ("npz:d.npz", "npz:d", "npz:alone.npy", "npz:alone", "folder:flat"):
        kind, _, name = spec.partition(":")
        data = load_dataset(f"{kind}:{tmp_path / name}")
        assert (data.classes, data.labelled, len(data.train), len(data.test)) == (0, False, 16, 4)
        with pytest.raises(UsageError, match="Without labels a network learns from a trained one"):
            load_task("resnet8", data, reporter=SilentReporter())


def test_hidden_folders_and_files_that_are_no_images_are_left_out_and_said(tmp_path: Path) -> None:
    save_folder(tmp_path / "d", IMAGES, LABELS)
    hidden = tmp_path / "d" / ".ipynb_checkpoints"
    hidden.mkdir()
    Image.fromarray(IMAGES[0]).save(hidden / "0.png")
    Image.fromarray(IMAGES[0]).save(tmp_path / "d" / "class0" / "more.bmp")
    Image.fromarray(IMAGES[0]).save(tmp_path / "d" / "class0" / "more.gif")
    Image.fromarray(IMAGES[0]).save(tmp_path / "d" / "class0" / "more.tif")
    Image.fromarray(IMAGES[0]).save(tmp_path / "d" / "beside.png")
    log = Listener()
    data = load_dataset(f"folder:{tmp_path / 'd'}", reporter=log)
    assert data.class_names == ("class0", "class1", "class2", "class3")
    assert len(data.train) + len(data.test) == 22
    left_out = [line for line in log.messages if "left out" in line]
    assert len(left_out) == 1
    assert "6 files" in left_out[0]  # of which four are notes
    assert "beside.png, class0/more.tif" in left_out[0]


def test_16_bits_of_grey_are_scaled_to_8(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    found = decode_image((tmp_path / "deep.png").read_bytes())
    np.testing.assert_array_equal(found[:, :, 0], np.round(deep / 257.0).astype(np.uint8))


@pytest.mark.parametrize("content", [b"", b"noise" * 100, None])
def test_damaged_npz_is_one_line(content: bytes | None, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=IMAGES, y=LABELS)
    content = content if content is not None else (tmp_path / "d.npz").read_bytes()[:-300]
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(TfmpqError, match="copied completely"):
        load_dataset(f"npz:{tmp_path / 'd.npz'}")


def test_damaged_images_are_named(tmp_path: Path) -> None:
    save_folder(tmp_path, IMAGES, LABELS)
    for file in tmp_path.glob("*/*.png"):
        file.write_bytes(file.read_bytes()[:60])
    data = load_dataset(f"folder:{tmp_path}")
    with pytest.raises(TfmpqError, match=r"\.png, byte 0"):
        data.train.images(range(len(data.train)))


def test_what_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for spec, words in (
        ("npz:nothing", "must name a .npz"),
        ("folder:nothing", "must name a folder"),
        ("tfrecord:nothing*", "must match files"),
        ("zip:nothing", "one of these forms"),
        ("npz:", "one of these forms"),
        ("", "one of these forms"),
    ):
        with pytest.raises(UsageError, match=words):
            load_dataset(spec)
    with pytest.raises(TfmpqError, match="without any"):
        load_dataset(f"folder:{tmp_path / 'empty'}")
    (tmp_path / "empty" / "class").mkdir()
    with pytest.raises(TfmpqError, match="without any"):
        load_dataset(f"folder:{tmp_path / 'empty'}")
