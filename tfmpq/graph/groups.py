"""GroupNormalization as LayerNormalization: a group of an image is a row, and factors of channels follow."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from tfmpq.graph.replay import Replay
from tfmpq.graph.tensors import Constant


def group_normalization(replay: Replay, layer: Any, args: tuple[Any, ...]) -> Any:
    """The layers that stand for a GroupNormalization of images; None for one of another axis.

    Each step is exact: values are moved, and a row has the mean and the variance that the group has.
    """
    value, shape = args[0], tuple(args[0].shape[1:])
    if len(shape) != 3 or layer.axis not in (-1, 3):
        return None
    height, width, channels = shape
    groups = channels if layer.groups == -1 else layer.groups
    pixels, inside = height * width, channels // groups

    def moved(kind: Any, part: str, x: Any, **config: Any) -> Any:
        return replay.call(kind, replay.part(f"{layer.name}_{part}"), x, **config)

    value = moved(layers.Reshape, "pixels", value, target_shape=(pixels, groups, inside))
    value = moved(layers.Permute, "groups", value, dims=(2, 1, 3))
    value = moved(layers.Reshape, "rows", value, target_shape=(1, groups, pixels * inside))
    value = replay.call(
        layers.LayerNormalization, layer.name, value, epsilon=layer.epsilon, center=False, scale=False
    )
    value = moved(layers.Reshape, "normalized", value, target_shape=(groups, pixels, inside))
    value = moved(layers.Permute, "channels", value, dims=(2, 1, 3))
    value = moved(layers.Reshape, "image", value, target_shape=shape)
    for part, kind, weight in (
        ("scale", layers.Multiply, layer.gamma if layer.scale else None),
        ("center", layers.Add, layer.beta if layer.center else None),
    ):
        if weight is not None:
            name = replay.part(f"{layer.name}_{part}")
            constant = replay.call(
                Constant, name, value, [np.asarray(weight).reshape(1, 1, -1)], shape=(1, 1, channels)
            )
            value = moved(kind, f"{part}d", [value, constant])
    return value
