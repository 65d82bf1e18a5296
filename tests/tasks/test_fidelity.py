"""Fidelity to the float model: ratios by their definition, classes and scores side by side."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfmpq.tasks.fidelity import Reference, snr_db

GENERATOR = np.random.default_rng(0)
SIGNAL = GENERATOR.normal(size=(400, 6))


@given(st.floats(-40, 80), st.floats(1e-8, 1e8), st.floats(-100, 100))
def test_the_ratio_is_that_of_variances_whatever_the_unit_and_the_mean(
    db: float, unit: float, mean: float
) -> None:
    noise = GENERATOR.normal(size=SIGNAL.shape) * 10 ** (-db / 20)
    wanted = SIGNAL + mean
    found = snr_db(wanted * unit, (wanted + noise) * unit)
    assert found == pytest.approx(db, abs=0.6)


def test_equal_outputs_constant_outputs_and_single_images_have_a_meaning() -> None:
    assert snr_db(SIGNAL, SIGNAL) == 100
    assert snr_db(np.ones((4, 3)), np.zeros((4, 3))) is None
    assert snr_db(SIGNAL[:1], SIGNAL[:1] + 0.1) == pytest.approx(10 * np.log10(SIGNAL[0].var() / 0.01))
    assert snr_db(SIGNAL, SIGNAL * np.nan) == -100


def test_classes_and_scores_stand_side_by_side() -> None:
    logits = np.eye(4)[np.arange(8) % 4]
    labels = np.arange(8) % 4
    wrong = np.roll(logits, 1, axis=0)
    half = np.concatenate([logits[:4], wrong[4:]])
    maps = np.zeros((8, 5, 5, 1))
    reference = Reference("float model", maps, (logits, maps), labels, 4)
    found = reference.compare(["logits", "map"], [half, maps])
    assert [(o.agreement, o.float_top1, o.file_top1) for o in found.outputs] == [
        (0.5, 1.0, 0.5),
        (None, None, None),
    ]
    assert (found.images, found.reference) == (8, "float model")


def test_without_labels_classes_are_compared_and_nothing_is_scored() -> None:
    logits = np.eye(4)[np.arange(8) % 4]
    (found,) = Reference("float model", logits, (logits,)).compare(["logits"], [logits]).outputs
    assert (found.agreement, found.float_top1, found.file_top1, found.snr_db) == (1.0, None, None, 100)
