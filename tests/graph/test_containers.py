"""The rule table promises only what the runtimes were seen to do."""

from __future__ import annotations

import pytest

from tfmpq.deploy.runtime.known_kernels import kernel_for
from tfmpq.errors import UsageError
from tfmpq.graph.containers import DELEGATED, SPECIALIZED, TARGETS, WEIGHT_BITS, alternatives, container_for

OPERATORS = ("conv2d", "pointwise", "depthwise_conv2d", "dense", "conv2d_transpose")
FAN_INS = (1, 9, 10, 12, 27)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("bits", WEIGHT_BITS)
def test_every_combination_has_a_container_with_a_right_kernel(target, operator, bits) -> None:
    for fan_in in FAN_INS:
        container = container_for(operator, bits, fan_in, target)
        # Integers of n bits fit into a container of at least n, and 8, 4 and 2 exist.
        assert container.bits >= bits
        if container.decode == "cast":
            assert target == "storage"
            continue
        kernel = kernel_for(container.builtin, container.bits, "int8", True, fan_in)
        if target in DELEGATED:
            assert kernel == "delegated"
        else:
            assert kernel in ("delegated", "builtin")


@pytest.mark.parametrize("target", TARGETS)
def test_alternatives_are_smaller_and_run_by_fast_kernels(target) -> None:
    for operator in OPERATORS:
        for bits in WEIGHT_BITS:
            for fan_in in FAN_INS:
                found = alternatives(operator, bits, fan_in, target)
                held = [container_for(operator, bits, fan_in, target).bits, *(c.bits for c in found)]
                assert held == sorted(set(held), reverse=True)
                assert held[-1] >= bits or not found
                kernels = {kernel_for(c.builtin, c.bits, "int8", True, fan_in) for c in found}
                assert kernels <= {"delegated"}


def test_what_each_target_packs() -> None:
    held = {
        target: tuple(container_for(op, bits, 12, target).bits for op in OPERATORS for bits in (2, 4, 5, 8))
        for target in TARGETS
    }
    assert held == {
        "litert": (8, 8, 8, 8, 4, 4, 8, 8, 8, 8, 8, 8, 2, 4, 8, 8, 8, 8, 8, 8),
        "litert-int8": (8,) * 20,
        "storage": (2, 4, 8, 8) * 5,
        "tflite-runtime": (8,) * 20,
        "tflm": (4, 4, 8, 8) * 3 + (8,) * 8,
    }
    rewritten = {t: container_for("pointwise", 4, 12, t).builtin for t in TARGETS}
    assert {t for t, builtin in rewritten.items() if builtin == "FULLY_CONNECTED"} == {
        "litert",
        "litert-int8",
        "storage",
    }
    assert set(SPECIALIZED) == set(TARGETS) - {"storage"}


@pytest.mark.parametrize(("operator", "bits", "target"), [("dense", 9, "litert"), ("dense", 1, "tflm")])
def test_what_no_target_holds_is_refused(operator, bits, target) -> None:
    with pytest.raises(UsageError, match=f"Received: operator={operator}, bits={bits}, target={target}"):
        container_for(operator, bits, 8, target)
