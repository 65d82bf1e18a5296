"""Records of options: values in their usual type, refusals that say what came, what runs record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tfmpq.errors import UsageError
from tfmpq.methods.job_options import FinetuneOptions, RunOptions
from tfmpq.methods.options import SearchOptions
from tfmpq.options import Options, option


@dataclass(frozen=True, kw_only=True)
class Example(Options):
    """One option of each kind."""

    whole: int = option(3, "whole", "a count", least=1, most=9)
    number: float | None = option(None, "number", "a share", least=0, most=1, open=True, recorded="given")
    flag: bool = option(True, "yes-no", "whether")
    name: str = option("one", "text", "which", choices=("one", "two"))
    texts: tuple[str, ...] = option((), "texts", "some", recorded="given")
    bits: tuple[int, ...] = option((2, 8), "bits", "widths")
    path: str | None = option(None, "file", "where", recorded="never")


def test_one_value_or_text_stands_for_several() -> None:
    assert Example(texts="a, b").texts == ("a", "b")  # type: ignore[arg-type]
    assert Example(texts=["a"]).texts == ("a",)  # type: ignore[arg-type]
    assert Example(bits=4).bits == (4,)  # type: ignore[arg-type]
    assert Example(bits="8,2,2").bits == (2, 8)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"whole": 0}, "whole is a whole number from 1 to 9. Received: 0"),
        ({"whole": 2.5}, "Received: 2.5"),
        ({"whole": True}, "Received: True"),
        ({"whole": "3"}, "Received: '3'"),
        ({"number": 1.0}, "number is a number above 0 below 1. Received: 1.0"),
        ({"number": float("nan")}, "Received: nan"),
        ({"flag": "yes"}, "flag is True or False. Received: str 'yes'"),
        ({"name": "three"}, "name is one of one, two. Received: three"),
        ({"name": 1}, "name is a text. Received: int 1"),
        ({"texts": 1}, "texts is a text or several. Received: 1"),
        ({"bits": ()}, "Received: bits=()"),
        ({"bits": (1, 4)}, "Received: bits=(1, 4)"),
        ({"path": 3}, "path is a path. Received: int 3"),
        ({"hole": 3}, "Example has no option hole. Did you mean whole?"),
        ({"zzz": 3}, "They are bits, flag, name, number, path, texts, whole."),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_received(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        Example.of(None, changes)
    assert told in str(caught.value)


def test_single_options_change_those_of_a_record_and_leave_the_record_alone() -> None:
    given = Example(whole=5, name="two")
    changed = Example.of(given, {"whole": 7})
    assert (changed.whole, changed.name, given.whole) == (7, "two", 5)
    assert Example.of(given, {}) is given
    with pytest.raises(UsageError, match=r"options is a Example\. Received: SearchOptions"):
        Example.of(SearchOptions(), {})


def test_a_run_records_what_decides_its_result_and_knobs_where_they_are_given() -> None:
    assert Example().record() == {"whole": 3, "flag": True, "name": "one", "bits": [2, 8]}
    assert Example(number=0.5, texts="a", path="x").record() == {
        "whole": 3, "number": 0.5, "flag": True, "name": "one", "texts": ["a"], "bits": [2, 8],
    }  # fmt: skip


def test_the_records_of_runs_have_the_keys_that_run_folders_have_had() -> None:
    assert SearchOptions().record() == {
        "weight_bits": [2, 4, 8], "activation_bits": [8], "method": "asga", "perturb": "quantized",
        "epochs": 10, "steps_per_epoch": None, "batch_size": 128, "seed": 0, "float_epochs": None,
        "learning_rate": None,
        "target_input": None, "target_classes": None,
    }  # fmt: skip
    knobs = SearchOptions(rho_max=0.1, select="argmax", imitate=True, pareto="0.3x,0.4x")  # type: ignore[arg-type]
    assert knobs.record().items() >= {"rho_max": 0.1, "select": "argmax", "imitate": True}.items()
    assert knobs.description == "asga (rho_max=0.1, select=argmax)"
    assert FinetuneOptions().record() == {
        "epochs": 10, "steps_per_epoch": None, "batch_size": 128, "learning_rate": None, "reconstruct": True,
        "distill": True, "distill_weight": 0.5, "frozen_statistics_epochs": None, "seed": 0,
    }  # fmt: skip


def test_the_whole_job_has_no_option_that_its_stages_lack() -> None:
    stages = set(SearchOptions.specs()) | set(FinetuneOptions.specs())
    assert set(RunOptions.specs()) <= stages
