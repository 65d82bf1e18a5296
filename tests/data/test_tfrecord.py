"""TFRecord files as TensorFlow writes them, found without it."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfmpq.data import Split, load_dataset
from tfmpq.data.places import Paths, Places
from tfmpq.data.tfrecord import read_records
from tfmpq.errors import TfmpqError

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 9, 7, 3), dtype=np.uint8)
LABELS = np.array([0, 217, 999, 482, 701, 217, 5, 5, 0, 999, 301, 128])


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png")
    return stream.getvalue()


def write(path: Path, images: np.ndarray, labels: np.ndarray, **names: str) -> None:
    import tensorflow as tf

    image_name, label_name = names.get("image", "image/encoded"), names.get("label", "image/class/label")
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image, label in zip(images, labels, strict=True):
            feature = {
                image_name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[png(image)])),
                label_name: tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
                "image/size": tf.train.Feature(float_list=tf.train.FloatList(value=[1.5, 2.5])),
            }
            if "synset" in names:
                synset = tf.train.BytesList(value=[b"n01440764"])
                feature["image/class/synset"] = tf.train.Feature(bytes_list=synset)
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())


def decoded(path: Path) -> list[np.ndarray]:
    """All images of a file, as they are stored."""
    found = read_records(path)
    places = Places(Paths.of([path]), found.number, found.offset, found.length)
    return Split(found.label, encoded=places).images(range(len(found)))


@pytest.mark.parametrize("names", [{}, {"image": "image", "label": "label"}])
def test_records_of_tensorflow_are_found(names: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path / "a.tfrecord", IMAGES, LABELS, **names)
    records = read_records(tmp_path / "a.tfrecord")
    assert records.label.tolist() == LABELS.tolist()
    for image, expected in zip(decoded(tmp_path / "a.tfrecord"), IMAGES, strict=True):
        np.testing.assert_array_equal(image, expected)


def test_negative_labels_come_through(tmp_path: Path) -> None:
    write(tmp_path / "a.tfrecord", IMAGES[:1], np.array([-1]))
    assert read_records(tmp_path / "a.tfrecord").label.tolist() == [-1]


def test_names_of_files_tell_the_test_part(tmp_path: Path) -> None:
    write(tmp_path / "set_train.tfrecord", IMAGES[:7], LABELS[:7])
    write(tmp_path / "set_val.tfrecord", IMAGES[7:], LABELS[7:])
    for data in (
        load_dataset(f"tfrecord:{tmp_path}/set_*.tfrecord"),
        load_dataset("set", data_dir=tmp_path),
    ):
        assert data.name == "set"
        assert (len(data.train), len(data.test), data.classes) == (7, 5, 1000)
        assert data.test.labels.tolist() == LABELS[7:].tolist()
    assert len(load_dataset(f"tfrecord:{tmp_path}/set_val.tfrecord").test) == 5
    assert len(load_dataset(f"tfrecord:{tmp_path}/set_train.tfrecord").test) == 2


def test_gaps_among_synsets_mean_imagenet(tmp_path: Path) -> None:
    kept = LABELS != 999
    write(tmp_path / "a.tfrecord", IMAGES[kept], LABELS[kept], synset="yes")
    assert load_dataset(f"tfrecord:{tmp_path}/a.tfrecord").classes == 1000
    write(tmp_path / "b.tfrecord", IMAGES, np.arange(12) % 3, synset="yes")
    assert load_dataset(f"tfrecord:{tmp_path}/b.tfrecord").classes == 3
    write(tmp_path / "c.tfrecord", IMAGES[kept], LABELS[kept])
    assert load_dataset(f"tfrecord:{tmp_path}/c.tfrecord").classes == 702


def test_damage_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    write(path, IMAGES[:3], LABELS[:3])
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[3] ^= 1
    for content, words in (
        (b"", "empty"),
        (whole[:-9], "truncated"),
        (whole + b"12", "requires"),
        (bytes(flipped), "damaged record header at byte 0"),
    ):
        path.write_bytes(content)
        with pytest.raises(TfmpqError, match=words) as caught:
            read_records(path)
        assert "\n" not in str(caught.value)


def test_damage_inside_a_record_never_escapes(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    write(path, IMAGES[:1], LABELS[:1])
    whole = path.read_bytes()
    for position in range(12, len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        # Not every byte is checked by the format, but no error of another kind may come through.
        with contextlib.suppress(TfmpqError):
            decoded(path)


def test_other_features_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.tfrecord", IMAGES, LABELS, image="picture")
    with pytest.raises(TfmpqError, match="only image/class/label, image/size, picture"):
        read_records(tmp_path / "a.tfrecord")
