"""The networks that a report compares: accuracy, bytes, latency, and which of them no other one beats."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tfmpq.policy.latency_table import conditions
from tfmpq.reports.folders import Run, replaced
from tfmpq.reports.results import (
    Delivered,
    Evaluated,
    Exported,
    Job,
    Measured,
    Measurements,
    Search,
    Verified,
)
from tfmpq.tasks.score_names import ACCURACY, EXPLAINED

Family = Literal["float", "uniform", "searched", "other"]

FAMILIES: Mapping[Family, str] = {
    "float": "float32",
    "uniform": "uniform bits",
    "searched": "searched",
    "other": "other policies",
}
_CONTROLS = ("random", "uniform")

_UNRECORDED = "conditions not recorded"
"""Of latencies that a search of an older version predicted."""


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """One network on one data set.

    Attributes:
        name: What it is called.
        model: Name of its topology; empty where nothing tells.
        data: Data set of the score, and what the score is if labels are no classes.
        family: How its bit-widths came about.
        top1: Share of images that it classifies right, 0 to 1; or the other score, at most 1.
        images: How many there were; None where nothing tells.
        size: Bytes of weights, scales and biases, packed as in the storage form; None where nothing tells.
        mean_weight_bits: Mean bits of a weight; None where nothing tells.
        preliminary: A network of a search, before it was fine-tuned, on a sample of test images.
        paths: Its files.
        predicted_ms: Latency that the tables of searches predict, by the conditions of the tables.
    """

    name: str
    model: str
    data: str
    family: Family
    top1: float
    images: int | None
    size: int | None
    mean_weight_bits: float | None
    preliminary: bool = False
    paths: tuple[str, ...] = ()
    predicted_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def error(self) -> float:
        """Standard error of a share from the number of images; 0 where that is not known."""
        if not self.images or self.data.endswith(EXPLAINED) or not 0 <= self.top1 <= 1:
            return 0.0
        return math.sqrt(self.top1 * (1 - self.top1) / self.images)


@dataclass(frozen=True, slots=True, eq=False)
class Timing:
    """A measured file of a network; times of emulations are none.

    Attributes:
        network: Which one.
        measured: Its measurement.
    """

    network: Network
    measured: Measured


def same_file(first: str, second: str) -> bool:
    """Whether two recorded paths are of one file: they end in the same folder and name."""
    return Path(first).parts[-2:] == Path(second).parts[-2:]


def networks(runs: Sequence[Run], results: Sequence[Any]) -> list[Network]:
    """All networks of which accuracy is known.

    Args:
        runs: Run folders.
        results: Results of the other verbs, those in the folders included.
    """
    evaluations = [r for r in results if isinstance(r, Evaluated) and r.scored]
    exports = [result for result in results if isinstance(result, Exported)]
    searches = [run.search for run in runs if run.search]
    found = [network for run in runs for network in _of_run(run, searches, evaluations, _files(run, results))]
    found += [network for export in exports for network in _untrained(export, runs, evaluations)]
    found = list({(n.name, n.data, n.top1, n.size): n for n in found}.values())
    known = [path for network in found for path in network.paths]
    rest = [e for e in evaluations if not any(same_file(e.path, path) for path in known)]
    return found + [_only_evaluated(evaluation) for evaluation in rest]


def _files(run: Run, results: Sequence[Any]) -> tuple[str, ...]:
    """The run folder, and files that lie in it or that a result names as its own."""
    name = run.folder.name
    inside = [r.path for r in results if isinstance(r, Exported | Evaluated)]
    found = [path for path in inside if name in (Path(path).name, Path(path).parent.name)]
    found += [r.path for _, r in run.results if isinstance(r, Exported) and r.quantized is None]
    found += [r.path for r in results if isinstance(r, Verified) and Path(r.against).name == name]
    found += [r.path for r in results if isinstance(r, Delivered) and Path(r.source).name == name]
    return tuple(dict.fromkeys([str(run.folder), *found, *map(str, run.folder.glob("*.tflite"))]))


def _of_run(
    run: Run, searches: Sequence[Search], evaluations: Sequence[Evaluated], files: Sequence[str]
) -> Iterator[Network]:
    if run.job and run.finetune:
        yield from _of_job(run, run.job, run.finetune.about(run.finetune.data), run.finetune.count)
    elif run.finetune:
        yield from _of_finetune(run, searches, evaluations, files)
    elif run.search:
        yield from _of_search(run)


def _of_job(run: Run, job: Job, data: str, images: int) -> Iterator[Network]:
    families: dict[str, Family] = {"float32": "float", "int8": "uniform", "mixed": _family(run)}
    for row in job.table:
        if not row.scored:
            continue
        whole = [str(run.folder)] if row.model == "mixed" else []
        yield Network(
            f"{run.name}, {row.model}", run.model, data, families.get(row.model, "other"), row.value, images,
            row.size, row.mean_weight_bits,
            paths=tuple(dict.fromkeys([row.path, str(run.folder / Path(row.path).name), *whole])),
        )  # fmt: skip


def _of_finetune(
    run: Run, searches: Sequence[Search], evaluations: Sequence[Evaluated], files: Sequence[str]
) -> Iterator[Network]:
    """The trained model, or its files where they were evaluated."""
    tuned = run.finetune
    if tuned is None or not tuned.scored:
        return
    data = tuned.about(tuned.data)
    network = Network(
        run.name, run.model, data, _family(run), tuned.value, tuned.count, tuned.size,
        tuned.mean_weight_bits, paths=tuple(files),
        predicted_ms=_predicted(searches, run.policy.weight_bits if run.policy else {}, tuned.bops),
    )  # fmt: skip
    evaluated = [e for e in evaluations if e.path in network.paths]
    by_data = {e.images: replace(network, data=e.images, top1=e.value, images=e.count) for e in evaluated}
    yield from ({data: network} | by_data).values()


def _of_search(run: Run) -> Iterator[Network]:
    """Accuracies before fine-tuning."""
    found = run.search
    if found is None:
        return
    data = str(run.search_options.get("proxy", "the proxy"))
    if found.score_name != ACCURACY:
        data += f", {found.score_name}"
    elif run.search_options.get("imitate"):
        data += ", share with the class of the float network"
    common: dict[str, Any] = {"model": run.model, "data": data, "images": None, "preliminary": True}
    if "float" in found.accuracy and run.search_options.get("target_classes") is None:
        yield Network(
            name=f"{run.model}, float32", family="float", top1=found.accuracy["float"], **common,
            size=round(found.size.float32), mean_weight_bits=32.0,
        )  # fmt: skip
    front = [
        (point.asked, point.accuracy, point.reached, point.mean_weight_bits, point.latency)
        for point in found.pareto
    ]
    policy = found.accuracy.get("policy_without_finetuning")
    if not front and policy is not None:
        asked = ", ".join(budget.asked for budget in found.budget)
        latency = found.latency.policy if found.latency else None
        front = [(asked, policy, found.size.policy, found.mean_weight_bits, latency)]
    for asked, top1, size, bits, latency in front:
        yield Network(
            name=f"{run.name}, {asked}", family=_family(run), top1=top1, size=round(size),
            mean_weight_bits=bits, **common,
            predicted_ms={} if latency is None else {found.latency_conditions or _UNRECORDED: latency},
        )  # fmt: skip


def _predicted(searches: Sequence[Search], bits: Mapping[str, int], bops: float | None) -> dict[str, float]:
    """What the searches say about a network of these weight bits, by the conditions of their tables.

    Bit operations count activations as well, and the size of the image: the network is the very same.
    """
    found: dict[str, float] = {}
    for search in searches:
        if search.latency is None or not search.bits:
            continue
        int8 = dict.fromkeys(search.bits, 8)
        key = search.latency_conditions or _UNRECORDED
        if bops == search.bops.policy and search.bits.items() <= bits.items():
            found[key] = search.latency.policy
        elif bops == search.bops.int8 and int8.items() <= bits.items():
            found[key] = search.latency.int8
    return found


def _untrained(export: Exported, runs: Sequence[Run], evaluations: Sequence[Evaluated]) -> Iterator[Network]:
    """A float network that was quantized without training, by data set on which it was scored."""
    quantized = export.quantized
    if quantized is None:
        return
    # Layers that a policy does not list, such as shortcuts that only subsample, have 8 bits.
    bits = {layer.name: layer.weight_bits for layer in export.layers}.items()
    alike = next((run for run in runs if run.policy and run.policy.weight_bits.items() <= bits), None)
    uniform = math.isclose(quantized.mean_weight_bits, min(width for _, width in bits))
    family: Family = "uniform" if uniform else _family(alike) if alike else "other"
    scores = [(e.images, e.value, e.count) for e in evaluations if same_file(e.path, export.path)]
    if not scores and quantized.scored:
        scores = [(quantized.about(export.calibration or ""), quantized.value, quantized.count)]
    for data, top1, count in scores:
        yield Network(
            f"{Path(export.path).stem}, untrained", alike.model if alike else "", data, family, top1, count,
            quantized.size, quantized.mean_weight_bits, paths=(export.path,),
            predicted_ms=_predicted([run.search for run in runs if run.search], dict(bits), quantized.bops),
        )  # fmt: skip


def _only_evaluated(found: Evaluated) -> Network:
    name = "/".join(Path(found.path).parts[-2:])
    return Network(name, "", found.images, "other", found.value, found.count, None, None, paths=(found.path,))


def _family(run: Run) -> Family:
    """How the bit-widths of a run came about."""
    if run.policy and len(set(run.policy.weight_bits.values())) == 1:
        return "uniform"
    method = (run.policy.method if run.policy else None) or run.search_options.get("method")
    return "searched" if method and not str(method).startswith(_CONTROLS) else "other"


def measurements(runs: Sequence[Run], results: Sequence[Any]) -> list[Measured]:
    """All measured files; those of the closing tables first."""
    found = [item for run in runs if run.job for item in run.job.measured.values()]
    for result in results:
        if isinstance(result, Measurements):
            found += result.files
        elif isinstance(result, Measured):
            found.append(result)
        elif isinstance(result, Delivered):
            found.append(result.measurement)
    return found


def conditions_of(measured: Measured) -> str:
    """Where and how a file was measured: only files that share it are compared."""
    return conditions(measured.device, measured.target, measured.runtime, measured.threads)


def timings(found: Sequence[Network], measured: Iterable[Measured]) -> dict[str, list[Timing]]:
    """Measured latencies of networks whose accuracy is known, by their conditions.

    Of a file that was measured twice under the same conditions, the later measurement counts; of a network
    with several files, such as a storage form and the one made of it, the fastest. Emulations are left out,
    and what was measured of a file that other bytes have replaced.
    """
    groups: dict[str, dict[tuple[str, ...], list[Timing]]] = {}
    for item in measured:
        if item.emulated or item.median_ms is None:
            continue
        owners = [network for network in found if _is_of(item, network)]
        if owners:
            key = Path(item.path).parts[-2:]
            groups.setdefault(conditions_of(item), {})[key] = [Timing(owner, item) for owner in owners]
    return {
        name: _fastest(timing for each in files.values() for timing in each) for name, files in groups.items()
    }


def _is_of(measured: Measured, network: Network) -> bool:
    """Whether a network's file was measured: one of its folder and name, with its bytes if it is at hand."""
    files = [Path(path) for path in network.paths if same_file(measured.path, path)]
    return bool(files) and not replaced(measured.sha256, files)


def _fastest(found: Iterable[Timing]) -> list[Timing]:
    """One measurement a network."""
    slowest_first = sorted(found, key=lambda timing: -(timing.measured.median_ms or 0.0))
    kept = {id(timing.network): timing for timing in slowest_first}
    return [kept[key] for key in sorted(kept, key=lambda key: kept[key].network.name)]


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which points no other one beats: none is smaller and at least as accurate, or as small and better.

    Args:
        points: Cost and accuracy.

    Returns:
        Their indices, by cost.
    """
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    best, kept = -math.inf, []
    for index in order:
        if points[index][1] > best:
            best = points[index][1]
            kept.append(index)
    return kept
