"""Six small networks of composite layers, as people write transformers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops


class Tokens(layers.Layer):
    """A class token before the patches, and an embedding of their positions."""

    def build(self, shape: Any) -> None:
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="random_normal")
        self.position = self.add_weight(shape=(1, shape[1] + 1, shape[2]), initializer="random_normal")

    def call(self, x: Any) -> Any:
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, ops.shape(x)[2]))
        return ops.concatenate([token, x], axis=1) + self.position

    def compute_output_shape(self, shape: Any) -> Any:
        return (shape[0], shape[1] + 1, shape[2])


class Mlp(layers.Layer):
    """Two dense layers whose names Keras numbers."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.expand = layers.Dense(2 * width, activation="gelu")
        self.drop = layers.Dropout(0.1)
        self.project = layers.Dense(width)

    def build(self, shape: Any) -> None:
        self.expand.build(shape)
        self.project.build((*shape[:-1], self.expand.units))

    def call(self, x: Any, training: Any = None) -> Any:
        return self.project(self.drop(self.expand(x), training=training))


class LayerScale(layers.Layer):
    """A factor for each channel."""

    def build(self, shape: Any) -> None:
        self.gamma = self.add_weight(shape=(shape[-1],), initializer="random_normal")

    def call(self, x: Any) -> Any:
        return x * self.gamma


class Block(layers.Layer):
    """A transformer block around some attention."""

    def __init__(self, attention: Any, width: int, scale: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]
        self.attention, self.mlp = attention, Mlp(width)
        self.scales = [LayerScale() if scale else layers.Identity() for _ in range(2)]

    def build(self, shape: Any) -> None:
        for part in (*self.norms, self.mlp, *self.scales):
            part.build(shape)
        several = isinstance(self.attention, layers.MultiHeadAttention)
        self.attention.build(*((shape, shape) if several else (shape,)))

    def call(self, x: Any, training: bool = False) -> Any:
        y = self.norms[0](x)
        y = (
            self.attention(y, y)
            if isinstance(self.attention, layers.MultiHeadAttention)
            else self.attention(y)
        )
        x = x + self.scales[0](y)
        return x + self.scales[1](self.mlp(self.norms[1](x), training=training))


class FusedAttention(layers.Layer):
    """Queries, keys and values of one dense layer, as timm has them; with rotary positions or a bias."""

    def __init__(self, heads: int, rotary: bool = False, bias: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads, self.rotary, self.bias = heads, rotary, bias

    def build(self, shape: Any) -> None:
        width = shape[-1]
        self.qkv, self.out = layers.Dense(3 * width), layers.Dense(width)
        self.qkv.build(shape)
        self.out.build(shape)
        if self.bias:
            self.relative = self.add_weight(shape=(1, self.heads, shape[1], shape[1]), initializer="normal")
        if self.rotary:
            size = width // self.heads
            angle = np.outer(np.arange(shape[1]), 0.5 ** np.arange(size // 2))
            self.cos, self.sin = (
                np.concatenate([f(angle)] * 2, -1).astype("float32") for f in (np.cos, np.sin)
            )

    def _turned(self, x: Any) -> Any:
        one, other = ops.split(x, 2, axis=-1)
        return x * self.cos + ops.concatenate([-other, one], axis=-1) * self.sin

    def call(self, x: Any) -> Any:
        batch, tokens, width = ops.shape(x)
        size = width // self.heads
        qkv = ops.reshape(self.qkv(x), (batch, tokens, 3, self.heads, size))
        q, k, v = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), axis=0)
        if self.rotary:
            q, k = self._turned(q), self._turned(k)
        scores = ops.matmul(q * size**-0.5, ops.swapaxes(k, -1, -2))
        if self.bias:
            scores = scores + self.relative
        mixed = ops.matmul(ops.softmax(scores, axis=-1), v)
        return self.out(ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (batch, tokens, width)))


