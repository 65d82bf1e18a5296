"""The policy: bit-widths by layer name, in a YAML file that a person can read and edit.

It is the product of a search. It depends neither on the number of classes nor on the input size, so it
loads into another head and another resolution of the same topology. Only `format`, `model` and `layers` are
required; the rest is provenance.
"""

from __future__ import annotations

import difflib
import math
import os
import reprlib
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationError,
    model_serializer,
)
from pydantic_core import ErrorDetails

from tfmpq.errors import UsageError
from tfmpq.files import write_text
from tfmpq.graph.containers import WEIGHT_BITS
from tfmpq.graph.dynamic import DYNAMIC
from tfmpq.graph.frozen import WIDE
from tfmpq.policy.cost import REFERENCE_BITS, CostKey
from tfmpq.policy.policy_text import read_policy_text

FORMAT = "tfmpq-policy/1"

_HEADER = """\
# Bit-widths of one network, by layer name. This file can be edited by hand:
# - `layers` holds the weight bits of every layer that has weights, 2 to 8;
# - `activations` holds the bits of activation tensors, 2 to 8; a tensor that is not listed has 8.
#   `activations: 16`, without names, gives 16 to all of them but the image (only for --target litert);
#   `activations: dynamic` leaves them float, and kernels quantize what they read to 8 bits (litert too);
# - everything else says where the numbers come from, and can be left out.
"""

_RULES = {
    "missing": "is required",
    "extra_forbidden": "is no field of the format",
    "model_type": "must be a mapping of its fields",
    "dict_type": "must be a mapping of names",
    "too_short": "must not be empty",
}


_BY_NAME, _ONE_SIZE, _WORD = "[by name]", "[one size]", "[word]"
_NO_FIELDS = ("[key]", _BY_NAME, _ONE_SIZE, _WORD)
"""What pydantic puts between the fields of a location."""


def _bits(value: Any) -> int:
    if type(value) is not int or value not in WEIGHT_BITS:
        raise ValueError(f"must be a whole number from {WEIGHT_BITS[0]} to {WEIGHT_BITS[-1]}")
    return value


def _number(value: Any) -> int | float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def _one_size(value: Any) -> int:
    if type(value) is not int or value != WIDE:
        raise ValueError(f"must be {WIDE}, {DYNAMIC}, or a mapping of names")
    return value


def _word(value: Any) -> str:
    if value != DYNAMIC:
        raise ValueError(f"must be {WIDE}, {DYNAMIC}, or a mapping of names")
    return str(value)


def _form_of_activations(value: Any) -> str:
    return _ONE_SIZE if type(value) in (int, float) else _WORD if isinstance(value, str) else _BY_NAME


Bits = Annotated[int, BeforeValidator(_bits)]
Number = Annotated[int | float, BeforeValidator(_number)]
_ByName = Annotated[dict[str, Bits], Tag(_BY_NAME)]
_OneSize = Annotated[Literal[16], BeforeValidator(_one_size), Tag(_ONE_SIZE)]
_Word = Annotated[Literal["dynamic"], BeforeValidator(_word), Tag(_WORD)]
Activations = Annotated[_ByName | _OneSize | _Word, Discriminator(_form_of_activations)]
"""Bits by tensor; or 16 for all, whose codes have one size, so that no file can ask for both; or `dynamic`
for float activations that kernels quantize."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class LayerChoice(_Record):
    """What was chosen for one layer."""

    weight_bits: Bits


class BudgetRecord(_Record):
    """A budget of the search: as asked for, as an absolute limit, and what the policy reaches."""

    key: CostKey
    asked: str
    limit: FiniteFloat
    reached: FiniteFloat


class SearchSpace(_Record):
    """The bit-widths that the search chose from, and `LAYER=BITS` as it was given beforehand."""

    weight_bits: list[Bits]
    activation_bits: list[Bits]
    pin: list[str] = []
    at_least: list[str] = []

    @model_serializer(mode="wrap")
    def _without_what_nobody_asked_for(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As earlier versions wrote it, so that their run folders resume."""
        return {name: value for name, value in whole(self).items() if value or name.endswith("_bits")}


class Policy(_Record):
    """Bit-widths of a network, with their provenance.

    Attributes:
        format: Version of the file format.
        model: Name of the network that the policy was found on.
        layers: Choice by layer name, in graph order.
        activations: Bits by name of the activation tensor; a tensor that is not listed has 8. Or 16, for all
            tensors but the image. Or `dynamic`: floats, which kernels quantize to 8 bits.
        budget: The budgets that were met.
        search_space: What the search chose from.
        method: Search method.
        proxy: Data set of the search.
        seed: Random seed of the search.
        versions: Version by package name.
        created: Day of the search.
        results: Measured numbers by name.
    """

    format: Literal["tfmpq-policy/1"]
    model: str
    layers: Annotated[dict[str, LayerChoice], Field(min_length=1)]
    activations: Activations = {}
    budget: list[BudgetRecord] = []
    search_space: SearchSpace | None = None
    method: str | None = None
    proxy: str | None = None
    seed: int | None = None
    versions: dict[str, str] = {}
    created: date | None = None
    results: dict[str, Number] = {}

    @property
    def weight_bits(self) -> dict[str, int]:
        """Weight bits by layer name."""
        return {name: choice.weight_bits for name, choice in self.layers.items()}

    @property
    def wide(self) -> bool:
        """Whether activations have 16 bits."""
        return self.activations == WIDE

    @property
    def dynamic(self) -> bool:
        """Whether activations are float, quantized where a kernel reads them."""
        return self.activations == DYNAMIC

    def activation_bits(self, tensor_names: Iterable[str]) -> dict[str, int]:
        """Bits by activation tensor.

        Args:
            tensor_names: Names of a network's activation tensors, the image's first. It has 8 bits where the
                others have 16.
        """
        names = list(tensor_names)
        if isinstance(self.activations, int):
            return dict.fromkeys(names, self.activations) | dict.fromkeys(names[:1], REFERENCE_BITS)
        if isinstance(self.activations, str):  # what kernels read of them has 8 bits
            return dict.fromkeys(names, REFERENCE_BITS)
        return {name: self.activations.get(name, REFERENCE_BITS) for name in names}

    def check_against(self, layer_names: Iterable[str], tensor_names: Iterable[str]) -> None:
        """Makes sure that the policy fits a network.

        Args:
            layer_names: Names of the network's layers with weights; the policy must list each.
            tensor_names: Names of its activation tensors; the policy may list them.

        Raises:
            UsageError: The policy has names that the network does not have, or lacks some.
        """
        layers, tensors = list(layer_names), list(tensor_names)
        unknown = [
            *_unknown("layer", self.layers, layers),
            *_unknown(
                "activation", () if isinstance(self.activations, int | str) else self.activations, tensors
            ),
        ]
        missing = [f"layer {name}" for name in layers if name not in self.layers]
        if unknown or missing:
            parts = [f"not in the network: {_listed(unknown)}"] if unknown else []
            parts += [f"not in the policy: {_listed(missing)}"] if missing else []
            raise UsageError(
                "A policy lists the layers of the network that it is used for. "
                f"Received: {'; '.join(parts)}. "
                f"Correct the names, or use the network of the policy ({self.model})."
            )


