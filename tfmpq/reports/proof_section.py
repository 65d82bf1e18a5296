"""The part of a report about proofs: what was compared, how far it is off, what failed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfmpq.reports.folders import digests, places, replaced
from tfmpq.reports.markup import Child, Element, element, table
from tfmpq.reports.results import Exported, OperatorCheck, Verified
from tfmpq.units import bytes_text

_KERNELS = {"xnnpack": "XNNPACK", "builtin": "built-in"}


def proof_section(results: Sequence[tuple[Path, Any]]) -> Element | None:
    """What `verify` and `export` found; None without any."""
    parts: list[Child] = []
    shown: list[Any] = []
    for path, result in results:
        # An export keeps in the run folder what it prints, which may have been kept by its user as well.
        if not isinstance(result, Verified | Exported) or result in shown:
            continue
        shown.append(result)
        if replaced(result.sha256, places(result.path, path)):
            parts += _outdated(result, path)
        else:
            parts += _verified(result, path) if isinstance(result, Verified) else _exported(result, path)
    return element("section", element("h2", "Proof"), *parts) if parts else None


def _outdated(found: Verified | Exported, source: Path) -> list[Child]:
    run = found.against if isinstance(found, Verified) else "RUN"
    name = "/".join(Path(found.path).parts[-2:])
    return [
        element("h3", f"{name}: ", element("span", "not proved", class_="bad")),
        element(
            "p",
            f"The file is another one than {source} is the proof of: it was replaced since. "
            f"tfmpq verify {found.path} --against {run} proves it anew.",
            class_="note",
        ),
    ]


def _which(found: Verified | Exported, source: Path) -> str:
    """Which bytes were proved."""
    if found.sha256 is None:
        return "Which bytes the file had is not recorded, as results of older versions have it."
    here = "" if digests(places(found.path, source)) else "; the file is not at hand"
    return f"The file has the SHA-256 {found.sha256}{here}."


def _verified(found: Verified, source: Path) -> list[Child]:
    facts = [
        f"{bytes_text(found.bytes)}, written for {found.target}, proved against {found.against}.",
        f"{found.integers:,} weight integers were compared.",
        _partitions(found.delegate_partitions),
        _which(found, source),
    ]
    if found.logits:
        agreement = found.logits.agreement
        if agreement is not None:
            facts.append(
                f"{agreement:.2%} of {found.logits.images:,} images get the class that the trained model "
                "gives them."
            )
        facts.append(
            f"On {found.logits.images:,} images {found.logits.exact:.2%} of the outputs are those of the "
            f"trained model; the worst is {found.logits.worst} steps off."
        )
    return [
        *_head(found.path, found.passed, source),
        element("ul", *(element("li", fact) for fact in facts)),
        _failures(found.failures),
        *(element("p", note, class_="note") for note in found.notes),
        _operators(found.operators, found.path),
    ]


def _exported(found: Exported, source: Path) -> list[Child]:
    proof = found.verification
    facts = [
        f"{bytes_text(found.bytes)}, written for {found.target}, proved when it was exported.",
        f"{proof.integers:,} weight integers were compared; operators on {proof.images} images.",
        _partitions(proof.delegate_partitions),
        _which(found, source),
    ]
    if found.agreement:
        facts.append(
            f"{found.agreement.top1:.2%} of {found.agreement.images:,} images get the class that the trained "
            "model gives them."
        )
    return [
        *_head(found.path, proof.passed, source),
        element("ul", *(element("li", fact) for fact in facts)),
        _failures(proof.failures),
        _operators(proof.operators, found.path),
        _forms(found),
    ]


def _forms(found: Exported) -> Element | None:
    """Why each layer has its form, where the file was written by a choice of forms."""
    if found.forms is None:
        return None
    rows: list[list[Child]] = [
        [
            layer.name,
            str(layer.weight_bits),
            str(layer.container),
            f"{layer.bytes:,}",
            f"{layer.scratch:,}" if layer.scratch else "-",
            layer.reason,
        ]
        for layer in found.layers
    ]
    header = ["layer", "bits", "container", "bytes", "scratch", "why"]
    name = "/".join(Path(found.path).parts[-2:])
    caption = f"Forms of the layers of {name}: {found.forms.prefer}, on {found.forms.processor}"
    return table(caption, header, rows, numeric=(1, 2, 3, 4))


def _head(path: str, passed: bool, source: Path) -> list[Child]:
    state = element("span", "proved" if passed else "not proved", class_="good" if passed else "bad")
    name = "/".join(Path(path).parts[-2:])
    return [element("h3", f"{name}: ", state), element("p", f"From {source}.", class_="note")]


def _partitions(count: int | None) -> str:
    if count is None:
        return "It was not executed."
    if count == 1:
        return "XNNPACK takes the whole graph."
    return f"XNNPACK takes {count} parts of the graph."


def _failures(failures: Sequence[str]) -> Element | None:
    if not failures:
        return None
    return element("ul", *(element("li", failure, class_="bad") for failure in failures))


def _operators(checks: Sequence[OperatorCheck], path: str) -> Element:
    rows: list[list[Child]] = [
        [
            check.kind,
            _KERNELS.get(check.kernels, check.kernels),
            f"{check.elements:,}",
            f"{check.off_by_one:,}",
            f"{check.off_by_more:,}",
            "yes" if check.passed else "no",
        ]
        for check in checks
    ]
    header = ["operator", "kernels", "elements", "one step off", "more", "passed"]
    caption = f"Operators of {'/'.join(Path(path).parts[-2:])}, recomputed in exact arithmetic"
    return table(caption, header, rows, numeric=(2, 3, 4))
