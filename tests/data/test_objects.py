"""A user's own data objects: what each kind becomes, that nothing is changed, and what is refused."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfmpq.data import objects
from tfmpq.data.growing import GrowingArray, reordered
from tfmpq.data.objects import open_data, open_test
from tfmpq.data.preprocess import given as given_range
from tfmpq.data.preprocess import is_given, preprocess, value_range
from tfmpq.errors import UsageError

COUNT = 50
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.uniform(-1, 1, (COUNT, 6, 5, 3)).astype(np.float32)
PIXELS = GENERATOR.integers(0, 256, (COUNT, 6, 5, 3), np.uint8)
LABELS = GENERATOR.permutation(np.arange(COUNT) % 4)


class Batched(keras.utils.PyDataset):
    def __init__(self, images: np.ndarray, labels: np.ndarray | None) -> None:
        super().__init__()
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return -(-len(self.images) // 8)

    def __getitem__(self, index: int) -> object:
        part = slice(8 * index, 8 * index + 8)
        return self.images[part] if self.labels is None else (self.images[part], self.labels[part])


def kinds(images: np.ndarray) -> dict[str, object]:
    slices = tf.data.Dataset.from_tensor_slices((images, LABELS))
    return {
        "arrays": (images, LABELS),
        "list": [images, LABELS.tolist()],
        "one row of classes an image": (images, np.eye(4)[LABELS]),
        "tensors": (tf.constant(images), tf.constant(LABELS)),
        "batched tf.data": slices.batch(7),
        "tf.data of single images": slices,
        "shuffled tf.data": slices.shuffle(COUNT, reshuffle_each_iteration=True).batch(7),
        "PyDataset": Batched(images, LABELS),
        "list of batches": [(images[:20], LABELS[:20]), (images[20:], LABELS[20:])],
        "generator": ((images[i : i + 9], LABELS[i : i + 9]) for i in range(0, COUNT, 9)),
    }


def contents(images: np.ndarray, labels: np.ndarray) -> set[tuple[bytes, int]]:
    return {(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)}


@pytest.mark.parametrize("images", [IMAGES, PIXELS], ids=["float", "uint8"])
@pytest.mark.parametrize("kind", sorted(kinds(IMAGES)))
def test_every_kind_of_object_gives_the_same_images_with_their_labels(kind: str, images: np.ndarray) -> None:
    found = open_test(kinds(images)[kind])
    assert found.test.array is not None
    assert found.test.array.dtype == images.dtype
    assert contents(found.test.array, found.test.labels) == contents(images, LABELS)
    assert found.classes == 4
    assert found.seen == (float(images.min()), float(images.max()))


@pytest.mark.parametrize(
    "data",
    [
        IMAGES,
        tf.data.Dataset.from_tensor_slices(IMAGES).batch(7),
        Batched(IMAGES, None),
        [IMAGES[:9], IMAGES[9:]],
    ],
    ids=["array", "tf.data", "PyDataset", "batches"],
)
def test_images_alone_have_no_labels(data: object) -> None:
    found = open_test(data)
    assert not found.labelled
    assert found.test.array is not None
    assert contents(found.test.array, np.zeros(COUNT)) == contents(IMAGES, np.zeros(COUNT))


def test_without_validation_a_fifth_is_held_out_and_with_it_nothing_is() -> None:
    alone = open_data((IMAGES, LABELS))
    assert (len(alone.train), len(alone.test)) == (40, 10)
    train, test = (split.array for split in (alone.train, alone.test))
    assert train is not None
    assert test is not None
    assert not contents(train, alone.train.labels) & contents(test, alone.test.labels)
    both = open_data((IMAGES, LABELS), (IMAGES[:7], LABELS[:7]))
    assert (len(both.train), len(both.test)) == (COUNT, 7)


def test_the_fingerprint_is_that_of_the_content_not_of_the_order_in_which_a_dataset_gives_it() -> None:
    shuffled = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).shuffle(COUNT).batch(7)
    first, second = open_data(shuffled), open_data(shuffled)
    assert first.fingerprint == second.fingerprint
    assert first.train.array is not None
    np.testing.assert_array_equal(first.train.array, second.train.array)
    changed = IMAGES.copy()
    changed[17, 0, 0, 0] += 1e-3
    other = open_data(tf.data.Dataset.from_tensor_slices((changed, LABELS)).batch(7))
    relabelled = open_data((IMAGES, np.roll(LABELS, 1)))
    assert len({first.fingerprint, other.fingerprint, relabelled.fingerprint}) == 3


def test_grey_images_get_their_channel() -> None:
    found = open_test((IMAGES[..., 0], LABELS))
    assert found.test.array is not None
    assert found.test.array.shape == (COUNT, 6, 5, 1)


def test_large_data_are_not_read_to_the_end_where_some_images_are_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(objects, "SAMPLED_BYTES", 10 * IMAGES[0].nbytes)
    read: list[int] = []

    def batches() -> object:
        for start in range(0, COUNT, 5):
            read.append(start)
            yield IMAGES[start : start + 5], LABELS[start : start + 5]

    found = open_data(batches(), sampled=True)
    assert len(found.train) + len(found.test) == 10
    assert read == [0, 5]
    random = open_data(Batched(IMAGES, LABELS), sampled=True)
    assert random.train.array is not None
    assert not contents(random.train.array, random.train.labels) <= contents(IMAGES[:16], LABELS[:16])


def test_images_beyond_the_memory_lie_in_a_file_that_goes_with_them() -> None:
    grown = GrowingArray(memory=10 * IMAGES[0].nbytes)
    for start in range(0, COUNT, 7):
        grown.append(IMAGES[start : start + 7])
    path, found = grown._path, grown.finished()
    assert path is not None
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, IMAGES)
    order = np.random.default_rng(1).permutation(COUNT)
    np.testing.assert_array_equal(reordered(found, order), IMAGES[order])
    del grown
    assert not path.exists()
    np.testing.assert_array_equal(found, IMAGES)


@pytest.mark.parametrize(
    ("data", "received"),
    [
        (5, "int"),
        (None, "NoneType"),
        ({"image": IMAGES}, "dict"),
        ((IMAGES, LABELS, np.ones(COUNT)), "Leave sample weights out"),
        ((IMAGES, LABELS[:-1]), "50 images and 49 labels"),
        ((IMAGES, LABELS - 1), "-1"),
        ((np.full_like(IMAGES, np.nan), LABELS), "NaN"),
        (IMAGES[0, 0, 0], "(3,)"),
        (["a", "b"], "str"),
        ([], "gives nothing"),
        ([IMAGES[:5], IMAGES[5:9, :2]], "(2, 5, 3)"),
        ([(IMAGES[:5], LABELS[:5]), IMAGES[5:]], "1 without"),
        (tf.data.Dataset.from_tensor_slices(IMAGES).batch(5).repeat(), "repeats for ever"),
        (np.array(["a"]), "<U1"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_what_is_no_data_is_refused_with_what_it_is(data: object, received: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_test(data)
    assert received in str(caught.value)


def test_words_and_objects_are_not_mixed() -> None:
    for data, validation in ((IMAGES, "digits"), ("digits", (PIXELS, LABELS))):
        with pytest.raises(UsageError, match="Validation data are given as the training data are"):
            open_data(data, validation)


# -- the range of values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "pixels", "expected"),
    [
        ((0, 255), False, (0, 255)),
        ((3, 201), False, (0, 255)),
        ((0, 1), False, (0, 1)),
        ((-0.98, 0.99), False, (-1, 1)),
        ((-2.1, 2.6), False, (-2.1, 2.6)),
        ((0, 16), False, (0, 16)),
        ((0, 16), True, (0, 255)),
        ((0, 1), True, (0, 1)),
        ((0.2, 0.3), False, (0, 0.3)),
        ((5, 9), False, (0, 9)),
        ((0, 0), False, (0, 1)),
    ],
)
def test_the_range_is_a_usual_one_where_the_values_fill_half_of_it(
    seen: tuple[float, float], pixels: bool, expected: tuple[float, float]
) -> None:
    assert value_range(given_range(seen, pixels=pixels)) == expected


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
@settings(deadline=None)
def test_a_range_holds_zero_and_all_values_and_survives_its_name(one: float, other: float) -> None:
    low, high = value_range(given_range((min(one, other), max(one, other))))
    assert low <= min(one, other, 0)
    assert high >= max(one, other, 0)
    assert low < high


def test_values_that_are_given_stay_bit_for_bit_what_they_are() -> None:
    name = given_range((-1.0, 1.0))
    assert is_given(name)
    np.testing.assert_array_equal(preprocess(IMAGES, name), IMAGES)
    np.testing.assert_array_equal(preprocess(PIXELS, given_range((0, 255))), PIXELS.astype(np.float32))
