"""How pixels become a network's inputs: never guessed without a word, and held against labelled images."""

from __future__ import annotations

import math

import numpy as np

from tfmpq.data import Dataset, Split
from tfmpq.data.preprocess import PREPROCESSINGS, affine
from tfmpq.errors import UsageError
from tfmpq.models.registry import LoadedModel
from tfmpq.progress import Reporter
from tfmpq.tasks.model_outputs import outputs_of
from tfmpq.tasks.sampling import drawn
from tfmpq.tasks.scoring import predictor, score_outputs

_IMAGES = 256
_FEWEST = 32
"""Images from which on scores say something."""

_CLEARLY = 0.05
"""Least lead in top-1 of a candidate that is clearly better."""


def check_choice(loaded: LoadedModel, dataset: Dataset | None, reporter: Reporter, *, learns: bool) -> None:
    """Say which preprocessing was chosen, and hold it against labelled images.

    Args:
        loaded: The float network, whose own choice is taken.
        dataset: Data that it should know; None if it has learned nothing yet, or there are none.
        reporter: Told the choice.
        learns: Whether the network is to learn these labels, so that it need not know them yet.

    Raises:
        UsageError: The network scores near chance with the choice, or clearly better with another one.
    """
    if loaded.expectation is None:
        return
    reporter.log(f"{loaded.name}: {loaded.expectation.said}")
    if dataset is not None and dataset.labelled and dataset.classes > 1:
        _hold_against_labels(loaded, dataset, learns)


def _hold_against_labels(loaded: LoadedModel, dataset: Dataset, learns: bool) -> None:
    chosen, test = loaded.preprocessing, dataset.test.take(drawn(dataset.test, _IMAGES))
    scores = candidate_scores(loaded, test, dataset.classes)
    if not scores:
        return
    count, top1 = len(test), scores[chosen]
    if count < _FEWEST:
        return
    chance = float(np.bincount(test.labels).max() / count)
    best = max(scores, key=lambda name: scores[name])
    spread = math.sqrt(sum(p * (1 - p) for p in (scores[best], top1)) / count)
    better = scores[best] - top1 > max(_CLEARLY, 3 * spread)
    blind = top1 <= chance + 2 * math.sqrt(chance * (1 - chance) / count)
    if not better and (learns or not blind):
        return
    shown = ", ".join(f"{name} {score:.1%}" for name, score in scores.items())
    advice = (
        f"Give --preprocess {best}."
        if better
        else "Give the data that the network was trained for, or the right --preprocess."
    )
    raise UsageError(
        "A float network has to know its task before it is quantized, with the preprocessing that it was "
        f"trained with. Received: {loaded.name} with {chosen}, which was not asked for; top-1 on {count} "
        f"images of {dataset.name}: {shown}; always the same class: {chance:.1%}. {advice}"
    )


def candidate_scores(loaded: LoadedModel, split: Split, classes: int) -> dict[str, float]:
    """Top-1 of a float network with every preprocessing that its channels allow.

    Args:
        loaded: The network; its first output that can be a classifier is scored.
        split: Images and labels.
        classes: Classes of the labels.

    Returns:
        By name, 0 to 1; empty if no output can be scored.
    """
    model, channels = loaded.model, loaded.input_shape[2]
    outputs = outputs_of(model)
    found = {}
    for name in PREPROCESSINGS:
        rule = affine(name)
        if max(len(rule.scale), len(rule.offset)) in (1, channels):
            score = score_outputs(predictor(model), outputs, classes, [split], loaded.input_shape, name).first
            if score is None:
                return {}
            found[name] = score.value
    return found
