"""A float Keras model as a `.tflite`, by the TensorFlow converter."""

from __future__ import annotations

import tempfile
import warnings
from typing import TYPE_CHECKING

from tfmpq.deploy.runtime.quiet import quiet_stderr
from tfmpq.errors import TfmpqError

if TYPE_CHECKING:
    import keras


def convert_float(model: keras.Model) -> bytes:
    """A Keras model as the TensorFlow converter writes it, float32 with batch size 1.

    Raises:
        TfmpqError: The converter refuses it.
    """
    import tensorflow as tf

    signature = [tf.TensorSpec((1, *model.input_shape[1:]), tf.float32)]
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    module.call = tf.function(lambda image: model(image, training=False), input_signature=signature)
    try:
        # The converter turns variables into constants only when they come from a SavedModel.
        with quiet_stderr(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            tf.saved_model.save(module, folder, signatures=module.call.get_concrete_function())
            return tf.lite.TFLiteConverter.from_saved_model(folder).convert()
    except Exception as error:  # the converter raises whatever its passes raise
        reason = " ".join(str(error).split())[:300]
        raise TfmpqError(
            f"The TensorFlow converter has to accept the model. Received: {model.name}, refused with: "
            f"{reason}. Replace the layer that it names."
        ) from error
