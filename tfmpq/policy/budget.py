"""Budgets that a user asks for: parsing, and whether they can be met at all.

`size` is in bytes of the storage form, `kernel-size` in bytes of its packed kernels alone, `bops` in bit
operations for one image (SAQ's convention), `weight-bits` in mean trained bits of a weight, `latency` in
milliseconds, as a latency table predicts them. kB and MB are decimal (1000, 1000000), KiB and MiB binary.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import partial

from tfmpq.errors import UsageError
from tfmpq.policy.cost import REFERENCE_BITS, CostKey, CostModel

DEFAULT_BUDGETS = ("size=0.5x",)

_RELATIVE = "x"
_BYTES: dict[str, int | Fraction] = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_UNITS: dict[CostKey, dict[str, int | Fraction]] = {
    "size": _BYTES,
    "kernel-size": _BYTES,
    "bops": {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12},
    "weight-bits": {"": 1},
    "latency": {"us": Fraction(1, 1000), "ms": 1, "s": 1000},
}
_EXAMPLES: dict[CostKey, str] = {
    "size": "1.2MB",
    "kernel-size": "1.2MB",
    "bops": "3.2G",
    "weight-bits": "4.0",
    "latency": "2.5ms",
}
_FORM = re.compile(
    r"(?P<key>[^=\s]+)\s*=\s*(?P<number>\d{1,18}(?:\.\d{1,18})?|\.\d{1,18})\s*(?P<unit>[A-Za-z]*)"
)


@dataclass(frozen=True, slots=True)
class Budget:
    """An upper limit of one cost.

    Attributes:
        key: Which cost.
        limit: Largest allowed value, in bytes, bit operations, bits or milliseconds.
        text: The budget as it was asked for, such as `size=0.5x`.
    """

    key: CostKey
    limit: float
    text: str


def parse_budgets(texts: Sequence[str], model: CostModel) -> tuple[Budget, ...]:
    """Reads budgets of the form KEY=VALUE.

    Args:
        texts: For example `size=1.2MB`, `kernel-size=1MB`, `bops=3.2G`, `weight-bits=4.0`, or `size=0.5x`
            for half of what the uniform 8-bit network has. `size=0.5x` if empty.
        model: The network that relative budgets refer to.

    Raises:
        UsageError: Unknown key or unit, no positive number, a key that is given twice, or a latency without a
            table.
    """
    budgets = tuple(_parse(text, model) for text in texts or DEFAULT_BUDGETS)
    seen: dict[CostKey, str] = {}
    for budget in budgets:
        if budget.key in seen:
            raise UsageError(
                f"Each key has one budget. Received: {seen[budget.key]} and {budget.text}. Keep one of them."
            )
        seen[budget.key] = budget.text
    return budgets


def exceeded(
    budgets: Sequence[Budget],
    model: CostModel,
    weight_bits: Mapping[str, int],
    activation_bits: Mapping[str, int],
) -> tuple[Budget, ...]:
    """The budgets that an assignment does not meet."""
    return tuple(b for b in budgets if model.value(b.key, weight_bits, activation_bits) > b.limit)


def check_each_feasible(
    budgets: Sequence[Budget],
    model: CostModel,
    weight_candidates: Mapping[str, Sequence[int]],
    activation_candidates: Mapping[str, Sequence[int]],
) -> None:
    """Makes sure that some assignment meets each of the budgets.

    No cost but latency falls when bits rise, and size where the form of the file is given; otherwise the
    smallest bits everywhere meet all other budgets together.
    Whether there is one that meets a latency besides, `tfmpq.policy.allocation.check_feasible_together`
    finds out.

    Raises:
        UsageError: A budget is below what the smallest candidates cost; the message says how low it may be.
    """
    smallest = {}
    for budget in budgets:
        least = _smallest(budget.key, model, weight_candidates, activation_candidates)
        if least > budget.limit:
            smallest[budget.text] = smallest_text(budget, model, least)
    if smallest:
        raise UsageError(
            "A budget must be within reach of the candidate bits. "
            f"Received: {', '.join(smallest)}. "
            f"The smallest that can be met: {', '.join(smallest.values())}; "
            "ask for no less, or allow other bit-widths."
        )


def _smallest(
    key: CostKey,
    model: CostModel,
    weight_candidates: Mapping[str, Sequence[int]],
    activation_candidates: Mapping[str, Sequence[int]],
) -> float:
    """The least cost of any assignment."""
    weight_bits = {layer.name: min(weight_candidates[layer.name]) for layer in model.layers}
    if key == "size":  # in a given form, fewer bits can take more bytes
        weight_bits = {
            layer.name: min(weight_candidates[layer.name], key=layer.stored_bytes) for layer in model.layers
        }
    activation_bits = {name: min(activation_candidates[name]) for name in model.tensors}
    if key == "latency":
        times = model.times()
        weight_bits = {
            name: min(weight_candidates[name], key=partial(times.of_layer, name)) for name in weight_bits
        }
        activation_bits = {
            name: min(widths, key=partial(times.of_tensor, name))
            for name, widths in activation_candidates.items()
        }
    return model.value(key, weight_bits, activation_bits)


def _parse(text: str, model: CostModel) -> Budget:
    key, number, unit = _split(text)
    if key == "latency":
        model.times()
    factor = _factor(key, unit, model)
    if factor is None:
        units = ", ".join(filter(None, (*_UNITS[key], _RELATIVE)))
        raise UsageError(
            f"A {key} budget is a number with one of the units {units}"
            f"{'' if '' not in _UNITS[key] else ' or with none'}. Received: {text!r}. "
            f"Write for example {key}={_EXAMPLES[key]} or {key}=0.5x."
        )
    limit = float(number * factor)
    if limit <= 0:
        raise UsageError(f"A budget is above zero. Received: {text!r}. Write for example {key}=0.5x.")
    return Budget(key, limit, text.strip())


def _split(text: str) -> tuple[CostKey, Fraction, str]:
    match = _FORM.fullmatch(text.strip())
    key = next((k for k in _UNITS if match and match["key"] == k), None)
    if match is None or key is None:
        raise UsageError(
            f"A budget is KEY=VALUE with KEY one of {', '.join(_UNITS)} and VALUE a positive number with "
            f"its unit. Received: {text!r}. "
            "Write for example size=350kB, bops=3.2G, weight-bits=4.0 or size=0.5x."
        )
    return key, Fraction(match["number"]), match["unit"]


def _factor(key: CostKey, unit: str, model: CostModel) -> Fraction | None:
    """What a number in this unit is multiplied by, None for a unit that the key does not have."""
    if unit.lower() == _RELATIVE:
        return Fraction(model.reference(key))
    folded = {name.lower(): factor for name, factor in _UNITS[key].items()}
    return Fraction(folded[unit.lower()]) if unit.lower() in folded else None


def smallest_text(budget: Budget, model: CostModel, smallest: float) -> str:
    """The lowest budget that can be met, in the user's unit, rounded up so that it can be typed."""
    key, _, unit = _split(budget.text)
    factor = _factor(key, unit, model) or Fraction(1)
    quotient = Fraction(smallest) / factor
    step = Fraction(10) ** (math.floor(math.log10(quotient)) - 3)
    rounded = math.ceil(quotient / step) * step
    # Exact: the denominator of `rounded` is a power of ten.
    number = Decimal(rounded.numerator) / Decimal(rounded.denominator)
    suffix = f" (of {REFERENCE_BITS}-bit)" if unit.lower() == _RELATIVE else ""
    return f"{key}={number.normalize():f}{unit}{suffix}"
