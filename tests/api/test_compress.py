"""From a model and pictures to the smallest file: what is written, said and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import tfmpq
from tfmpq.api import compress as module
from tfmpq.api import compress_output as output
from tfmpq.api.candidates import Candidate
from tfmpq.api.compress_search import DropTest
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.graph.forms import FormRequest
from tfmpq.policy.policy import load_policy
from tfmpq.tasks.paired import Pairing

from .conftest import Arrays, quarters


@pytest.fixture(scope="module")
def held_out() -> Arrays:
    """Enough images to tell a drop of two points; quarters that are hard to see."""
    images, labels = quarters(900, 3)
    noise = np.random.default_rng(4).normal(0, 0.45, images.shape)
    return (images + noise).clip(0, 1).astype(np.float32), labels


def not_timed(paths: list[Path], **_: Any) -> list[Any]:
    """In the place of what times files, which takes half a minute; a slow test times them."""
    assert all(path.is_file() for path in paths)
    return [SimpleNamespace(median_ms=1.0) for _ in paths]


@pytest.fixture(autouse=True)
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "measure_together", not_timed)


@pytest.fixture(scope="module")
def made(notebook: Any, held_out: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("compressed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "measure_together", not_timed)
        return tfmpq.compress(
            notebook.model,
            notebook.train,
            validation=held_out,
            out=folder / "small.tflite",
            front=folder / "front.html",
            max_drop="2%",
            forms=FormRequest(prefer="size"),
        )


def test_the_file_is_proved_smaller_than_int8_and_keeps_what_was_asked(made: Any) -> None:
    rows = {row.file: row for row in made.table}
    assert made.export.verification.passed
    assert rows["this file"].bytes == made.export.bytes == Path(made.export.path).stat().st_size
    assert rows["this file"].bytes < rows["int8"].bytes
    assert rows["this file"].drop_at_most <= 0.02
    assert rows["float32"].drop == 0
    assert rows["float32"].drop_at_most is None
    assert all(row.median_ms == 1.0 for row in made.table)
    assert (made.score, made.images, made.confidence, made.asked) == ("top-1", 900, 0.95, "max-drop 2%")


def test_the_scores_are_those_of_an_evaluation_of_the_file(
    made: Any, notebook: Any, held_out: Arrays
) -> None:
    rows = {row.file: row for row in made.table}
    assert tfmpq.evaluate(made, held_out).top1 == pytest.approx(rows["this file"].score)
    assert tfmpq.evaluate(notebook.model, held_out).top1 == pytest.approx(rows["float32"].score)
    assert rows["this file"].drop == pytest.approx(rows["float32"].score - rows["this file"].score)


def test_at_most_eight_candidates_are_tried_and_those_below_the_file_have_failed(made: Any) -> None:
    tried = [entry for entry in made.front if entry.score is not None]
    assert len(tried) <= 8
    assert sum(entry.chosen for entry in made.front) == 1
    place = next(index for index, entry in enumerate(made.front) if entry.chosen)
    for entry in made.front[place + 1 :]:
        assert entry.drop_at_most is None or entry.drop_at_most > 0.02
    sizes = [entry.size for entry in made.front]
    assert sizes == sorted(sizes, reverse=True)
    assert ("next smaller" in {row.file for row in made.table}) == (made.smaller is not None)


def test_the_policies_lie_beside_the_file(made: Any) -> None:
    path = Path(made.export.path)
    assert load_policy(path.with_name("small.policy.yaml")).weight_bits == made.policy.weight_bits
    smaller = path.with_name("small.smaller.yaml")
    assert smaller.exists() == (made.smaller is not None)
    assert len(list(path.parent.iterdir())) == 3 + smaller.exists()


def test_the_page_draws_the_whole_front(made: Any) -> None:
    page = Path(made.page).read_text(encoding="utf-8")
    assert page.count("<svg") == 3
    assert page.count('scope="row"') == len(made.front)
    assert "top-1 against bytes of the file" in page
    assert "max-drop 2%" in page


def test_the_result_is_json_and_a_table(made: Any) -> None:
    told = json.loads(json.dumps(made.to_json()))
    assert told["bits"] == made.policy.weight_bits
    assert len(told["front"]) == len(made.front)
    text = repr(made)
    for part in ("of int8", "drop at most (0.95)", "this file", "what to do next", "held-out images"):
        assert part in text
    assert made.plot().svg.startswith("<svg")


def test_a_budget_counts_the_bytes_of_the_file(notebook: Any) -> None:
    images, _ = notebook.train
    small = tfmpq.compress(notebook.model, images, budget="size=0.9x", forms=FormRequest(prefer="size"))
    int8, this = small.front[0], next(entry for entry in small.front if entry.chosen)
    assert this.size <= 0.9 * int8.size
    overhead = this.bytes - this.size
    assert abs(overhead - (int8.bytes - int8.size)) < 3000  # the graph, its record
    assert (small.score, small.images) == ("agreement with the float model", 80)
    assert small.table[0].score == 1.0
    assert {row.file for row in small.table} == {"float32", "int8", "this file"}
    assert small.smaller is None


def test_a_budget_beyond_the_forms_of_int8s_speed_is_refused_with_the_way_out(notebook: Any) -> None:
    with pytest.raises(UsageError, match=r"smallest that can be met: size=.*--prefer size takes these forms"):
        tfmpq.compress(
            notebook.model, notebook.train, budget="size=0.05x", forms=FormRequest(prefer="balanced")
        )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, r"takes at least 299 held-out images .* Received: 80 .*--max-drop 3\.\d+%"),
        ({"max_drop": "1"}, "Write for example 1%"),
        ({"max_drop": "2%", "budget": "size=0.5x"}, "Received: --budget size=0.5x and --max-drop 2%"),
        ({"confidence": 1.0}, "confidence is a number above 0.5 below 1"),
        ({"front": "front.svg", "budget": "size=0.5x"}, "Received: front.svg"),
        ({"out": "/", "budget": "size=0.5x"}, "which is a folder"),
        ({"limit": 20}, "Received: 20"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(
    notebook: Any, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], told: str
) -> None:
    monkeypatch.setattr(module, "forms_of", None)
    with pytest.raises(UsageError, match=told):
        tfmpq.compress(notebook.model, notebook.train, **changes)


def test_an_untrained_network_noise_and_several_outputs_are_refused(notebook: Any) -> None:
    with pytest.raises(UsageError, match="resnet8 without weights"):
        tfmpq.compress("resnet8", "digits")
    with pytest.raises(UsageError, match="Received: random"):
        tfmpq.compress(notebook.model, "random")
    head = layers.Dense(2, name="more")(notebook.model.layers[-2].output)
    several = keras.Model(notebook.model.inputs, [*notebook.model.outputs, head])
    with pytest.raises(UsageError, match="a model with 2"):
        tfmpq.compress(several, notebook.train[0], budget="size=0.7x")


def test_a_drop_of_what_is_no_classifier_is_refused(notebook: Any) -> None:
    features = keras.Model(notebook.model.inputs, notebook.model.layers[1].output)
    images = np.concatenate([notebook.train[0]] * 4)
    with pytest.raises(UsageError, match="has to be a classifier's"):
        tfmpq.compress(features, images)


@pytest.mark.parametrize(
    ("labelled", "classes", "right", "told"),
    [
        (True, [0, 1, 2, 3] * 50, [True, False, False, False] * 50, "25.0 % of the labels right"),
        (False, [2] * 200, [True] * 200, "gives all 200 held-out images the same class"),
        (True, [0, 1, 2, 3] * 50, [True, True, False, True] * 50, None),
        (False, [0, 2] * 100, [True] * 200, None),
    ],
)
def test_scores_that_can_hardly_drop_are_said(
    labelled: bool, classes: list[int], right: list[bool], told: str | None
) -> None:
    task = SimpleNamespace(dataset=SimpleNamespace(classes=4))
    held_out = SimpleNamespace(labelled=labelled, classes=np.array(classes), right=np.array(right))
    warnings = module._score_warning(task, held_out)
    assert (told in warnings[0]) if told else not warnings


class TestDrops:
    """What is said of int8 files, on made-up answers."""

    @staticmethod
    def candidate(lost: int, gained: int, count: int) -> Candidate:
        pairing = Pairing(lost, gained, count)
        return replace(Candidate(*[None] * 7), pairing=pairing)  # type: ignore[arg-type]

    def test_one_that_keeps_the_score_passes(self) -> None:
        DropTest(0.01, 0.95).refuse_lost(self.candidate(2, 2, 2000))

    def test_one_that_lost_too_much_is_a_failure_with_the_numbers(self) -> None:
        with pytest.raises(
            TfmpqError, match=r"int8 alone loses 4 points, at most 5\.\d+ .* 500 held-out"
        ) as e:
            DropTest(0.01, 0.95).refuse_lost(self.candidate(25, 5, 500))
        assert e.value.exit_code == 1

    def test_images_that_do_not_tell_are_said_with_how_many_would(self) -> None:
        with pytest.raises(TfmpqError, match=r"About \d+ held-out images would tell"):
            DropTest(0.01, 0.95).refuse_lost(self.candidate(6, 4, 400))


@pytest.mark.slow
def test_latencies_are_measured(notebook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tfmpq.deploy.latency.measure import measure_together

    monkeypatch.setattr(output, "measure_together", measure_together)
    made = tfmpq.compress(notebook.model, notebook.train, budget="size=0.9x")
    assert all(0 < row.median_ms < 100 for row in made.table)
