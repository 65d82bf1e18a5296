"""Compressed images: the same batches in any order of asking, near Pillow's pixels, damage with its place."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfmpq.data import ImageBatches, Split, load_dataset
from tfmpq.data.augment import crop_box, drawn_boxes
from tfmpq.data.batches import read
from tfmpq.data.damaged import LeftOut, skip_damaged
from tfmpq.data.decoding import Pixels
from tfmpq.data.decoding_grain import GrainExecutor
from tfmpq.data.decoding_tensorflow import TensorflowExecutor
from tfmpq.data.images import decode_image, resize_for
from tfmpq.data.places import Paths, Places
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.progress import SilentReporter

EXECUTORS = (TensorflowExecutor, GrainExecutor)
COUNT = 20


def smooth(seed: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """An image whose neighbouring pixels are alike, as those of photographs."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, channels)).astype(np.uint8)
    image = Image.fromarray(coarse[..., 0] if channels == 1 else coarse)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized).reshape(height, width, channels)


def compressed(image: np.ndarray, kind: str = "jpeg") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(stream, kind, quality=95)
    return stream.getvalue()


def split_of(folder: Path, contents: list[bytes], damaged: LeftOut | None = None) -> Split:
    paths = []
    for number, content in enumerate(contents):
        paths.append(folder / f"{number}.image")
        paths[-1].write_bytes(content)
    return Split(np.arange(len(contents)), encoded=Places.whole_files(Paths.of(paths)), damaged=damaged)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Colour and grey JPEGs, PNG and WebP, of different sizes."""
    sizes = np.random.default_rng(0).integers(60, 200, (COUNT, 2)).tolist()
    kinds = ["jpeg", "jpeg", "png", "webp"]
    contents = [
        compressed(smooth(i, *size, channels=1 if i % 5 == 0 else 3), kinds[i % 4])
        for i, size in enumerate(sizes)
    ]
    return split_of(tmp_path_factory.mktemp("photographs"), contents)


def batches(split: Split, size: int = 4, **options) -> ImageBatches:
    usual = {"image_shape": (96, 96, 3), "preprocessing": "unit", "augment": "imagenet", "seed": 3}
    return ImageBatches(split, size, **(usual | options))


@pytest.mark.parametrize("augment", ["none", "crop_flip", "imagenet"])
def test_a_batch_does_not_depend_on_what_was_read_before(photographs: Split, augment) -> None:
    through, resumed, single = (batches(photographs, augment=augment, steps_per_epoch=3) for _ in range(3))
    for epoch in range(3):
        through.set_epoch(epoch)
        for index in range(3):
            images, labels = through[index]
            resumed.set_epoch(epoch)
            if (epoch, index) >= (1, 1):  # as after an interruption in mid-epoch
                np.testing.assert_array_equal(resumed[index][0], images)
            found = single.batch(epoch, index)
            np.testing.assert_array_equal(found[0], images)
            np.testing.assert_array_equal(found[1], labels)


def test_batches_that_follow_are_read_by_one_stream(photographs: Split, monkeypatch) -> None:
    begun = []
    stream = TensorflowExecutor.stream
    monkeypatch.setattr(
        TensorflowExecutor, "stream", lambda self, *given: begun.append(given) or stream(self, *given)
    )
    source = batches(photographs, steps_per_epoch=3)
    for epoch in range(3):
        source.set_epoch(epoch)
        for index in range(3):
            source[index]
    assert len(begun) == 1


@pytest.mark.parametrize("executor", EXECUTORS)
def test_streams_are_what_single_images_are(photographs: Split, executor) -> None:
    made = executor(Pixels((40, 48), 3, True))
    boxes = drawn_boxes(np.random.default_rng(1), COUNT)

    def order(step: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = np.arange(8 * step, min(8 * step + 8, COUNT))
        return chosen, boxes[chosen]

    assert photographs.encoded is not None
    found = list(made.stream(photographs.encoded, order, 8, range(3), COUNT))
    assert [len(part) for part in found] == [8, 8, 4]
    for index, image in enumerate(np.concatenate(found)):
        np.testing.assert_array_equal(image, made.one(photographs.encoded.read(index), boxes[index]))


@pytest.mark.parametrize("size", [(96, 96), (112, 96), (32, 48)])
def test_fitted_images_are_pillows_to_a_level_or_two(photographs: Split, size: tuple[int, int]) -> None:
    assert photographs.encoded is not None
    made = [executor(Pixels(size, 3, False)) for executor in EXECUTORS]
    for index in range(COUNT):
        content = photographs.encoded.read(index)
        expected = resize_for(decode_image(content), size).astype(int)
        found = [executor.one(content, np.zeros(5)).astype(int) for executor in made]
        np.testing.assert_array_equal(found[1], np.broadcast_to(expected, (*size, 3)))
        assert np.abs(found[0] - expected).max() <= 2


def test_images_of_the_right_size_stay_as_they_are(tmp_path: Path) -> None:
    content = compressed(smooth(1, 100, 120))
    for executor in EXECUTORS:
        image = executor(Pixels((100, 120), 3, False)).one(content, np.zeros(5))
        np.testing.assert_array_equal(image, decode_image(content))


@pytest.mark.parametrize("side", [80, 250, 600])
def test_both_executors_take_the_same_part(side: int) -> None:
    """TensorFlow's is one of whole pixels, of the reduced image if its decoder reduces."""
    image = smooth(2, side, side + 30)
    boxes = drawn_boxes(np.random.default_rng(2), 8)
    first, second = (executor(Pixels((64, 64), 3, True)) for executor in EXECUTORS)
    for box in boxes:
        for kind in ("jpeg", "png"):
            content = compressed(image, kind)
            expected = second.one(content, box).astype(float)
            found = first.one(content, box).astype(float)
            assert np.abs(found - expected).mean() < (4 if kind == "jpeg" else 1e-9)
            assert np.abs(found[:, ::-1] - expected).mean() > 20


