"""Random small networks of all layers that are supported, as a user could write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

SHAPE = (12, 12, 3)
ABSORBED = ("linear", "relu", "relu6")
FUNCTIONS = (*ABSORBED, "silu", "hard_silu", "sigmoid", "hard_sigmoid", "leaky_relu", "gelu")


class _Builder:
    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def pick(self, *choices: Any) -> Any:
        return choices[int(self.random.integers(len(choices)))]

    def activation(self) -> Any:
        """By name, as a function, or as a layer."""
        layer = self.pick(
            layers.ReLU(),
            layers.ReLU(6.0),
            layers.LeakyReLU(negative_slope=0.2),
            layers.PReLU(shared_axes=[1, 2], alpha_initializer=keras.initializers.Constant(0.25)),
        )
        return self.pick(self.pick(*FUNCTIONS), self.pick(ops.relu, ops.silu), layer)

    def block(self, x: Any) -> Any:
        """One layer, or a few that belong together, on an image."""
        side, channels = int(x.shape[1]), int(x.shape[3])
        chosen: Callable[[Any], Any] = self.pick(
            *(self.convolution,) * 4,
            self.depthwise,
            self.separable,
            self.transposed,
            self.dense,
            self.residual,
            self.gate,
            self.branches,
            self.norm,
            self.function,
            self.operators,
            *((self.pool, self.crop) if side > 4 else (self.pad, self.enlarge)),
        )
        return chosen(x) if channels <= 24 else layers.Conv2D(6, 1)(x)

    def convolution(self, x: Any) -> Any:
        filters, groups = int(self.random.integers(3, 9)), 1
        if x.shape[3] % 2 == 0 and self.pick(True, False, False):
            filters, groups = 2 * (filters // 2), 2
        strided = self.pick(True, False, False) and x.shape[1] > 4
        options = {"strides": 2} if strided else {"dilation_rate": self.pick(1, 1, 2)}
        size = int(self.random.integers(1, 4))
        x = layers.Conv2D(
            filters,
            size,
            padding="same",
            groups=groups,
            use_bias=self.pick(True, False),
            activation=self.pick(None, self.activation()),
            **options,
        )(x)
        return self.pick(x, self.norm(x))

    def depthwise(self, x: Any) -> Any:
        return layers.DepthwiseConv2D(
            3, padding="same", depth_multiplier=self.pick(1, 2), activation=self.activation()
        )(x)

    def separable(self, x: Any) -> Any:
        return layers.SeparableConv2D(5, 3, padding="same", activation=self.activation())(x)

    def transposed(self, x: Any) -> Any:
        return layers.Conv2DTranspose(4, 3, padding="same", activation=self.activation())(x)

    def dense(self, x: Any) -> Any:
        return layers.Dense(5, activation=self.activation())(x)

    def residual(self, x: Any) -> Any:
        y = layers.Conv2D(x.shape[3], 3, padding="same", activation=self.pick(None, "relu"))(x)
        z = layers.Conv2D(x.shape[3], 1)(x)
        return self.pick(
            layers.Add()([x, y]), x + y, layers.Add()([x, y, z]), layers.ReLU()(layers.Add()([y, x]))
        )

    def gate(self, x: Any) -> Any:
        pooled = layers.GlobalAveragePooling2D(keepdims=True)(x)
        scale = layers.Conv2D(x.shape[3], 1, activation=self.pick("sigmoid", "hard_sigmoid"))(pooled)
        return self.pick(layers.Multiply()([x, scale]), x * scale)

    def branches(self, x: Any) -> Any:
        parts = [layers.Conv2D(3, size, padding="same", activation="relu")(x) for size in (1, 3)]
        return layers.Concatenate()([*parts, layers.MaxPooling2D(3, 1, padding="same")(x)])

    def norm(self, x: Any) -> Any:
        return layers.BatchNormalization(scale=self.pick(True, False), center=self.pick(True, False))(x)

    def function(self, x: Any) -> Any:
        return self.pick(
            layers.Activation(self.activation())(x),
            layers.LeakyReLU(negative_slope=0.1)(x),
            layers.ReLU(negative_slope=0.3)(x),
            ops.gelu(x),
            layers.Dropout(0.3)(x),
            layers.SpatialDropout2D(0.3)(x),
        )

    def operators(self, x: Any) -> Any:
        return self.pick(x * 0.5, x + 1.0, (x - 0.5) / 2.0, layers.Rescaling(0.7, 0.1)(x))

    def pool(self, x: Any) -> Any:
        kind = self.pick(layers.MaxPooling2D, layers.AveragePooling2D)
        return kind(2, padding=self.pick("same", "valid"))(x)

    def crop(self, x: Any) -> Any:
        return layers.Cropping2D(((1, 0), (0, 1)))(x)

    def pad(self, x: Any) -> Any:
        return layers.ZeroPadding2D(((0, 1), (2, 0)))(x)

    def enlarge(self, x: Any) -> Any:
        return layers.UpSampling2D(2)(x)

    def head(self, x: Any) -> Any:
        pooled = self.pick(layers.GlobalAveragePooling2D(), layers.GlobalMaxPooling2D(), layers.Flatten())(x)
        if self.pick(True, False):
            pooled = layers.Dense(8, activation=self.activation_of_vectors())(pooled)
        return layers.Dense(5, activation=self.pick(None, "softmax"))(pooled)

    def activation_of_vectors(self) -> Any:
        return self.pick(self.pick(*FUNCTIONS), layers.ReLU(), layers.LeakyReLU(negative_slope=0.2))


class _WideBuilder(_Builder):
    """Operations of `keras.ops` as well, and layers that stand for several others."""

    def block(self, x: Any) -> Any:
        if self.pick(True, False):
            return super().block(x)
        chosen: Callable[[Any], Any] = self.pick(
            self.between, self.table, self.bound, self.arithmetic, self.order, self.parts, self.resize
        )
        return chosen(x)

    def same(self, x: Any) -> Any:
        return layers.Conv2D(x.shape[3], 3, padding="same", activation=self.pick(None, "relu"))(x)

    def between(self, x: Any) -> Any:
        y = self.same(x)
        kind = self.pick(layers.Maximum, layers.Minimum, layers.Average, layers.Subtract)
        return self.pick(kind()([x, y]), ops.maximum(x, y), x - y, layers.Average()([x, y, x]))

    def table(self, x: Any) -> Any:
        x = self.same(x)
        return self.pick(
            layers.Activation(self.pick("tanh", "elu", "selu"))(x), layers.ELU(0.7)(x), ops.tanh(x)
        )

    def bound(self, x: Any) -> Any:
        return self.pick(
            layers.ReLU(1.0)(x),
            ops.clip(x, -0.4, 0.8),
            ops.maximum(x, 0.1),
            ops.minimum(x, 0.9),
            layers.Activation("hard_tanh")(x),
        )

    def arithmetic(self, x: Any) -> Any:
        return self.pick(
            ops.absolute(x),
            ops.square(x) / 2.0,
            -x,
            layers.Normalization(axis=None, mean=0.2, variance=0.5)(x),
            layers.Lambda(lambda t: ops.relu(t * 2.0 - 0.5))(x),
        )

    def order(self, x: Any) -> Any:
        return self.pick(layers.Permute((2, 1, 3))(x), ops.transpose(x, (0, 2, 1, 3)), ops.swapaxes(x, 1, 2))

    def parts(self, x: Any) -> Any:
        half = x.shape[1] // 2
        if half < 2:
            return layers.ZeroPadding2D(1)(x)
        top, rest = x[:, :half], x[:, half:]
        return layers.Concatenate(axis=1)([self.same(rest), self.pick(top, ops.relu(top))])

    def resize(self, x: Any) -> Any:
        height, width = x.shape[1:3]
        if height > 6 and height % 2 == width % 2 == 0:
            kind = self.pick("nearest", "bilinear")
            return layers.Resizing(height // 2, width // 2, interpolation=kind)(x)
        if height > 8:
            return ops.mean(x, axis=1, keepdims=True) if width > 1 else x
        return layers.UpSampling2D(2, interpolation=self.pick("nearest", "bilinear"))(x)


def random_network(seed: int, wide: bool = False) -> keras.Model:
    """A network of 3 to 6 blocks with lively weights.

    Args:
        seed: Of the network and its weights.
        wide: Whether operations are among the blocks, and layers that stand for several others.
    """
    keras.utils.set_random_seed(seed)
    builder = _WideBuilder(seed) if wide else _Builder(seed)
    image = keras.Input(SHAPE, name="image")
    x = builder.convolution(builder.pick(image, layers.Rescaling(2.0, -1.0)(image)))
    for _ in range(int(builder.random.integers(2, 6))):
        x = builder.block(x)
    model = keras.Model(image, builder.head(x))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            for weight in layer.weights:
                low, high = {"beta": (-0.3, 0.3), "moving_mean": (-0.2, 0.2)}.get(weight.name, (0.5, 1.5))
                weight.assign(builder.random.uniform(low, high, weight.shape))
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(builder.random.normal(0, 0.1, layer.bias.shape))
    return model
