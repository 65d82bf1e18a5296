"""What to do after a compression: the ways to a smaller file, or to a surer answer."""

from __future__ import annotations

from dataclasses import replace

from tfmpq.api.candidates import TARGET, Forms
from tfmpq.api.compress_search import DropTest, Searched
from tfmpq.deploy.conversion.chosen_forms import bytes_by_width
from tfmpq.deploy.conversion.topology import deployable
from tfmpq.units import bytes_text, points_text

_WORTH_SAYING = 0.05
"""Share of the bytes that another form has to save."""


def advice_of(found: Searched, test: DropTest | None, forms: Forms, tuning: str) -> tuple[str, ...]:
    """Lines about what to do next.

    Args:
        found: What was searched.
        test: What a candidate had to keep; None with a budget.
        forms: What decided between the forms of layers.
        tuning: Call that fine-tunes the next smaller candidate.
    """
    lines = [] if test is None else _on_the_drop(found, test, tuning)
    return (*lines, *_on_the_form(found, forms))


def _on_the_drop(found: Searched, test: DropTest, tuning: str) -> list[str]:
    """How the next smaller file could be had."""
    if found.failed is None:
        return ["This is the smallest policy of these widths, and it keeps what was asked."]
    failed = found.tried[found.failed]
    pairing = failed.pairing
    if pairing is None:
        return []
    named = f"The next smaller file ({bytes_text(failed.bytes)}) loses {points_text(pairing.drop)}"
    lines = []
    if pairing.drop > 0:
        lines.append(f"{named}; a few epochs of fine-tuning may win them back: {tuning}")
    needed = pairing.images_needed(test.most, test.confidence)
    if needed is not None:
        lines.append(
            f"{named}, within {points_text(test.most)}, but {pairing.count} images do not tell it with "
            f"{test.confidence:.4g} confidence; about {needed} would."
        )
    return lines


def _on_the_form(found: Searched, forms: Forms) -> list[str]:
    """What the smallest forms of the layers would save."""
    options = forms[0]
    if options is None or options.prefer == "size":
        return []
    network = deployable(found.tried[found.chosen].frozen)
    least, most = (
        sum(min(widths.values()) for widths in bytes_by_width(network, TARGET, asked, forms[1]).values())
        for asked in (replace(options, prefer="size"), options)
    )
    if least > (1 - _WORTH_SAYING) * most:
        return []
    return [
        f"With --prefer size the weights can go down to {bytes_text(least)}, but run slower. Forms that are "
        f"as fast as int8 on {options.processor} end at {bytes_text(most)}."
    ]
