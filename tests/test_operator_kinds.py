"""Every kind of operator has its place in every step from a Keras layer to a proved file."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, get_args

import keras
import pytest

from tfmpq.deploy.conversion import dynamic_form, placeholder, topology
from tfmpq.deploy.proof import dynamic_reference, reference
from tfmpq.deploy.tflite.layout import CHANNEL_AXIS, VERSIONS
from tfmpq.graph import layers
from tfmpq.graph.fusion import analyse
from tfmpq.graph.kinds import OPERATORS, WEIGHTED, LayerKind, NodeKind
from tfmpq.graph.lowering import lower
from tfmpq.quantization import decomposition, freeze

ROOT = Path(__file__).parents[1]


def _trained_operators() -> dict[str, Callable[[Any], Any]]:
    """The networks that run from learned grids to the runtime, with the kinds of their nodes."""
    file = Path(__file__).parent / "deploy" / "conversion" / "test_trained_operators.py"
    spec = importlib.util.spec_from_file_location("trained_operators", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.OPERATORS


def _kinds_of(build: Callable[[Any], Any]) -> set[str]:
    image = keras.Input((8, 8, 3), name="image")
    logits = keras.layers.Dense(4)(keras.layers.Flatten()(build(image)))  # as all of these networks end
    network = analyse(lower(keras.Model(image, logits, name="net")))
    return {node.kind for node in network.nodes}


@pytest.fixture(scope="module")
def tested() -> set[str]:
    return set().union(*(_kinds_of(build) for build in _trained_operators().values()))


def _documented() -> list[str]:
    """Kinds in the second column of the tables of docs/operators.md."""
    text = (ROOT / "docs" / "operators.md").read_text()
    cells = re.findall(r"^\|[^|]*\|([^|]*)\|", text, re.MULTILINE)
    return [kind for cell in cells for kind in re.findall(r"`(\w+)`", cell)]


FROZEN = [kind for kind in get_args(LayerKind) if kind != "input"]
INTEGER = [kind for kind, facts in OPERATORS.items() if facts.integer]
COMPOSED = [kind for kind in INTEGER if kind not in FROZEN]
PLACES: dict[str, tuple[Collection[str], Collection[str]]] = {
    "a row in tfmpq.graph.kinds": (OPERATORS, get_args(NodeKind)[1:]),
    "a Keras layer or activation in tfmpq.graph.layers": (
        {*layers.KINDS.values(), *layers._OF_ACTIVATION.values(), *layers._OF_INTERPOLATION.values()},
        OPERATORS,
    ),
    "attributes or a decomposition in tfmpq.quantization": (
        {*freeze.ATTRIBUTES, *decomposition.DECOMPOSED},
        INTEGER,
    ),
    "a decomposition in tfmpq.quantization": (decomposition.DECOMPOSED, COMPOSED),
    "an output shape in tfmpq.deploy.conversion.topology": (topology._SHAPES, FROZEN),
    "a builder in tfmpq.deploy.conversion.placeholder": (placeholder._BUILDERS, FROZEN),
    "a recomputation in tfmpq.deploy.proof.reference": (reference._COMPUTE, FROZEN),
    "operators of LiteRT that surgery expects": ([k for k in FROZEN if OPERATORS[k].written_as], FROZEN),
    "what writes it with float activations": ({*dynamic_form._EMIT, *WEIGHTED}, OPERATORS),
    "a recomputation with float activations": (
        {*dynamic_reference._COMPUTE, *reference._COMPUTE, "upsampling2d", "constant"},
        OPERATORS,
    ),
    "a row in docs/operators.md": (
        _documented(),
        OPERATORS,
    ),
}
"""Where a kind has to be: which kinds are there, and which have to be."""


@pytest.mark.parametrize("place", PLACES)
def test_every_kind_has(place: str) -> None:
    present, needed = PLACES[place]
    missing = sorted(set(needed) - set(present))
    assert not missing, f"{', '.join(missing)}: without {place}"


@pytest.mark.parametrize("kind", sorted(WEIGHTED))
def test_every_kind_with_weights_has_a_layout_in_the_file(kind: NodeKind) -> None:
    (builtin,) = OPERATORS[kind].written_as
    assert builtin in CHANNEL_AXIS
    assert (builtin, 8) in VERSIONS


@pytest.mark.parametrize("kind", INTEGER)
def test_every_kind_runs_from_learned_grids_to_the_runtime_in_a_test(kind: str, tested: set[str]) -> None:
    assert kind in tested, f"{kind}: no line of OPERATORS in test_trained_operators.py has it"


def test_no_place_knows_a_kind_that_the_table_does_not() -> None:
    known = {*OPERATORS, "input"}
    for place, (present, _) in PLACES.items():
        if "docs" not in place:
            assert set(present) <= known, place
