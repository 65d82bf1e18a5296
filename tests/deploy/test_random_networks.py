"""Files of random networks give what the user's float model gives."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from scipy.special import softmax

from tfmpq.api.given import given_model
from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.runtime.interpreter import load
from tfmpq.graph.equivalence import noise
from tfmpq.graph.fusion import analyse
from tfmpq.models import load_model
from tfmpq.quantization.freeze import freeze, snap_biases
from tfmpq.quantization.fused_float import require_fused
from tfmpq.quantization.insertion import quantize_model
from tfmpq.tasks.fidelity import snr_db

from ..random_networks import SHAPE, random_network

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

IMAGES = np.random.default_rng(7).uniform(0, 1, (32, *SHAPE)).repeat(1, axis=0).astype("float32")
LEAST_DB = 12.0


def file_of(model: keras.Model) -> tuple[bytes, keras.Model]:
    """The file of a lowered network with 8 bits, and the quantized network."""
    network = analyse(model, input_signed=False)
    bits = {node.name: (8,) for node in network.weighted}
    quantized = quantize_model(
        model, network, bits, {name: (8,) for name in network.tensors}, IMAGES, (0.0, 1.0)
    )
    snap_biases(quantized, analyse(quantized, input_signed=False))
    return build_tflite(freeze(quantized, analyse(quantized, input_signed=False)), "litert"), quantized


def check(seed: int, folder: Path, wide: bool = False) -> None:
    model = random_network(seed, wide)
    # Without the functions of Lambda layers, as a model object is stored.
    word = given_model(model, folder).word
    loaded = load_model(word, input_shape=SHAPE, classes=5)
    network = analyse(loaded.model, input_signed=False)
    for images in (IMAGES[:4], noise(SHAPE)):
        require_fused(loaded.model, network, images)
    content, quantized = file_of(loaded.model)
    given = load(content).run(IMAGES)
    float_logits = np.asarray(loaded.model(IMAGES, training=False))
    wanted = np.asarray(model(IMAGES, training=False))
    np.testing.assert_allclose(
        softmax(float_logits, -1) if loaded.stripped_softmax else float_logits, wanted, rtol=1e-3, atol=1e-4
    )
    near = snr_db(float_logits, given)
    # Where rounding is amplified the file is as near as the quantized network, which is proved elsewhere.
    least = (
        LEAST_DB
        if near is None
        else min(LEAST_DB, (snr_db(float_logits, np.asarray(quantized(IMAGES))) or 0) - 1)
    )
    assert near is None or near >= least, f"seed {seed}: {near:.1f} dB"


@pytest.mark.parametrize("seed", range(16))
def test_files_of_random_networks_are_near_the_float_model(seed: int, tmp_path: Path) -> None:
    check(seed, tmp_path)


@pytest.mark.parametrize("seed", range(12))
def test_files_of_random_networks_with_operations_are_near_the_float_model(seed: int, tmp_path: Path) -> None:
    check(seed, tmp_path, wide=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1200))
def test_files_of_many_random_networks_with_operations_are_near(seed: int, tmp_path: Path) -> None:
    check(seed, tmp_path, wide=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 400))
def test_files_of_many_random_networks_are_near_the_float_model(seed: int, tmp_path: Path) -> None:
    check(seed, tmp_path)
