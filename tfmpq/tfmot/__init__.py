"""Bridge to TensorFlow Model Optimization (TFMOT), which quantizes tf_keras (Keras 2) models.

    import tf_keras
    import tfmpq.tfmot as bridge

    annotated = tf_keras.models.clone_model(model, clone_function=annotate)  # quantize_annotate_layer
    searchable = bridge.quantize_apply(annotated, images)               # trains like any tf_keras model

    imported = bridge.from_tf_keras(annotated)                          # Keras 3: search, fine-tune, export
    quantized = bridge.run_to_tfmot("runs/digits")                      # a finished policy, in tf_keras
    quantized.save("digits.keras")

Importing it changes neither what `keras` nor what `tf.keras` is, before or after TFMOT. It needs the extra
`tfmpq[tfmot]` and Keras 3 on TensorFlow.
"""

from __future__ import annotations

from tfmpq.quantizers.config import MixedPrecisionQuantizeConfig
from tfmpq.tfmot.apply import AsAnnotated, fit_steps, quantize_apply
from tfmpq.tfmot.from_tf_keras import Imported, chosen_policy, from_tf_keras
from tfmpq.tfmot.to_tf_keras import load_model, run_to_tfmot, to_tf_keras, to_tfmot

__all__ = [
    "AsAnnotated",
    "Imported",
    "MixedPrecisionQuantizeConfig",
    "chosen_policy",
    "fit_steps",
    "from_tf_keras",
    "load_model",
    "quantize_apply",
    "run_to_tfmot",
    "to_tf_keras",
    "to_tfmot",
]
