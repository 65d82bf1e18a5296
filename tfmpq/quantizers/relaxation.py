"""How logits over candidate bit-widths become weights of a mixture: the relaxations of a discrete choice.

`softmax` mixes all candidates (EdMIPS, GMPQ). `fractional` has one real-valued width and mixes the two
candidates next to it, in proportion to how near they are (FracBits, arXiv 2007.02017, AAAI 2021). The width
is the mean of the candidates under the softmax, so that it cannot leave their range and a choice has the same
variables either way. The paper learns the width itself; here its slope vanishes towards the first and the
last candidate, as that of a softmax does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from keras import ops
from scipy.special import softmax

Relaxation = Literal["softmax", "fractional"]


def probabilities(logits: Any, bits: Sequence[int], relaxation: Relaxation) -> Any:
    """Weights of the candidates in the mixture; they sum to 1.

    Args:
        logits: (candidates,) tensor, floating.
        bits: Candidate widths, ascending.
        relaxation: Which rule.

    Returns:
        (candidates,) tensor of the dtype of `logits`.
    """
    mixed = ops.softmax(logits)
    if relaxation == "softmax":
        return mixed
    return next_to(ops.sum(mixed * ops.convert_to_tensor(bits, dtype=mixed.dtype)), bits)


def next_to(width: Any, bits: Sequence[int]) -> Any:
    """Linear interpolation between the two candidates that enclose a width.

    Args:
        width: Scalar tensor, between the first and the last candidate.
        bits: Candidate widths, ascending.

    Returns:
        (candidates,) tensor. Where the width is a candidate, its weight is 1 and the slope that towards the
        next wider one (of the last candidate, that from the one before): a slope of zero would hold it there.
    """
    knots, gaps = (ops.convert_to_tensor(v, dtype=width.dtype) for v in (bits, np.diff(bits)))
    below = ops.sum(ops.cast(ops.stop_gradient(width) >= knots, "int32")) - 1
    below = ops.clip(below, 0, len(bits) - 2)
    share = (width - ops.take(knots, below)) / ops.take(gaps, below)
    lower, upper = (ops.one_hot(below + i, len(bits), dtype=width.dtype) for i in (0, 1))
    return lower * (1.0 - share) + upper * share


def scores(logits: np.ndarray, bits: Sequence[int], relaxation: Relaxation) -> np.ndarray:
    """What a discrete choice is made by, on the scale of logits.

    Args:
        logits: (candidates,).
        bits: Candidate widths.
        relaxation: How the logits were trained.

    Returns:
        (candidates,): the logits of a softmax; of a fractional width, minus the squared distance to it, so
        that the largest sum is the nearest assignment.
    """
    if relaxation == "softmax":
        return logits
    widths = np.asarray(bits, np.float64)
    return -np.square(widths - softmax(logits.astype(np.float64)) @ widths)
