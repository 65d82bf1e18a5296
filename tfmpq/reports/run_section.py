"""The part of a report about one run: its policy by layer, the course of its trainings, how it was made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tfmpq.policy.policy import Policy
from tfmpq.reports.charts import Format, course, strip
from tfmpq.reports.folders import Run, Steps
from tfmpq.reports.markup import SHORT, Child, Element, bar, element, table
from tfmpq.reports.provenance import FOLDER, UNRECORDED, commands, digests, source
from tfmpq.reports.results import Budget, Finetune
from tfmpq.tasks.score_names import ACCURACY, EXPLAINED, LABEL_ACCURACY
from tfmpq.units import bops_text, bytes_text

_SEARCH_COURSE: tuple[tuple[str, tuple[tuple[str, str], ...], Format], ...] = (
    ("Loss", (("loss", "loss"), ("perturbed_loss", "perturbed loss")), lambda v: f"{v:.3g}"),
    ("Surrogate gap h", (("gap", "gap"),), lambda v: f"{v:.3g}"),
    ("Radius", (("rho", "radius"),), lambda v: f"{v:.3g}"),
    ("Expected weight bits", (("expected_bits", "bits"),), lambda v: f"{v:.3g}"),
    ("Expected size / int8", (("expected_size", "size"),), lambda v: f"{v:.3g}"),
    ("Expected BOPs / int8", (("expected_bops", "BOPs"),), lambda v: f"{v:.3g}"),
    ("Expected latency / int8", (("expected_latency", "latency"),), lambda v: f"{v:.3g}"),
    (
        "Score on training batches",
        ((ACCURACY, "accuracy"), (LABEL_ACCURACY, LABEL_ACCURACY), (EXPLAINED, EXPLAINED)),
        lambda v: f"{v:.0%}",
    ),
)
"""Title, columns of the step log with their names, and the form of values."""

_FINETUNE_COURSE: tuple[tuple[str, tuple[tuple[str, str], ...], Format], ...] = (
    *_SEARCH_COURSE[:2],
    ("Gradient norm", (("gradient_norm", "norm"),), lambda v: f"{v:.3g}"),
    ("Cosine of both gradients", (("gradient_cosine", "cosine"),), lambda v: f"{v:.3f}"),
    _SEARCH_COURSE[-1],
)


def run_section(run: Run, index: int, *, alone: bool) -> Element:
    """All of one run; long tables are folded, and short ones too where it is not `alone`."""
    parts: list[Child] = [element("h2", f"{run.name}: {run.model}"), _facts(run)]
    parts += _policy(run, f"policy{index}", alone)
    parts += _courses("Course of the search", run.search_steps, _SEARCH_COURSE, f"search{index}")
    parts += _courses("Course of the fine-tuning", run.finetune_steps, _FINETUNE_COURSE, f"finetune{index}")
    parts += _made(run)
    lacking = missing(run)
    if lacking:
        parts.append(element("p", "Not in this run: " + "; ".join(lacking) + ".", class_="note"))
    return element("section", *parts)


def missing(run: Run) -> list[str]:
    """What a run folder lacks, each with how to get it."""
    found = []
    if run.search is None:
        found.append("a search (its policy came from elsewhere)")
    elif not run.search_steps:
        found.append("steps of a search (its method does not train, or the log is gone)")
    if run.finetune is None:
        found.append(f"a fine-tuning (tfmpq finetune {run.folder} --target DATA)")
    elif not run.finetune_steps:
        found.append("steps of a fine-tuning (none were made, or the log is gone)")
    if run.policy is not None and not run.weights:
        found.append("a checkpoint that tells how large layers are (they are drawn equally wide)")
    return found


def _facts(run: Run) -> Element:
    facts: list[str] = []
    if run.search:
        for budget in run.search.budget:
            facts.append(f"Budget {budget.asked}: {_reached(budget)}.")
        size, bops = run.search.size, run.search.bops
        facts.append(
            f"Size {bytes_text(size.policy)}, {size.policy / size.int8:.3f} of uniform 8 bits and "
            f"{size.policy / size.float32:.3f} of float32; {bops_text(bops.policy)} bit operations, "
            f"{bops.policy / bops.int8:.3f} of uniform 8 bits."
        )
        if found := run.search.latency:
            facts.append(
                f"Predicted latency {found.policy:.3g} ms, {found.policy / found.int8:.3f} of uniform 8 bits"
                + (f", on {run.search.latency_conditions}." if run.search.latency_conditions else ".")
            )
        facts.append(f"Searched in {run.search.search_seconds:,.0f} s.")
    if run.finetune:
        tuned = run.finetune
        facts.append(
            f"Fine-tuned on {tuned.data} for {_counted(tuned.epochs, 'epoch')} "
            f"({_counted(tuned.steps, 'step')}){_method(tuned)}: {_score(tuned)} of {tuned.count:,} test "
            "images."
        )
    return element("ul", *(element("li", fact) for fact in facts))


def _score(tuned: Finetune) -> str:
    if tuned.top1 is None or tuned.top5 is None:
        return f"{tuned.score_name} {100 * tuned.value:.2f} %"
    return f"top-1 {100 * tuned.top1:.2f} %, top-5 {100 * tuned.top5:.2f} %"


def _reached(budget: Budget) -> str:
    """Value and limit; bytes and operations are whole, and a limit of them as much as can be reached."""
    if budget.key in ("size", "bops"):
        return f"{budget.reached:,.0f} of at most {math.floor(budget.limit):,}"
    return f"{budget.reached:,.6g} of at most {budget.limit:,.6g}"


def _method(tuned: Finetune) -> str:
    """The method of a fine-tuning with what it was told; nothing for plain gradients."""
    if tuned.method == "qat":
        return ""
    told = [f"case {tuned.saq_case}"] if tuned.saq_case else []
    told += [f"rho {tuned.rho:g}"] if tuned.rho else []
    every = tuned.second_gradient_every or 1
    told += [f"second gradient every {every} steps"] if every > 1 else []
    return f" by {tuned.method} ({', '.join(told)})"


def _counted(count: int, name: str) -> str:
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def _policy(run: Run, name: str, alone: bool) -> list[Child]:
    """Strip and table of the bits of every layer."""
    if run.policy is None:
        return [element("p", "This run holds no policy.", class_="note")]
    bits = run.policy.weight_bits
    known = all(layer in run.weights for layer in bits)
    sizes = {layer: run.weights[layer] * bits[layer] / 8 if known else 1.0 for layer in bits}
    title = f"Bits by layer of {run.name}" + (", as wide as their bytes" if known else ", equally wide")
    drawing = strip(title, [(layer, bits[layer], sizes[layer]) for layer in bits], name=name)
    most = max(sizes.values())
    header = ["layer", "bits", *(("weights", "bytes", "share of the largest") if known else ())]
    rows: list[list[Child]] = []
    for layer, width in bits.items():
        row: list[Child] = [layer, element("span", str(width), class_=f"chip bits{width}")]
        if known:
            row += [f"{run.weights[layer]:,}", bytes_text(sizes[layer]), bar(sizes[layer] / most, width)]
        rows.append(row)
    told = _activations(run.policy)
    layers = table(f"Weight bits of {run.name}", header, rows, numeric=(2, 3))
    return [
        element("h3", "Policy"),
        element(
            "figure", drawing, element("figcaption", f"{title}, first layer left"), style="max-width:none"
        ),
        _counts(bits),
        element("p", f"Activations: {told}.", class_="note"),
        _folded(f"Layer by layer ({len(bits)})", layers, opened=alone and len(bits) <= SHORT),
    ]


def _activations(policy: Policy) -> str:
    """The widths of activations in words."""
    if isinstance(policy.activations, int):
        return f"all but the image of {policy.activations} bits"
    if isinstance(policy.activations, str):
        return "float, quantized to 8 bits where a kernel reads them"
    narrow = {tensor: width for tensor, width in policy.activations.items() if width != 8}
    return ", ".join(f"{tensor} {width}" for tensor, width in narrow.items()) or "all of 8 bits"


def _counts(bits: Mapping[str, int]) -> Element:
    """The legend of the colours, with how many layers have each width."""
    widths = sorted(set(bits.values()))
    items = []
    for width in widths:
        count = list(bits.values()).count(width)
        chip = element("span", str(width), class_=f"chip bits{width}")
        items.append(element("li", chip, f" bits: {_counted(count, 'layer')}"))
    return element("ul", *items, class_="legend")


def _folded(summary: str, content: Element, *, opened: bool) -> Element:
    return element("details", element("summary", summary), content, open="" if opened else None)


def _courses(
    title: str, steps: Steps, panels: Sequence[tuple[str, tuple[tuple[str, str], ...], Format]], name: str
) -> list[Child]:
    """The panels that the log has values for, and the same as a table."""
    figures: list[Element] = []
    columns: dict[str, tuple[np.ndarray, Format]] = {}
    for position, (panel, wanted, form) in enumerate(panels):
        series = [
            (text, steps[key]) for key, text in wanted if key in steps and np.isfinite(steps[key]).any()
        ]
        if series and any(np.nanmax(np.abs(values)) > 0 for _, values in series):
            drawing = course(panel, series, form, name=f"{name}-{position}")
            figures.append(element("figure", element("figcaption", panel), drawing))
            columns |= {text if len(series) > 1 else panel: (values, form) for text, values in series}
    if not figures:
        return []
    count = len(next(iter(steps.values())))
    parts = np.array_split(np.arange(count), min(10, count))
    rows: list[list[Child]] = []
    for part in parts:
        means = [form(_mean(values[part])) for values, form in columns.values()]
        first, last = f"{part[0] + 1:,}", f"{part[-1] + 1:,}"
        rows.append([first if len(part) == 1 else f"{first} to {last}", *means])
    numbers = table(f"{title}: means", ["steps", *columns], rows, numeric=range(1, len(columns) + 1))
    return [
        element("h3", title),
        element("div", *figures, class_="charts courses"),
        _folded("The same as a table", numbers, opened=False),
    ]


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def _made(run: Run) -> list[Child]:
    lines = commands(run)
    versions = (run.finetune.versions if run.finetune else {}) or (run.policy.versions if run.policy else {})
    made = f" on {run.policy.created}" if run.policy and run.policy.created else ""
    parts: list[Child] = [element("h3", "How it was made")]
    if lines:
        parts.append(element("pre", element("code", "\n".join(lines))))
    for name, digest in digests(run):
        parts.append(element("p", f"{name} has the SHA-256 {digest}.", class_="note"))
    if any(f"--data-dir {FOLDER}" in line for line in lines):
        told = "is the folder of the data sets; the variable TFMPQ_DATA_DIR may name it instead."
        parts.append(element("p", f"{FOLDER} {told}", class_="note"))
    if any(line.startswith("tfmpq finetune") for line in lines) and source(run) == UNRECORDED:
        told = "is the run folder of the search that the fine-tuning began with; it is not recorded."
        parts.append(element("p", f"{UNRECORDED} {told}", class_="note"))
    if versions:
        told = ", ".join(f"{name} {version}" for name, version in versions.items())
        parts.append(element("p", f"Made{made} with {told}.", class_="note"))
    return parts
