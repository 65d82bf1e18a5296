"""The page of `saq_experiment.py`: tables of its arms, paired differences, and what follows from them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

Line = dict[str, Any]

ENDPOINTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "cross_entropy": ("cross-entropy", lambda value: f"{value:.3f}"),
    "top1": ("top-1, points", lambda value: f"{100 * value:.2f}"),
    "gap": ("gap h at 0.05", lambda value: f"{value:.3f}"),
}
"""Column, its name, and how a value is written."""

PAIRS = (("C", "B"), ("C", "A"), ("D", "B"), ("D", "A"), ("B", "A"))
CONFIDENCE, POWER = 0.95, 0.8

HEAD = """\
# SAQ against plain training of the same time

resnet8 on CIFAR-10, weights and activations of 2 bits, the ends of 8, batches of 128. Every arm begins with
the published float weights of MLPerf Tiny (87.2 %), without reconstruction and without a teacher. The arms of
a seed see the same batches. The rate falls from 0.01 by a cosine; BatchNorm has its moving statistics in the
last fifth of the steps.

    TFMPQ_DATA_DIR=DATA python benchmarks/saq_experiment.py run WORK --steps {steps} --seeds {asked}
    python benchmarks/saq_experiment.py page WORK/results.jsonl docs/results/saq.md

{made}. All single results are in [saq.jsonl](saq.jsonl).