def uniform_policy(
    model: str,
    layer_names: Iterable[str],
    bits: int,
    activations: Activations | None = None,
    others: Mapping[str, int] | None = None,
) -> Policy:
    """The policy that gives every layer the same weight bits, and activations 8 bits if none are given.

    Args:
        model: Network name.
        layer_names: Layers in graph order.
        bits: Weight bits of all layers but the `others`.
        activations: Bits of activation tensors.
        others: Weight bits of layers that have their own.
    """
    own = others or {}
    layers = {name: LayerChoice(weight_bits=own.get(name, bits)) for name in layer_names}
    return Policy(
        format="tfmpq-policy/1", model=model, layers=layers, activations=activations or {}, method="uniform"
    )


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """Reads and checks a policy file; nothing in it is executed.

    Raises:
        UsageError: The file is missing, too large, no YAML, or breaks a rule of the format; the message names
            the file, the field and what it holds.
    """
    path = Path(path)
    content = read_policy_text(path)
    try:
        return Policy.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{path}: {_explain(error)}") from None


def save_policy(policy: Policy, path: str | os.PathLike[str]) -> None:
    """Writes a policy file, all of it or nothing.

    Raises:
        OSError: The file cannot be written.
    """
    write_text(Path(path), _HEADER + _to_yaml(policy))


class _OneLine(dict[str, Any]):
    """A mapping that is written on one line."""


class _Dumper(yaml.SafeDumper):
    pass


def _represent_on_one_line(dumper: yaml.SafeDumper, data: Mapping[str, Any]) -> yaml.Node:
    return dumper.represent_mapping("tag:yaml.org,2002:map", data, flow_style=True)


_Dumper.add_representer(_OneLine, _represent_on_one_line)


def _to_yaml(policy: Policy) -> str:
    content = {name: value for name, value in policy.model_dump().items() if value not in (None, {}, [])}
    content["layers"] = {name: _OneLine(choice) for name, choice in content["layers"].items()}
    for name in ("budget", "search_space"):
        if name in content:
            records = content[name]
            content[name] = [_OneLine(r) for r in records] if isinstance(records, list) else _OneLine(records)
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=110)


def _explain(error: ValidationError) -> str:
    """One line on the first broken rule."""
    details = error.errors(include_url=False)
    first = details[0]
    field = ".".join(_printable(part) for part in first["loc"] if part not in _NO_FIELDS) or "the file"
    rule = _RULES.get(first["type"]) or first["msg"].replace("Input should", "should")
    more = f" {len(details) - 1} more to correct." if len(details) > 1 else ""
    rule = rule.removeprefix("Value error, ")
    return f"{field} {rule}. Received: {_received(first)}.{more} {_advice(first)}"


def _received(detail: ErrorDetails) -> str:
    value = detail["input"]
    if detail["type"] == "missing" and isinstance(value, Mapping):
        return f"only {_listed([_printable(name) for name in value])}" if value else "nothing"
    return reprlib.repr(value)


def _advice(detail: ErrorDetails) -> str:
    location = detail["loc"]
    if detail["type"] == "extra_forbidden":
        records: dict[str, type[_Record]] = {
            "layers": LayerChoice,
            "budget": BudgetRecord,
            "search_space": SearchSpace,
        }
        record = records[str(location[0])] if len(location) > 1 else Policy
        return f"The fields are {', '.join(record.model_fields)}."
    if location[:1] == ("layers",):
        return "Write a layer as NAME: {weight_bits: 4}."
    if location[:1] == ("activations",):
        return (
            f"Write activations: {{NAME: 4}}; or activations: {WIDE} for {WIDE} bits in all of them, because "
            f"all codes have one size; or activations: {DYNAMIC}."
        )
    if location[:1] == ("format",):
        return f"Write format: {FORMAT}."
    return "Correct the file."


def _printable(part: object) -> str:
    text = str(part)
    return text if text.isprintable() else repr(text)


def _unknown(kind: str, names: Iterable[str], known: list[str]) -> list[str]:
    """Names that are not known, each with the known one that looks most like it."""
    result = []
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f" (nearest: {nearest[0]})" if nearest else ""
            result.append(f"{kind} {_printable(name)}{hint}")
    return result


def _listed(items: list[str], most: int = 8) -> str:
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest
