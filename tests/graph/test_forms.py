"""The one place that weighs a layer's bytes against its time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfmpq.errors import UsageError
from tfmpq.graph.containers import TARGETS, alternatives, container_for
from tfmpq.graph.forms import (
    BALANCED_SLOWDOWN,
    PREFERENCES,
    PROCESSORS,
    FormOptions,
    FormRequest,
    Processor,
    Work,
    candidates,
    choose,
    kernel_costs,
)
from tfmpq.graph.unfolding import Window

LARGE = Window((7, 7, 512), (3, 3), padding="same")
SMALL = Window((32, 32, 16), (3, 3), padding="same")


def work(window: Window, channels: int, bits: int = 4) -> Work:
    rows, columns = window.output
    return Work("conv2d", bits, window.fan_in, channels, rows * columns, window)


works = st.builds(
    lambda side, inputs, kernel, stride, channels, bits: work(
        Window((side, side, inputs), (kernel, kernel), (stride, stride), padding="same"), channels, bits
    ),
    st.integers(4, 64),
    st.sampled_from((3, 4, 16, 64, 256)),
    st.sampled_from((3, 5)),
    st.sampled_from((1, 2)),
    st.sampled_from((8, 64, 512)),
    st.integers(2, 8),
)


@given(what=works, processor=st.sampled_from(PROCESSORS))
def test_each_preference_keeps_its_promise(what: Work, processor: Processor) -> None:
    found = candidates(what, "litert", processor)
    assert found[0].container == container_for("conv2d", what.bits, what.fan_in, "litert")
    assert found[0].time == pytest.approx(1.0)
    chosen = {name: choose(what, "litert", FormOptions(name, processor)).chosen for name in PREFERENCES}
    roomy = FormOptions("size", processor, max_scratch=2**40)
    assert choose(what, "litert", roomy).chosen.bytes == min(c.bytes for c in found)
    assert chosen["speed"].time == min(c.time for c in found if c.scratch <= FormOptions().max_scratch)
    assert chosen["balanced"].time <= BALANCED_SLOWDOWN
    assert chosen["size"].bytes <= chosen["balanced"].bytes <= found[0].bytes


def test_what_is_fast_without_vnni_need_not_be_with_it() -> None:
    """Ratios that were measured: 0.79 and 1.23 of int8 without, 1.05 and 4.6 with VNNI."""
    times = {
        (processor, window): candidates(work(window, window.image[2]), "litert", processor)[1].time
        for processor in ("x86-avx2", "x86-vnni")
        for window in (LARGE, SMALL)
    }
    assert times["x86-avx2", LARGE] == pytest.approx(0.79, rel=0.1)
    assert times["x86-avx2", SMALL] == pytest.approx(1.23, rel=0.1)
    assert times["x86-vnni", LARGE] == pytest.approx(1.05, rel=0.1)
    assert times["x86-vnni", SMALL] == pytest.approx(4.6, rel=0.2)


def test_what_nobody_measured_is_called_an_estimate() -> None:
    assert [kernel_costs(name).measured for name in PROCESSORS] == [True, True, False]
    said = {name: choose(work(LARGE, 512), "litert", FormOptions("size", name)).reason for name in PROCESSORS}
    assert [("an estimate" in text) for text in said.values()] == [False, False, True]


def test_a_bound_of_memory_is_kept_and_named() -> None:
    wanted = choose(work(LARGE, 512), "litert", FormOptions("size"))
    assert wanted.chosen.scratch == 2 * 9 * 7 * 7 * 512
    narrow = FormOptions("size", max_scratch=wanted.chosen.scratch - 1)
    kept = choose(work(LARGE, 512), "litert", narrow)
    assert kept.chosen.container.builtin == "CONV_2D"
    assert f"would keep {wanted.chosen.scratch} bytes in memory" in kept.reason


def test_measured_times_decide_instead_of_the_model() -> None:
    options = FormOptions("balanced", "x86-avx2")
    modelled = choose(work(LARGE, 512), "litert", options)
    slow = choose(work(LARGE, 512), "litert", options, {8: 1.0, 4: 1.06})
    assert (modelled.chosen.container.bits, slow.chosen.container.bits) == (4, 8)
    assert "would take 1.06 of the int8 time as measured" in slow.reason
    assert choose(work(LARGE, 512), "litert", options, {8: 1.0}).chosen.container.bits == 8
    # A time of zero was too short to be told.
    assert choose(work(LARGE, 512), "litert", options, {8: 0.0, 4: 1.0}) == modelled
    assert (slow.measured, modelled.measured) == (True, False)


def test_only_one_target_has_a_choice_and_never_for_grouped_convolutions() -> None:
    for target in TARGETS:
        offered = alternatives("conv2d", 2, 36, target)
        assert bool(offered) == (target == "litert")
    grouped = replace(work(LARGE, 512), window=None)
    assert len(candidates(grouped, "litert", "x86-avx2")) == 1
    assert not alternatives("conv2d", 4, 27, "litert")  # no packed product of an odd fan-in
    assert [c.bits for c in alternatives("conv2d", 2, 18, "litert")] == [4]
    for operator in ("depthwise_conv2d", "conv2d_transpose", "dense"):
        assert not alternatives(operator, 2, 36, "litert")


def test_wishes_complete_what_a_file_says() -> None:
    said = FormOptions("size", "arm-dotprod", 5)
    assert FormRequest().complete("x86-vnni", said) == said
    assert FormRequest().complete("x86-vnni") == FormOptions("balanced", "x86-vnni")
    asked = FormRequest("speed", "x86-avx2", 0)
    assert asked.complete("x86-vnni", said) == FormOptions("speed", "x86-avx2", 0)


def test_unknown_wishes_are_refused() -> None:
    with pytest.raises(UsageError, match="Received: small on x86-avx2"):
        FormOptions("small")
    with pytest.raises(UsageError, match="Received: storage"):
        FormRequest("size").require("storage")
    FormRequest().require("storage")