def test_boxes_are_those_of_the_usual_formula() -> None:
    """Drawn as NumPy's uniform draws, one number after the other."""
    drawn = drawn_boxes(np.random.default_rng(7), 3)
    generator = np.random.default_rng(7)
    for row in drawn:
        area = 300 * 400 * generator.uniform(0.25, 1.0)
        ratio = np.exp(generator.uniform(*np.log((3 / 4, 4 / 3))))
        width, height = min(400, np.sqrt(area * ratio)), min(300, np.sqrt(area / ratio))
        expected = (generator.uniform(0, 400 - width), generator.uniform(0, 300 - height), width, height)
        generator.random()
        np.testing.assert_allclose(crop_box(300.0, 400.0, row), expected)


def test_a_process_decodes_its_part_only(photographs: Split, monkeypatch) -> None:
    four = photographs.take(slice(4))
    images, labels = batches(four, shuffle=False, drop_remainder=False).batch(0, 0)
    places = set()
    read_one = Places.read
    monkeypatch.setattr(Places, "read", lambda self, index: places.add(int(index)) or read_one(self, index))
    source = batches(four, shuffle=False)
    with source.only(slice(2, 4)):
        part = source[0]
    np.testing.assert_array_equal(part[0], images[2:])
    np.testing.assert_array_equal(part[1], labels[2:])
    assert places == {2, 3}


def test_any_images_are_read_by_number(photographs: Split) -> None:
    indices = np.array([19, 3, 3, 0])
    images, labels = read(photographs, indices, (96, 96, 3))
    assert labels.tolist() == indices.tolist()
    plain = batches(photographs, shuffle=False, augment="none", size=COUNT)
    np.testing.assert_array_equal(images, plain.pixels(0, 0)[0][indices])


@pytest.mark.parametrize("executor", EXECUTORS)
def test_colours_for_a_grey_network_are_refused(photographs: Split, executor, monkeypatch) -> None:
    monkeypatch.setattr("tfmpq.data.reading.executor", executor)
    grey = photographs.take(np.array([0, 5, 10]))
    assert batches(grey, image_shape=(32, 32, 1), size=3)[0][0].shape == (3, 32, 32, 1)
    with pytest.raises(UsageError, match="Only grey images"):
        batches(photographs, image_shape=(32, 32, 1))[0]


def with_damage(folder: Path, damaged: LeftOut | None = None) -> Split:
    contents = [compressed(smooth(i, 70, 80)) for i in range(10)]
    contents[4] = contents[4][: len(contents[4]) // 2]
    contents[7] = b"no image"
    return split_of(folder, contents, damaged)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_damaged_image_is_an_error_with_its_place(tmp_path: Path, executor, monkeypatch) -> None:
    monkeypatch.setattr("tfmpq.data.reading.executor", executor)
    source = batches(with_damage(tmp_path), shuffle=False, augment="none", size=3)
    assert len(source[0][0]) == 3
    with pytest.raises(TfmpqError, match=r"4\.image, byte 0") as caught:
        source[1]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_damaged_images_are_left_out_counted_and_said(tmp_path: Path, executor, monkeypatch) -> None:
    monkeypatch.setattr("tfmpq.data.reading.executor", executor)
    said: list[str] = []

    class Listener(SilentReporter):
        def log(self, message: str) -> None:
            said.append(message)

    damaged = LeftOut(Listener())
    split = with_damage(tmp_path, damaged)
    source = batches(split, shuffle=False, augment="none", size=4, drop_remainder=False)
    assert [source[index][1].tolist() for index in range(3)] == [[0, 1, 2, 3], [5, 6], [8, 9]]
    assert len(damaged.places) == 2
    assert said[1] == f"Left out: damaged image number 2, {tmp_path}/7.image, byte 0."
    # A training step gets as many images as ever, and the same ones again after a resumption.
    training = batches(split, size=5)
    images, labels = training.batch(0, 0)
    assert len(images) == len(labels) == 5
    assert not {4, 7} & set(labels.tolist())
    np.testing.assert_array_equal(batches(split, size=5)[0][0], images)
    assert len(said) == 2


def test_commands_leave_out_damaged_images_when_asked(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(5):
            (tmp_path / name / f"{number}.jpg").write_bytes(compressed(smooth(number, 40, 40)))
    (tmp_path / "b" / "2.jpg").write_bytes(b"")
    with skip_damaged():
        data = load_dataset(f"folder:{tmp_path}")
    labels = [
        read(split, np.arange(len(split)), (32, 32, 3))[1].tolist() for split in (data.train, data.test)
    ]
    assert sorted(labels[0] + labels[1]) == [0] * 5 + [1] * 4
    plain = load_dataset(f"folder:{tmp_path}")
    assert plain.train.damaged is None
