"""The whole job: float training, search, fine-tuning, export, proof, accuracy, latency, and the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from tfmpq.api.evaluate import evaluate
from tfmpq.api.export import export
from tfmpq.api.finetune import FinetuneResult, finetune
from tfmpq.api.search import SearchResult, search
from tfmpq.data import load_dataset
from tfmpq.errors import UsageError
from tfmpq.files import write_json
from tfmpq.policy.policy import load_policy, save_policy, uniform_policy
from tfmpq.progress import Reporter, SilentReporter
from tfmpq.results import Result
from tfmpq.tasks.task import begins_trained, image_shape, load_task
from tfmpq.training.run_folder import Stage, default_folder, load_keras


@dataclass(frozen=True, slots=True)
class Row:
    """One deployed network in the closing table.

    Attributes:
        model: `float32`, `int8` or `mixed`.
        path: The `.tflite` file that everything but `size` was measured on.
        top1: Top-1 of the file, 0 to 1.
        bytes: Bytes of the file.
        size: Bytes of weights, scales and biases in the storage form (float32: of weights and biases).
        storage_bytes: Bytes of the storage file; None for float32 and with 16-bit activations.
        mean_weight_bits: Mean bits of a weight.
        bops: Bit operations for one image.
        median_ms: Median latency of one image on this machine, one thread.
    """

    model: str
    path: str
    top1: float
    bytes: int
    size: int
    storage_bytes: int | None
    mean_weight_bits: float
    bops: int
    median_ms: float


@dataclass(frozen=True, slots=True)
class JobResult(Result):
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


def run(
    model: str,
    proxy: str,
    target: str,
    *,
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    weights: str | None = None,
    budgets: Sequence[str] = (),
    weight_bits: Sequence[int] = (2, 4, 8),
    activation_bits: Sequence[int] = (8,),
    method: str = "asga",
    epochs: int = 10,
    steps_per_epoch: int | None = None,
    batch_size: int = 128,
    seed: int = 0,
    float_epochs: int | None = None,
    learning_rate: float | None = None,
    distill: bool = True,
    preprocessing: str | None = None,
    reporter: Reporter | None = None,
) -> JobResult:
    """Do everything: search on the proxy, fine-tune on the target, export, prove, evaluate and measure.

    The uniform 8-bit network is the baseline: the same start, fine-tuned for a quarter of the epochs.

    Args:
        model: Built-in name, `.keras` file or `MODULE:FUNCTION`.
        proxy: Data set to search on.
        target: Data set to fine-tune for.
        out: Run folder; the same call resumes it; None for `runs/MODEL_DATA`.
        data_dir: Folder that is looked in first for data.
        weights: File of float weights for the target, and to begin the search with (with a new classifier,
            if the proxy has other classes); None trains float weights, where proxy and target are the same.
        budgets: `KEY=VALUE` texts; `size=0.5x` if empty.
        weight_bits: Candidate widths of weights.
        activation_bits: Candidate widths of activations.
        method: Search method.
        epochs: Epochs of the search and of fine-tuning each.
        steps_per_epoch: Steps in an epoch.
        batch_size: Images in a step.
        seed: Random seed.
        float_epochs: Epochs of float training; None is `epochs` without weights and 0 with them (those
            of a model file included).
        learning_rate: Peak learning rate of fine-tuning.
        distill: Learn from the float model as well.
        preprocessing: Name; None for what the network expects.
        reporter: Told about progress.

    Raises:
        UsageError: As the single stages do; or proxy and target differ and there are no weights.
        TfmpqError: As the single stages do.
    """
    reporter = reporter or SilentReporter()
    out = Path(out or default_folder(model, target))
    form = _deployed_form(model, proxy, target, weights, data_dir)
    if float_epochs is None:
        float_epochs = 0 if begins_trained(model, weights) else epochs
    common: dict[str, Any] = {
        "data_dir": data_dir,
        "batch_size": batch_size,
        "steps_per_epoch": steps_per_epoch,
        "seed": seed,
        "preprocessing": preprocessing,
        "reporter": reporter,
    }
    found = search(
        model, proxy, out=out, weights=weights, budgets=budgets, weight_bits=weight_bits,
        activation_bits=activation_bits, method=method, epochs=epochs, float_epochs=float_epochs, **form,
        **common,
    )  # fmt: skip
    training = common | {"weights": weights if proxy != target else None, "learning_rate": learning_rate}
    training["distill"] = distill
    tuned = finetune(out, target, out=out, epochs=epochs, **training)
    baseline = _baseline(out, model, target, epochs, training)
    if proxy == target:
        float_model = load_keras(Stage(out, "search").path(".float.keras"))
    else:
        float_model = load_task(
            model, target, data_dir=data_dir, weights=weights, preprocessing=preprocessing, reporter=reporter
        ).model
    rows, measured = _table(out, target, float_model, found, tuned, baseline, data_dir, reporter)
    result = JobResult(found, tuned, rows, measured)
    write_json(out / "job.json", result.to_json())
    return result


def _deployed_form(
    model: str, proxy: str, target: str, weights: str | None, data_dir: str | Path | None
) -> dict[str, Any]:
    """How the network that is deployed differs from the searched one, in the search's own options.

    Raises:
        UsageError: There are no weights for the target.
    """
    if proxy == target:
        return {}
    if not begins_trained(model, weights):
        raise UsageError(
            "Another target than the proxy needs float weights, to start from and to compare with. "
            f"Received: --proxy {proxy}, --target {target}, no weights. Give --weights FILE."
        )
    searched, deployed = (load_dataset(name, data_dir=data_dir) for name in (proxy, target))
    if (image_shape(searched), searched.classes) == (image_shape(deployed), deployed.classes):
        return {}
    return {"target_input": image_shape(deployed)[0], "target_classes": deployed.classes}


def _baseline(out: Path, model: str, target: str, epochs: int, training: dict[str, Any]) -> FinetuneResult:
    """The uniform 8-bit network, trained from the float weights that the search began with."""
    policy = load_policy(out / "policy.yaml")
    uniform = uniform_policy(policy.model, policy.layers, 8)
    folder = out / "int8"
    folder.mkdir(exist_ok=True)
    save_policy(uniform, folder / "uniform8.yaml")
    training = dict(training)
    if training["weights"] is None:
        training["weights"] = str(out / "search.float.keras")
    return finetune(
        folder / "uniform8.yaml", target, out=folder, model=model, epochs=max(1, epochs // 4), **training
    )


def _table(
    out: Path,
    target: str,
    float_model: keras.Model,
    found: SearchResult,
    tuned: FinetuneResult,
    baseline: FinetuneResult,
    data_dir: str | Path | None,
    reporter: Reporter,
) -> tuple[tuple[Row, ...], dict[str, Any]]:
    """Export the three networks and measure their files, interleaved."""
    from tfmpq.deploy.export import export_float
    from tfmpq.deploy.latency.measure import measure_together

    files = {"float32": out / "float32.tflite", "int8": out / "int8.tflite", "mixed": out / "mixed.tflite"}
    preprocessing = tuned.preprocessing
    export_float(float_model, files["float32"], metadata={"preprocessing": preprocessing})
    export(out / "int8", out=files["int8"], data_dir=data_dir, reporter=reporter)
    export(out, out=files["mixed"], data_dir=data_dir, reporter=reporter)
    storage = {
        "int8": _storage_bytes(out / "int8", out / "int8.storage.tflite", data_dir),
        "mixed": _storage_bytes(out, out / "mixed.storage.tflite", data_dir),
    }
    measurements = measure_together(list(files.values()), reporter=reporter)
    rows = []
    for (name, path), measurement in zip(files.items(), measurements, strict=True):
        tuned_by_name = {"int8": baseline, "mixed": tuned}
        part = tuned_by_name.get(name)
        rows.append(
            Row(
                model=name,
                path=str(path),
                top1=evaluate(
                    path, target, data_dir=data_dir, preprocessing=preprocessing, reporter=reporter
                ).top1,
                bytes=path.stat().st_size,
                size=part.size if part else found.size["float"],
                storage_bytes=storage.get(name),
                mean_weight_bits=part.mean_weight_bits if part else 32.0,
                bops=part.bops if part else found.bops["float"],
                median_ms=measurement.median_ms,
            )
        )
    return tuple(rows), {name: m.to_json() for name, m in zip(files, measurements, strict=True)}


def _storage_bytes(run: Path, out: Path, data_dir: str | Path | None) -> int | None:
    """Bytes of the storage file of a run, which is written; networks with 16-bit activations have none."""
    if load_policy(run / "policy.yaml").wide:
        return None
    return export(run, target="storage", out=out, data_dir=data_dir).bytes
