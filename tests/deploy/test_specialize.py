from __future__ import annotations

import numpy as np
import pytest

from tfmpq.deploy.flatbuffer import builtin_name, read_model
from tfmpq.deploy.layout import stored_layers
from tfmpq.deploy.runtime import load, read_metadata
from tfmpq.deploy.specialize import specialize
from tfmpq.deploy.surgery import build_tflite


@pytest.fixture(scope="module", params=[2, 3, 8])
def forms(request, make_every_layer) -> tuple[bytes, bytes]:
    frozen = make_every_layer(request.param)
    return build_tflite(frozen, "storage"), build_tflite(frozen, "litert")


def test_specialized_file_holds_what_the_fast_form_holds(forms) -> None:
    storage, litert = forms
    held, direct = (stored_layers(read_model(content)) for content in (specialize(storage), litert))
    assert len(held) == len(direct)
    for ours, theirs in zip(held, direct, strict=True):
        assert (ours.name, ours.builtin, ours.container_bits) == (
            theirs.name,
            theirs.builtin,
            theirs.container_bits,
        )
        for what in ("integers", "scales", "bias", "bias_scales"):
            np.testing.assert_array_equal(getattr(ours, what), getattr(theirs, what))


def test_specialized_file_computes_the_same(forms, images) -> None:
    storage, litert = forms
    np.testing.assert_array_equal(load(specialize(storage)).run(images), load(litert).run(images))


def test_casts_are_gone_and_facts_stay(forms) -> None:
    storage, _ = forms
    model = read_model(specialize(storage))
    assert "CAST" not in {builtin_name(model, operator) for operator in model.subgraphs[0].operators}
    assert (
        read_metadata(specialize(storage))
        == read_metadata(storage)
        == {"preprocessing": "unit", "classes": 10}
    )


def test_fast_form_comes_back_as_it_is(forms) -> None:
    _, litert = forms
    assert specialize(litert) == litert