| arm | |
|---|---|
| A | plain QAT, n = {steps} steps |
| B | plain QAT, 2n steps: the time of C |
| C | SAQ case 3, n steps |
| D | SAQ case 3, second gradient every 5th step, n steps |
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired difference over seeds.

    Attributes:
        single: By seed.
        mean: Their mean.
        margin: Half the width of its interval.
        seen: Smallest true difference that would have been found significant with a probability of `POWER`.
    """

    single: tuple[float, ...]
    mean: float
    margin: float
    seen: float

    @classmethod
    def of(cls, first: Sequence[float], second: Sequence[float]) -> Difference:
        """First less second."""
        single = tuple(a - b for a, b in zip(first, second, strict=True))
        count = len(single)
        error = statistics.stdev(single) / math.sqrt(count)
        quantiles = stats.t.ppf([(1 + CONFIDENCE) / 2, POWER], count - 1)
        return cls(single, statistics.mean(single), quantiles[0] * error, float(quantiles.sum()) * error)


def written(lines: Sequence[Line]) -> str:
    """The page in Markdown."""
    arms = [line for line in lines if line["part"] == "arms"]
    seeds = _whole_seeds(arms)
    of_seeds = [line for line in arms if line["seed"] in seeds]
    steps = 2 * next(line["steps"] for line in lines if line["part"] == "radius")
    parts = [HEAD.format(steps=steps, asked=len(seeds) or 6, made=_made(lines)), _radius(lines)]
    if seeds:
        parts.append(_arms(of_seeds, seeds))
    else:
        parts.append("\nThe arms A to D have not been measured to the end yet.\n")
    if len(seeds) > 1:
        parts += [_differences(of_seeds, seeds), _verdict(of_seeds, seeds)]
    practice = [line for line in lines if line["part"] == "practice"]
    if practice:
        parts.append(_practice(practice))
    return "\n".join(parts)


def _whole_seeds(lines: Sequence[Line]) -> list[int]:
    """Seeds of which all four arms are done."""
    done: dict[int, set[str]] = {}
    for line in lines:
        done.setdefault(line["seed"], set()).add(line["arm"])
    return sorted(seed for seed, arms in done.items() if arms == set("ABCD"))


def _made(lines: Sequence[Line]) -> str:
    days = sorted({line["date"] for line in lines})
    versions = lines[-1]["versions"]
    told = ", ".join(f"{name} {versions[name]}" for name in ("python", "tensorflow", "keras", "tfmpq"))
    return f"Measured on {' and '.join(days)} with {told}, on one core of a shared machine"


def _radius(lines: Sequence[Line]) -> str:
    whole = sorted((line for line in lines if line["part"] == "radius"), key=lambda line: line["rho"] or 0)
    tried = [line for line in whole if line["rho"] is not None]
    rows = [[f"{line['rho']:g}" if line["rho"] else "plain QAT", *_values(line)] for line in whole]
    chosen = min(tried, key=lambda line: line["cross_entropy"])
    told = (
        f"\n## The radius\n\nCase 3, {chosen['steps']} steps on 45,000 training images, measured on the "
        f"5,000 others: rho = {chosen['rho']:g} is taken. Of the first three, 0.05, 0.2 and 0.5, the "
        "smallest was the best, so smaller ones were tried as well."
    )
    if chosen["rho"] in (tried[0]["rho"], tried[-1]["rho"]):
        told += " It lies at the edge of what was tried."
    return f"{told}\n\n{_table(['rho', *_names()], rows)}"


def _arms(lines: Sequence[Line], seeds: Sequence[int]) -> str:
    rows = []
    for arm in "ABCD":
        of_arm = _of(lines, arm, seeds)
        times = [line["cpu_seconds_a_step"] for line in of_arm]
        mean = {key: statistics.mean(line[key] for line in of_arm) for key in ENDPOINTS}
        single = ", ".join(f"{line['cross_entropy']:.3f}" for line in of_arm)
        hits = ", ".join(f"{100 * line['top1']:.1f}" for line in of_arm)
        seconds = statistics.median(times)
        rows.append(
            [arm, *_values(mean), single, hits, f"{seconds:.2f}", f"{seconds * of_arm[0]['steps']:.0f}"]
        )
    names = [*_names(), "cross-entropy by seed", "top-1 by seed", "CPU s a step", "CPU s"]
    images = lines[0]["images"]
    return (
        f"\n## Plain starts, {len(seeds)} seeds\n\nMeans over seeds on the {images:,} test images (h: on "
        f"2,048 training images).\n\n{_table(['arm', *names], rows)}"
    )


def _differences(lines: Sequence[Line], seeds: Sequence[int]) -> str:
    rows = []
    for first, second in PAIRS:
        for key, (name, form) in ENDPOINTS.items():
            found = _difference(lines, seeds, first, second, key)
            ends = f"{form(found.mean - found.margin)} to {form(found.mean + found.margin)}"
            single = ", ".join(form(value) for value in found.single)
            rows.append([f"{first} - {second}", name, form(found.mean), ends, form(found.seen), single])
    names = ["", "endpoint", "mean difference", "95 % interval", "could have been seen", "by seed"]
    return (
        "\nDifferences are paired by seed. The interval is Student's t; a true difference of the size under "
        f'"could have been seen" would be found with a probability of {POWER:.0%}.\n\n{_table(names, rows)}'
    )


def _verdict(lines: Sequence[Line], seeds: Sequence[int]) -> str:
    found = _difference(lines, seeds, "C", "B", "cross_entropy")
    low, high = found.mean - found.margin, found.mean + found.margin
    if high < 0:
        told = (
            "At equal time SAQ's third case has the lower cross-entropy here. Plain QAT stays the default of "
            "`tfmpq finetune`, whose runs begin with reconstruction and a teacher (below)."
        )
    elif low > 0:
        told = (
            "At equal time plain QAT has the lower cross-entropy: two passes a step cost more than flatness "
            "gives. It is the default of `tfmpq finetune` for that reason."
        )
    else:
        told = (
            f"At equal time no difference in cross-entropy was found; one of {found.seen:.3f} or more "
            "probably would have been. Plain QAT is the default of `tfmpq finetune`, because it is the "
            "simpler of two that do the same."
        )
    return f"\n**{told}**"


def _practice(lines: Sequence[Line]) -> str:
    rows = [[line["arm"], *_values(line)] for line in sorted(lines, key=lambda line: line["arm"])]
    seed = lines[0]["seed"]
    return (
        "\n## As the product does it\n\nThe same arms from a reconstructed start with the float network as "
        f"a teacher, one seed ({seed}), so without any claim about differences.\n\n"
        f"{_table(['arm', *_names()], rows)}\n"
    )


def _difference(lines: Sequence[Line], seeds: Sequence[int], first: str, second: str, key: str) -> Difference:
    return Difference.of(*([line[key] for line in _of(lines, arm, seeds)] for arm in (first, second)))


def _of(lines: Sequence[Line], arm: str, seeds: Sequence[int]) -> list[Line]:
    """The lines of an arm in the order of the seeds."""
    by_seed = {line["seed"]: line for line in lines if line["arm"] == arm}
    return [by_seed[seed] for seed in seeds]


def _names() -> list[str]:
    return [name for name, _ in ENDPOINTS.values()]


def _values(line: Line) -> list[str]:
    return [form(line[key]) for key, (_, form) in ENDPOINTS.items()]


def _table(names: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    heads = list(names)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
