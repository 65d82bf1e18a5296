"""Vision transformers (arXiv 2010.11929, 2012.12877) and ConvNeXt (arXiv 2201.03545), logits out.

Layers have the names of timm's parameters with underscores in the place of dots; Keras' attention has
queries, keys and values in layers of their own.
"""

from __future__ import annotations

import keras
from keras import layers

from tfmpq.errors import UsageError
from tfmpq.graph.tensors import Constant

_EPSILON = 1e-6


def vit_tiny(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """ViT-Ti/16: 5,717,416 parameters with 224 pixels and 1000 classes."""
    return _transformer(input_shape, classes, "vit_tiny", patch=16, width=192, depth=12, heads=3)


def deit_tiny(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """DeiT-Ti/16, without distillation token: 5,717,416 parameters with 224 pixels and 1000 classes."""
    return _transformer(input_shape, classes, "deit_tiny", patch=16, width=192, depth=12, heads=3)


def vit_s16(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """ViT-S/16: 22,050,664 parameters with 224 pixels and 1000 classes."""
    return _transformer(input_shape, classes, "vit_s16", patch=16, width=384, depth=12, heads=6)


def vit_b16(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """ViT-B/16: 86,567,656 parameters with 224 pixels and 1000 classes."""
    return _transformer(input_shape, classes, "vit_b16", patch=16, width=768, depth=12, heads=12)


def vit_cifar(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """A small one for images of 32 pixels: 64 patches, 906,922 parameters with 10 classes."""
    return _transformer(input_shape, classes, "vit_cifar", patch=4, width=96, depth=8, heads=3)


def convnext_tiny(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """ConvNeXt-T of keras.applications: 28,589,128 parameters with 1000 classes."""
    made = keras.applications.ConvNeXtTiny(
        include_preprocessing=False,
        weights=None,
        input_shape=input_shape,
        classes=classes,
        classifier_activation=None,
        name="convnext_tiny",
    )
    image = keras.Input(input_shape, name="image")
    outputs = made(image)  # the input gets the name that all networks here give it
    return keras.Model(image, outputs, name="convnext_tiny")


def _transformer(
    input_shape: tuple[int, int, int],
    classes: int,
    name: str,
    *,
    patch: int,
    width: int,
    depth: int,
    heads: int,
) -> keras.Model:
    if input_shape[0] % patch or input_shape[1] % patch:
        raise UsageError(
            f"The sides of an image of {name} are multiples of {patch} pixels. Received: {input_shape[0]} x "
            f"{input_shape[1]}. Choose other data, or another network."
        )
    image = keras.Input(input_shape, name="image")
    x = layers.Conv2D(width, patch, patch, name="patch_embed")(image)
    tokens = (input_shape[0] // patch) * (input_shape[1] // patch)
    x = layers.Reshape((tokens, width), name="tokens")(x)
    x = layers.Concatenate(axis=1, name="with_token")([Constant((1, width), name="cls_token")(x), x])
    x = layers.Add(name="embedded")([x, Constant((tokens + 1, width), name="pos_embed")(x)])
    for number in range(depth):
        block = f"blocks_{number}"
        y = layers.LayerNormalization(epsilon=_EPSILON, name=f"{block}_norm1")(x)
        y = layers.MultiHeadAttention(heads, width // heads, name=f"{block}_attn")(y, y)
        x = layers.Add(name=f"{block}_add1")([x, y])
        y = layers.LayerNormalization(epsilon=_EPSILON, name=f"{block}_norm2")(x)
        y = layers.Dense(4 * width, activation="gelu", name=f"{block}_mlp_fc1")(y)
        y = layers.Dense(width, name=f"{block}_mlp_fc2")(y)
        x = layers.Add(name=f"{block}_add2")([x, y])
    x = layers.LayerNormalization(epsilon=_EPSILON, name="norm")(x)
    return keras.Model(image, layers.Dense(classes, name="head")(x[:, 0]), name=name)