class Windows(layers.Layer):
    """Attention within shifted windows, which take the place of images while it runs; with Swin's mask."""

    def __init__(self, side: int, window: int, shift: int, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.side, self.window, self.shift = side, window, shift
        self.inner = FusedAttention(heads, bias=True)

    def build(self, shape: Any) -> None:
        count, area = (self.side // self.window) ** 2, self.window**2
        self.inner.build((count, area, shape[-1]))
        self.regions = np.where(np.random.default_rng(0).random((count, area, 1)) < 0.3, 0.0, 1.0)

    def call(self, x: Any) -> Any:
        batch, _, width = ops.shape(x)
        count, window = self.side // self.window, self.window
        y = ops.roll(ops.reshape(x, (batch, self.side, self.side, width)), (-self.shift,) * 2, axis=(1, 2))
        y = ops.reshape(y, (batch, count, window, count, window, width))
        y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, window * window, width))
        y = ops.reshape(self.inner(y), (batch, count * count, window * window, width))
        y = y * self.regions.astype("float32")
        y = ops.reshape(y, (batch, count, count, window, window, width))
        y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (batch, self.side, self.side, width))
        y = ops.roll(y, (self.shift,) * 2, axis=(1, 2))
        return ops.reshape(y, (batch, self.side * self.side, width))


class NextBlock(layers.Layer):
    """A block of ConvNeXt."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.body = keras.Sequential(
            [
                layers.DepthwiseConv2D(3, padding="same"),
                layers.LayerNormalization(epsilon=1e-6),
                layers.Dense(4 * width, activation="gelu"),
                layers.Dense(width),
            ]
        )
        self.scale = LayerScale()

    def build(self, shape: Any) -> None:
        self.body.build(shape)
        self.scale.build(shape)

    def call(self, x: Any, training: Any = None) -> Any:
        return x + self.scale(self.body(x))


WIDTH, HEADS, SIDE = 24, 3, 4


def _tokens(image: Any) -> Any:
    x = layers.Conv2D(WIDTH, 4, 4, name="patch")(image)
    return layers.Reshape((SIDE * SIDE, WIDTH), name="tokens")(x)


def _end(x: Any) -> Any:
    x = layers.LayerNormalization(name="norm")(x)
    return layers.Dense(5, name="head")(layers.GlobalAveragePooling1D(name="mean")(x))


def vit(image: Any) -> Any:
    x = Tokens(name="embedding")(_tokens(image))
    for number in range(2):
        attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name="attention")
        x = Block(attention, WIDTH, name=f"block_{number}")(x)
    return layers.Dense(5, name="head")(layers.LayerNormalization(name="norm")(x)[:, 0])


def fused(image: Any) -> Any:
    return _end(Block(FusedAttention(HEADS), WIDTH, scale=True, name="block")(_tokens(image)))


def rotary(image: Any) -> Any:
    return _end(Block(FusedAttention(HEADS, rotary=True), WIDTH, name="block")(_tokens(image)))


def biased(image: Any) -> Any:
    return _end(Block(FusedAttention(HEADS, bias=True), WIDTH, name="block")(_tokens(image)))


def swin(image: Any) -> Any:
    x = _tokens(image)
    for number in range(2):
        x = Block(Windows(SIDE, 2, number, HEADS), WIDTH, name=f"block_{number}")(x)
    return _end(x)


def convnext(image: Any) -> Any:
    x = layers.LayerNormalization(epsilon=1e-6, name="stem_norm")(
        layers.Conv2D(WIDTH, 4, 4, name="stem")(image)
    )
    x = NextBlock(WIDTH, name="block")(x)
    x = layers.LayerNormalization(name="norm")(layers.GlobalAveragePooling2D(name="mean")(x))
    return layers.Dense(5, name="head")(x)


NETWORKS = {f.__name__: f for f in (vit, fused, rotary, biased, swin, convnext)}


def build(name: str) -> keras.Model:
    """A network of this name, with weights none of which is at its initial value."""
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3), name="image")
    model = keras.Model(image, NETWORKS[name](image), name=name)
    generator = np.random.default_rng(1)
    for weight in model.weights:
        if weight.path.endswith(("bias", "beta")):
            weight.assign(generator.normal(0, 0.1, weight.shape))
        if weight.path.endswith("gamma"):
            weight.assign(np.exp(generator.normal(0, 0.3, weight.shape)))
    return model


def lowered(name: str) -> keras.Model:
    """The same of layers that a file can hold."""
    from tfmpq.graph.lowering import lower

    return lower(build(name))
