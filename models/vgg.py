"""VGG-16 (arXiv 1409.1556, configuration D, no BatchNorm) with the layer names of keras.applications.

At 96 pixels and more it has the published head of two 4096-wide layers; below, two of 512.
"""

from __future__ import annotations

import keras
from keras import layers

from tfmpq.models.blocks import convolution, is_small, relu

_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """VGG-16: 138,357,544 parameters at 224x224 with 1000 classes, logits out."""
    inputs = keras.Input(input_shape, name="image")
    x = inputs
    for block, widths in enumerate(_WIDTHS, start=1):
        for index, width in enumerate(widths, start=1):
            x = convolution(x, width, 3, f"block{block}_conv{index}", use_bias=True)
            x = relu(x, f"block{block}_relu{index}")
        # The last poolings of inputs below 32 pixels would have nothing left to pool.
        if min(x.shape[1:3]) > 1:
            x = layers.MaxPooling2D(2, 2, name=f"block{block}_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    width = 512 if is_small(input_shape) else 4096
    for index in (1, 2):
        x = layers.Dense(width, kernel_initializer="he_normal", name=f"fc{index}")(x)
        x = relu(x, f"fc{index}_relu")
    return keras.Model(inputs, layers.Dense(classes, name="predictions")(x), name="vgg16")
