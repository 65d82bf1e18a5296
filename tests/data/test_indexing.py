"""Indexes are arrays, made by several processes, and kept until files change."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tfmpq.data import file_sources, indexing, load_dataset
from tfmpq.data.indexing import index_records
from tfmpq.data.places import Paths, Places
from tfmpq.data.tfrecord import read_records
from tfmpq.errors import TfmpqError
from tfmpq.progress import SilentReporter

REPORTER = SilentReporter()


def write_records(path: Path, first: int, count: int) -> None:
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in range(first, first + count):
            image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"image %d" % number]))
            label = tf.train.Feature(int64_list=tf.train.Int64List(value=[number % 7]))
            features = tf.train.Features(feature={"image/encoded": image, "image/class/label": label})
            writer.write(tf.train.Example(features=features).SerializeToString())


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a user's cache, in which all indexes are kept."""
    monkeypatch.setattr(indexing, "SMALL_BYTES", 0)
    monkeypatch.setattr(indexing, "_WORTH_KEEPING", 0)
    monkeypatch.setattr(indexing, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def refused(*_: object) -> None:
    raise AssertionError("this process reads no records")


def test_several_processes_index_and_the_index_is_kept(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{number} räcord.tfrecord" for number in range(3)]
    for number, path in enumerate(paths):
        write_records(path, 10 * number, 4 + number)
    monkeypatch.setattr(indexing, "read_records", refused)
    for _ in range(2):
        found = index_records(paths, REPORTER)
        assert found.number.tolist() == [0] * 4 + [1] * 5 + [2] * 6
        places = Places(Paths.of(paths), found.number, found.offset, found.length)
        numbers = [*range(4), *range(10, 15), *range(20, 26)]
        assert [places.read(index) for index in range(15)] == [b"image %d" % number for number in numbers]
        assert found.label.tolist() == [number % 7 for number in numbers]
        monkeypatch.setattr(indexing, "_in_parallel", refused)


def test_a_changed_file_or_a_damaged_index_is_read_anew(tmp_path: Path, kept: Path) -> None:
    path = tmp_path / "a.tfrecord"
    write_records(path, 0, 4)
    assert len(index_records([path], REPORTER)) == 4
    write_records(path, 0, 5)
    assert len(index_records([path], REPORTER)) == 5
    (file,) = kept.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert len(index_records([path], REPORTER)) == 5
    assert file.stat().st_size > 100
    # As large as before, but of another time.
    write_records(path, 1, 5)
    os.utime(path, ns=(1, 1))
    assert index_records([path], REPORTER).label.tolist() == [1, 2, 3, 4, 5]


def test_a_damaged_file_among_many_is_named(tmp_path: Path, kept: Path) -> None:
    paths = [tmp_path / f"{number}.tfrecord" for number in range(3)]
    for path in paths:
        write_records(path, 0, 3)
    paths[1].write_bytes(paths[1].read_bytes()[:-5])
    with pytest.raises(TfmpqError, match=r"1\.tfrecord \(truncated record at byte"):
        index_records(paths, REPORTER)
    assert not kept.exists()


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(indexing, "cache_folder", lambda: tmp_path / "file")
    write_records(tmp_path / "a.tfrecord", 0, 3)
    assert len(index_records([tmp_path / "a.tfrecord"], REPORTER)) == 3


def test_folders_are_listed_again_only_when_they_change(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "images"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for number in range(5):
            (root / name / f"{number}.png").write_bytes(b"image")
    load_dataset(f"folder:{root}")
    listed = []
    make = file_sources._image_files
    monkeypatch.setattr(file_sources, "_image_files", lambda *given: listed.append(given) or make(*given))
    again = load_dataset(f"folder:{root}")
    assert not listed
    assert again.train.encoded is not None
    assert again.train.encoded.read(0) == b"image"
    (root / "b" / "5.png").write_bytes(b"image")
    os.utime(root / "b", ns=(1, 1))
    changed = load_dataset(f"folder:{root}")
    assert listed
    assert len(changed.train) + len(changed.test) == 11


def test_array_records_are_read_by_number(tmp_path: Path) -> None:
    module = pytest.importorskip("array_record.python.array_record_module")
    import tensorflow as tf

    write_records(tmp_path / "a.tfrecord", 0, 9)
    path = tmp_path / "a_train.array_record-00000-of-00001"
    writer = module.ArrayRecordWriter(str(path), "group_size:2")
    for record in tf.data.TFRecordDataset(str(tmp_path / "a.tfrecord")).as_numpy_iterator():
        writer.write(record)
    writer.close()
    found = read_records(path)
    assert found.label.tolist() == [number % 7 for number in range(9)]
    places = Places(Paths.of([path]), found.number, found.offset, found.length)
    assert [places.read(index) for index in (8, 0, 3)] == [b"image 8", b"image 0", b"image 3"]
    assert places.name(3).endswith("record 3")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(TfmpqError, match="whole, uncompressed"):
        read_records(tmp_path / "missing.array_record")


def test_a_million_places_take_tens_of_megabytes() -> None:
    count = 2**20
    paths = Paths.of([f"/data/train-{number:05d}-of-01024" for number in range(1024)])
    number = np.repeat(np.arange(1024, dtype=np.int32), count // 1024)
    places = Places(paths, number, np.arange(count), np.full(count, 1, np.int32))
    arrays = (places.number, places.offset, places.length, paths.text, paths.ends)
    assert sum(array.nbytes for array in arrays) < 20e6
    assert places.path(count - 1) == Path("/data/train-01023-of-01024")
