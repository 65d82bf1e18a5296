"""The whole job: float training, search, fine-tuning, export, proof, accuracy, latency, and the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from tfmpq.api.evaluate import Evaluation, evaluate
from tfmpq.api.export import export
from tfmpq.api.finetune import FinetuneResult, finetune
from tfmpq.api.given import given_model, refuse_other_than_model
from tfmpq.api.search import SearchResult, search
from tfmpq.bars import reporting
from tfmpq.data import Dataset
from tfmpq.data.elements import kind_of
from tfmpq.data.objects import model_rank, open_data
from tfmpq.errors import UsageError
from tfmpq.files import write_json
from tfmpq.methods.job_options import FinetuneOptions, RunOptions
from tfmpq.methods.options import SearchOptions
from tfmpq.options import Options
from tfmpq.policy.policy import load_policy, save_policy, uniform_policy
from tfmpq.progress import Reporter
from tfmpq.reports.drawings import Drawing, size_drawing
from tfmpq.results import Result
from tfmpq.scratch import folder_or_scratch
from tfmpq.tasks.score_names import ACCURACY
from tfmpq.tasks.task import begins_trained, image_shape, load_task
from tfmpq.training.run_folder import Stage, load_keras


@dataclass(frozen=True, slots=True)
class Row:
    """One deployed network in the closing table.

    Attributes:
        model: `float32`, `int8` or `mixed`.
        path: The `.tflite` file that everything but `size` was measured on.
        score: Score of the file on the test images, at most 1.
        score_name: What that is: `accuracy`, `label accuracy` or `explained variance`.
        top1: Top-1 of the file, 0 to 1; None where labels are no classes.
        bytes: Bytes of the file.
        size: Bytes of weights, scales and biases in the storage form (float32: of weights and biases).
        storage_bytes: Bytes of the storage file; None for float32, and where activations have 16 bits or are
            float.
        mean_weight_bits: Mean bits of a weight.
        bops: Bit operations for one image.
        median_ms: Median latency of one image on this machine, one thread.
    """

    model: str
    path: str
    top1: float | None
    bytes: int
    size: int
    storage_bytes: int | None
    mean_weight_bits: float
    bops: int
    median_ms: float
    score: float
    score_name: str = ACCURACY


@dataclass(frozen=True, slots=True)
class JobResult(Result, verb="run"):
    """Results of all stages and the closing table."""

    search: SearchResult
    finetune: FinetuneResult
    table: tuple[Row, ...]
    measured: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Stage results, the table with the form of its sizes, and how latency was measured."""
        rows = [{name: getattr(row, name) for name in row.__slots__} for row in self.table]
        return {
            "table": rows,
            "size_form": "storage",
            "search": self.search.to_json(),
            "finetune": self.finetune.to_json(),
            "measured": self.measured,
        }

    def plot(self) -> Drawing:
        """Accuracy of the three files against their bytes."""
        return size_drawing([(row.model, row.bytes, row.score) for row in self.table])


