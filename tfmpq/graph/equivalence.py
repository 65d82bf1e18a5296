"""The link between a user's model and the network that is deployed: both compute the same in floating point.

Everything later is compared with the lowered network, so that what lowering dropped or misread would be
"proved". Here it is held against the model that the user gave, before any quantization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import keras
import numpy as np
from keras import ops
from scipy.special import softmax

from tfmpq.errors import TfmpqError
from tfmpq.graph.lowering import lower
from tfmpq.keras_internals import calls_in_order, functional_of, holds_graph

IMAGES = 4
"""Inputs of noise, one of each scale."""

_UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
_SAFETY = 16.0
_NUDGE = 2.0**-20


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one output of the lowered network is from the user's.

    Attributes:
        output: Position of the output.
        relative: Norm of the difference over the norm of the output, largest over the images.
        allowed: What rounding explains.
    """

    output: int
    relative: float
    allowed: float


def lowered(
    model: keras.Model,
    source: keras.Model | None,
    stripped: Sequence[bool],
    note: Callable[[str], None] = lambda line: None,
) -> keras.Model:
    """Rewrite a model to layers that can be deployed, and hold it against the user's.

    Args:
        model: The user's model without the softmax that it ends in.
        source: The user's model itself; None if there is none to be held against.
        stripped: For each output, whether a final softmax was left out.
        note: Hears which layers got another name, one line each.

    Raises:
        TfmpqError: They do not compute the same.
    """
    made = lower(model, note)
    if source is not None:
        require_same(source, made, stripped)
    return made


def require_same(
    source: keras.Model,
    network: keras.Model,
    stripped: Sequence[bool],
    images: np.ndarray | None = None,
) -> tuple[Difference, ...]:
    """Hold a lowered network against the model that it was made of.

    Sums of n products in an order of their own differ by about sqrt(n) unit roundoffs u (Higham and Mary,
    doi 10.1137/18M1226312, theorem 2.4), and errors of layers that follow each other add up as independent
    ones: sqrt(sum of n) u, times a safety of 16. Networks that amplify rounding more than that, for instance
    by a BatchNorm of tiny variance, are held to four times the change that inputs show which differ by
    2^-20, 16 roundoffs of float32.

    Args:
        source: The user's model.
        network: The lowered one. Where the source takes sequences, it takes images one pixel high.
        stripped: For each output, whether a final softmax was left out.
        images: Inputs of the lowered network; None for noise.

    Returns:
        The difference of each output.

    Raises:
        TfmpqError: They do not compute the same.
    """
    (given,) = network.inputs
    shape = tuple(int(size) for size in given.shape[1:])
    images = noise(shape) if images is None else np.asarray(images, np.float32)
    got = _outputs(network, images)
    for index, softened in enumerate(stripped):
        if softened:
            got[index] = softmax(got[index], axis=-1)
    return require_equal(source, images, got)


def require_equal(
    source: keras.Model, images: np.ndarray, got: Sequence[np.ndarray]
) -> tuple[Difference, ...]:
    """Hold numbers against the outputs of a model, with the bounds of `require_same`.

    Args:
        source: The model.
        images: Inputs, float32 (N, ...), of the shape that the model takes but for axes of length one.
        got: What was computed otherwise, an array (N, ...) for each output.

    Raises:
        TfmpqError: They differ by more than rounding explains.
    """
    wanted = _outputs(source, images)
    rounding = _SAFETY * unit_roundoff(source) * sqrt(summed_terms(source))
    nudged: list[np.ndarray] = []
    found = []
    for index, (expected, other) in enumerate(zip(wanted, got, strict=True)):
        relative, allowed = _relative(expected, other.reshape(expected.shape)), rounding
        if not relative <= allowed:
            nudged = nudged or _outputs(source, _nudged(images))
            allowed = max(rounding, 4 * _relative(expected, nudged[index]))
        found.append(Difference(index, relative, allowed))
        if not relative <= allowed:
            raise TfmpqError(
                "The network that is deployed has to compute what the model computes. Received: "
                f"'{source.name}', whose output {index + 1} of {len(wanted)} comes out with a relative "
                f"difference of {relative:.1e}, where rounding explains {allowed:.1e}. No file is written; "
                "please report the model."
            )
    return tuple(found)


def noise(shape: tuple[int, ...]) -> np.ndarray:
    """Inputs of noise: pixels of 0 to 255 and of 0 to 1, values around 0, and large ones; the same always."""
    generator = np.random.default_rng(0)
    return np.stack(
        [
            generator.uniform(0, 255, shape),
            generator.uniform(0, 1, shape),
            generator.normal(0, 1, shape),
            generator.normal(0, 8, shape),
        ]
    ).astype(np.float32)


def unit_roundoff(model: Any) -> float:
    """Of the coarsest arithmetic that a layer of a model computes in."""
    return (
        max(
            (_UNIT_ROUNDOFF.get(layer.compute_dtype, 0.0) for layer in _layers(model)),
            default=_UNIT_ROUNDOFF["float32"],
        )
        or _UNIT_ROUNDOFF["float32"]
    )


def summed_terms(model: Any) -> int:
    """Terms that are added up one after the other on the way through a model, all layers together."""
    total = 1
    for layer in _layers(model):
        kernel = getattr(layer, "kernel", None)
        total += 1 if kernel is None else max(1, prod(kernel.shape[:-1]))
    return total


def _layers(model: Any) -> Iterator[Any]:
    for node in calls_in_order(functional_of(model)):
        if holds_graph(node.operation):
            yield from _layers(node.operation)
        elif isinstance(node.operation, keras.layers.Layer):
            yield node.operation


def _outputs(model: keras.Model, images: np.ndarray) -> list[np.ndarray]:
    """All outputs, float64 (N, ...) each."""
    (source,) = model.inputs
    shaped = images.reshape(len(images), *source.shape[1:])
    answers = []
    # A model with a fixed batch gets the images in such parts; they repeat where the last one is not full.
    size = source.shape[0] or len(shaped)
    shaped = shaped[np.arange(-(-len(shaped) // size) * size) % len(shaped)]
    for begin in range(0, len(shaped), size):
        tensor = ops.cast(ops.convert_to_tensor(shaped[begin : begin + size]), source.dtype)
        found = model([tensor] if isinstance(model.input, (list, tuple)) else tensor, training=False)
        answers.append([ops.convert_to_numpy(ops.cast(x, "float32")) for x in keras.tree.flatten(found)])
    joined = [np.concatenate(parts) for parts in zip(*answers, strict=True)]
    return [array[: len(images)].astype(np.float64) for array in joined]


def _nudged(images: np.ndarray) -> np.ndarray:
    """Images whose values are 2^-20 larger or smaller, relative to themselves."""
    signs = np.random.default_rng(1).choice([-1.0, 1.0], images.shape)
    return images * (1 + _NUDGE * signs).astype(np.float32)


def _relative(wanted: np.ndarray, given: np.ndarray) -> float:
    """Largest relative difference of an image; where the wanted output is not finite, nothing is told."""
    told = np.isfinite(wanted.reshape(len(wanted), -1)).all(axis=1)
    flat, other = (x.reshape(len(x), -1)[told] for x in (wanted, given))
    gaps, sizes = np.linalg.norm(other - flat, axis=1), np.linalg.norm(flat, axis=1)
    if not gaps.size or not gaps.any():
        return 0.0
    # An output that happens to be zero is told by the others' size.
    floor = max(1e-6 * float(sizes.max()), float(np.finfo(float).tiny))
    return float(np.max(gaps / np.maximum(sizes, floor)))
