"""Export of a fine-tuned run: freeze, write, read back, prove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np

from tfmpq.data import load_dataset
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.files import write_json
from tfmpq.graph.containers import TARGETS, Target, require_wide_target
from tfmpq.graph.frozen import FrozenModel
from tfmpq.progress import Reporter, SilentReporter
from tfmpq.quantization.finished_runs import Finetuned
from tfmpq.tasks.fidelity import Reference
from tfmpq.tasks.sampling import sample_images
from tfmpq.training.run_folder import proof_path

if TYPE_CHECKING:
    from tfmpq.deploy.export import ExportReport

PROOF_IMAGES = 4
"""Images on which every operator is recomputed."""

AGREEMENT_IMAGES = 256
"""Images on which file and trained model have to choose the same class."""

WIDE_WARNING = (
    "16-bit activations run in LiteRT's own kernels: 3 times slower than 8 bits where 32-bit accumulators "
    "suffice, up to 100 times elsewhere, as in depthwise convolutions."
)


def export(
    run: str | Path,
    *,
    target: Target = "litert",
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    reporter: Reporter | None = None,
) -> ExportReport:
    """Write a fine-tuned run as a packed `.tflite` and prove it; the run folder keeps the proof.

    Args:
        run: Run folder of a fine-tuning.
        target: `litert` is fast on the CPUs that have INT4 fully-connected kernels, `storage` is smallest.
        out: File to write; None for `MODEL.TARGET.tflite` in the run folder.
        data_dir: Folder that is looked in first for the images of the proof.
        reporter: Told about progress.

    Raises:
        UsageError: The run is not fine-tuned, or the target is unknown, or has no 16-bit activations.
        TfmpqError: TensorFlow or LiteRT is missing, or the written file is not what was trained; it is not
            left behind.
    """
    check_export(target)
    reporter = reporter or SilentReporter()
    finetuned = Finetuned.load(Path(run))
    frozen = finetuned.frozen()
    if frozen.wide:
        require_wide_target(target)
        reporter.log(WIDE_WARNING)
    path = Path(out) if out else Path(run) / f"{finetuned.result['model']}.{target}.tflite"
    images = _images(finetuned, data_dir, reporter)
    report = write(frozen, path, target, images, finetuned.model, reporter)
    _keep(report, proof_path(Path(run), path), reporter)
    return report


def _keep(report: ExportReport, path: Path, reporter: Reporter) -> None:
    """Leave the proof in the run folder, which may be one that can only be read."""
    try:
        write_json(path, report.to_json())
    except OSError as error:
        reporter.log(
            f"The proof could not be kept in {path} ({error.strerror}); --json prints it for tfmpq report."
        )


def check_export(target: str) -> None:
    """Refuse what cannot be exported, before any work.

    Raises:
        UsageError: The target is unknown.
        TfmpqError: TensorFlow or LiteRT is missing.
    """
    if target not in TARGETS:
        raise UsageError(f"A target is one of {', '.join(TARGETS)}. Received: {target}. Choose one of them.")
    try:
        import tfmpq.deploy.export  # noqa: F401
    except ModuleNotFoundError as error:
        raise TfmpqError(
            f"An export needs TensorFlow and LiteRT. Received: an environment without {error.name}. "
            "Copy the run folder to one that has all of tfmpq's dependencies."
        ) from error


def write(
    frozen: FrozenModel,
    path: Path,
    target: Target,
    images: np.ndarray,
    model: keras.Model | None,
    reporter: Reporter,
    reference: Reference | None = None,
) -> ExportReport:
    """Write a network and prove the file.

    Args:
        frozen: The network.
        path: File to write.
        target: Which form of the file.
        images: Preprocessed images, float32 (N, height, width, channels).
        model: Classifier that the file has to agree with on all images; None to compare operators only.
        reporter: Told about progress.
        reference: Outputs of the float model, to compare those of the file with; None for those of `model`.

    Raises:
        TfmpqError: The written file is not the network; it is not left behind.
    """
    from tfmpq.deploy.export import export_tflite

    logits = None if model is None else np.asarray(model.predict_on_batch(images))
    if reference is None and logits is not None:
        reference = Reference("fine-tuned model", images, (logits,))
    return export_tflite(
        frozen,
        path,
        target,
        images=images[:PROOF_IMAGES],
        agreement=None if logits is None else (images, logits),
        reference=reference,
        reporter=reporter,
    )


def _images(finetuned: Finetuned, data_dir: str | Path | None, reporter: Reporter) -> np.ndarray:
    """Real images for the proof: the first ones of the test split."""
    recorded = finetuned.result["data_dir"]
    data_dir = data_dir or (Path(recorded) if recorded else None)
    dataset = load_dataset(finetuned.options["target"], data_dir=data_dir, reporter=reporter)
    height, width, channels = finetuned.model.input_shape[1:]
    preprocessing = finetuned.options["preprocessing"]
    return sample_images(dataset.test, AGREEMENT_IMAGES, (height, width, channels), preprocessing)