def run(
    model: Any,
    proxy: Any,
    target: Any = None,
    *,
    budget: str | Sequence[str] | None = None,
    validation: Any = None,
    out: str | Path | None = None,
    options: RunOptions | None = None,
    progress: bool | Reporter | None = None,
    **changes: Any,
) -> JobResult:
    """Do everything: search on the proxy, fine-tune on the target, export, prove, evaluate and measure.

    The uniform 8-bit network is the baseline: the same start, fine-tuned for a quarter of the epochs.

    Args:
        model: A Keras model, which is never changed, or a built-in name, `.keras` file or `MODULE:FUNCTION`.
        proxy: Data to search on, as `search` takes them.
        target: Data to fine-tune for; None for those of the search.
        budget: `KEY=VALUE` or several; None for `size=0.5x`.
        validation: What is scored on, in the form of `target`; None for the test part of a word, or a fifth
            of the data.
        out: Run folder; the same call resumes it. None leaves nothing behind: a temporary folder lives as
            long as the result.
        options: All other options. Float weights (`weights`) are those for the target, and the search begins
            with them (with a new classifier, if the proxy has other classes).
        progress: True shows progress, False none, None only on terminals and in IPython; or a reporter.
        **changes: Single options, such as `epochs=3`; see `tfmpq.RunOptions`.

    Raises:
        UsageError: As the single stages do; or proxy and target differ and there are no weights.
        TfmpqError: As the single stages do.
    """
    given = {} if budget is None else {"budgets": budget}
    chosen = RunOptions.of(options, given | changes)
    refuse_other_than_model(model)
    folder, kept = folder_or_scratch(out)
    same = target is None or target is proxy or (isinstance(target, str) and target == proxy)
    job = Job(model, proxy, proxy if same else target, same, validation, folder, chosen)
    with reporting(progress) as reporter:
        return _run(job, reporter).keeping(*kept)


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What the whole job was asked for.

    Attributes:
        model: The network.
        proxy: Data to search on.
        target: Data to fine-tune for.
        same: Whether these two are the same.
        validation: What is scored on.
        folder: Run folder.
        options: All other options.
    """

    model: Any
    proxy: Any
    target: Any
    same: bool
    validation: Any
    folder: Path
    options: RunOptions

    @property
    def begins_trained(self) -> bool:
        """Whether there are float weights to begin with."""
        if isinstance(self.model, keras.Model):
            return True
        return begins_trained(str(self.model), self.options.weights)

    def stage_options(self, record: type[Options]) -> dict[str, Any]:
        """The options of a stage that the whole job has, too."""
        return {name: value for name, value in self.options.values.items() if name in record.specs()}


def _run(job: Job, reporter: Reporter) -> JobResult:
    out = job.folder
    form = _deployed_form(job, reporter)
    asked = job.stage_options(SearchOptions) | form
    # On the target, the weights are those of the search.
    training = job.stage_options(FinetuneOptions) | ({"weights": None} if job.same else {})
    del training["method"]  # it is that of the search
    found = search(
        job.model,
        job.proxy,
        validation=job.validation if job.same else None,
        out=out,
        options=SearchOptions(**asked),
        progress=reporter,
    )
    tuned = finetune(
        out,
        job.target,
        validation=job.validation,
        out=out,
        options=FinetuneOptions(**training),
        progress=reporter,
    )
    baseline = _baseline(job, found, training, reporter)
    rows, measured = _table(job, found, tuned, baseline, reporter)
    result = JobResult(found, tuned, rows, measured)
    write_json(out / "job.json", result.to_json())
    return result


def _deployed_form(job: Job, reporter: Reporter) -> dict[str, Any]:
    """How the network that is deployed differs from the searched one, in the search's own options.

    Raises:
        UsageError: There are no weights for the target.
    """
    if job.same:
        return {}
    if not job.begins_trained:
        raise UsageError(
            "Another target than the proxy needs float weights, to start from and to compare with. "
            f"Received: --proxy {_word(job.proxy)}, --target {_word(job.target)}, no weights. Give --weights "
            "FILE."
        )
    searched, deployed = (_opened(job, data, reporter) for data in (job.proxy, job.target))
    if (image_shape(searched), searched.classes) == (image_shape(deployed), deployed.classes):
        return {}
    return {"target_input": image_shape(deployed)[0], "target_classes": deployed.classes}


def _opened(job: Job, data: Any, reporter: Reporter) -> Dataset:
    return open_data(data, data_dir=job.options.data_dir, rank=model_rank(job.model), reporter=reporter)


def _word(data: Any) -> str:
    return data if isinstance(data, str) else kind_of(data)


def _baseline(job: Job, found: SearchResult, training: dict[str, Any], reporter: Reporter) -> FinetuneResult:
    """The uniform 8-bit network, trained from the float weights that the search began with."""
    policy = load_policy(job.folder / "policy.yaml")
    uniform = uniform_policy(policy.model, policy.layers, 8, "dynamic" if policy.dynamic else None)
    folder = job.folder / "int8"
    folder.mkdir(exist_ok=True)
    save_policy(uniform, folder / "uniform8.yaml")
    asked = training | {"epochs": max(1, job.options.epochs // 4)}
    if asked["weights"] is None:
        asked["weights"] = str(job.folder / "search.float.keras")
    return finetune(
        job.model,
        folder / "uniform8.yaml",
        job.target,
        validation=job.validation,
        out=folder,
        options=FinetuneOptions(**asked),
        progress=reporter,
    )


def _float_model(job: Job, reporter: Reporter) -> keras.Model:
    """The float network for the target."""
    if job.same:
        return load_keras(Stage(job.folder, "search").path(".float.keras"))
    dataset = open_data(
        job.target,
        job.validation,
        data_dir=job.options.data_dir,
        rank=model_rank(job.model),
        reporter=reporter,
    )
    return load_task(
        given_model(job.model, job.folder).word,
        dataset,
        weights=job.options.weights,
        preprocessing=job.options.preprocessing,
        reporter=reporter,
        dynamic=job.options.dynamic,
    ).model


def _table(
    job: Job, found: SearchResult, tuned: FinetuneResult, baseline: FinetuneResult, reporter: Reporter
) -> tuple[tuple[Row, ...], dict[str, Any]]:
    """Export the three networks and measure their files, interleaved."""
    from tfmpq.deploy.export import export_float
    from tfmpq.deploy.latency.measure import measure_together

    out, data_dir = job.folder, job.options.data_dir
    files = {"float32": out / "float32.tflite", "int8": out / "int8.tflite", "mixed": out / "mixed.tflite"}
    preprocessing = tuned.preprocessing
    export_float(_float_model(job, reporter), files["float32"], metadata={"preprocessing": preprocessing})
    export(baseline, out=files["int8"], data_dir=data_dir, progress=reporter)
    export(tuned, out=files["mixed"], data_dir=data_dir, progress=reporter)
    storage = {
        "int8": _storage_bytes(out / "int8", out / "int8.storage.tflite", data_dir),
        "mixed": _storage_bytes(out, out / "mixed.storage.tflite", data_dir),
    }
    measurements = measure_together(list(files.values()), reporter=reporter)
    tuned_by_name = {"int8": baseline, "mixed": tuned}
    rows = []
    for (name, path), measurement in zip(files.items(), measurements, strict=True):
        part, evaluation = tuned_by_name.get(name), _evaluation(job, tuned, path, reporter)
        rows.append(
            Row(
                model=name,
                path=str(path),
                top1=evaluation.top1,
                bytes=path.stat().st_size,
                size=part.size if part else found.size["float"],
                storage_bytes=storage.get(name),
                mean_weight_bits=part.mean_weight_bits if part else 32.0,
                bops=part.bops if part else found.bops["float"],
                median_ms=measurement.median_ms,
                score=evaluation.score,
                score_name=evaluation.score_name,
            )
        )
    return tuple(rows), {name: m.to_json() for name, m in zip(files, measurements, strict=True)}


def _evaluation(job: Job, tuned: FinetuneResult, path: Path, reporter: Reporter) -> Evaluation:
    """Score of a file on the images that the fine-tuning was scored on."""
    dataset = next((part for part in tuned.kept if isinstance(part, Dataset)), None)
    if isinstance(job.target, str) or dataset is None:
        data, asked = job.target, tuned.preprocessing
    else:
        data, asked = (dataset.test.array, dataset.test.labels), None
    return evaluate(path, data, data_dir=job.options.data_dir, preprocessing=asked, progress=reporter)


def _storage_bytes(run: Path, out: Path, data_dir: str | Path | None) -> int | None:
    """Bytes of the storage file of a run, which is written; None where activations are no 8-bit integers."""
    policy = load_policy(run / "policy.yaml")
    if policy.wide or policy.dynamic:
        return None
    return export(run, target="storage", out=out, data_dir=data_dir, progress=False).bytes
