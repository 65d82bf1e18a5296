"""Whatever is imported first, `keras` and `tf.keras` are what they would be without the bridge."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

_CHECK = """
import os
assert keras.__version__.startswith("3."), keras.__version__
assert os.environ.get("TF_USE_LEGACY_KERAS") == {switch!r}
import tensorflow as tf
assert tf.keras.Model.__module__.startswith({home!r}), tf.keras.Model.__module__
import tf_keras, tensorflow_model_optimization as tfmot
from tfmpq.tfmot import MixedPrecisionQuantizeConfig, quantize_apply
layer = tfmot.quantization.keras.quantize_annotate_layer(
    tf_keras.layers.Dense(2), MixedPrecisionQuantizeConfig((2, 4)))
model = quantize_apply(tf_keras.Sequential([tf_keras.Input((4,)), layer]))
assert model.output_shape == (None, 2)
assert keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).output_shape == (None, 2)
"""


@pytest.mark.parametrize(
    ("imports", "switch", "home"),
    [
        ("import keras, tfmpq.tfmot", None, "keras."),
        ("import tfmpq.tfmot, keras", None, "keras."),
        # Who imports TFMOT first gets what TFMOT makes of `tf.keras`.
        ("import tensorflow_model_optimization, tfmpq.tfmot, keras", "1", "tf_keras."),
    ],
)
def test_order_of_imports(imports: str, switch: str | None, home: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TF_USE_LEGACY_KERAS"}
    code = imports + _CHECK.format(switch=switch, home=home)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_another_backend_is_refused(bridge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tfmpq.errors import TfmpqError
    from tfmpq.tfmot.packages import _import

    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    with pytest.raises(TfmpqError, match="Set KERAS_BACKEND=tensorflow"):
        _import()
