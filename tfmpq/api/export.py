"""Export of a fine-tuned run: freeze, write, read back, prove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tfmpq.api.file_wishes import FileWishes, micro_options
from tfmpq.api.finetune import quantize_search
from tfmpq.api.form_choice import form_choice
from tfmpq.api.sources import kept_by, run_of
from tfmpq.bars import reporting
from tfmpq.data.dataset import Dataset
from tfmpq.data.objects import open_test
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.files import write_json
from tfmpq.graph.containers import TARGETS, Target, require_wide_target
from tfmpq.graph.dynamic import DynamicModel, require_dynamic_target
from tfmpq.graph.file_request import NO_FILE_WISHES, FileRequest
from tfmpq.graph.forms import NO_WISHES, FormRequest
from tfmpq.graph.frozen import FrozenModel
from tfmpq.progress import Reporter
from tfmpq.quantization.finished_runs import Finetuned, kept_test_images
from tfmpq.tasks.fidelity import Reference
from tfmpq.tasks.fitting import fitted, refuse_unknown_scaling
from tfmpq.tasks.sampling import sample
from tfmpq.training.run_folder import Stage, proof_path

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
    run: Any,
    *,
    target: Target = "litert",
    out: str | Path | None = None,
    forms: FormRequest = NO_WISHES,
    file: FileRequest = NO_FILE_WISHES,
    data: Any = None,
    data_dir: str | Path | None = None,
    progress: bool | Reporter | None = None,
) -> ExportReport:
    """Write a run as a packed `.tflite` and prove it; the run folder keeps the proof.

    The run of a search that was not fine-tuned is written as its policy quantizes it, without training.

    Args:
        run: What `finetune`, `search` or `run` returned, or such a run folder.
        target: `litert` is fast on the CPUs that have INT4 fully-connected kernels, `storage` is smallest.
        out: File to write; None for `MODEL.TARGET.tflite` in the run folder.
        forms: What decides where layers have a choice of forms; what it leaves out stands for small ones that
            run at int8's speed on this machine.
        file: Types of input and output, softmax, labels, and what a microcontroller has room for.
        data: Images of the proof; None for test images of the data that were trained on.
        data_dir: Folder that is looked in first for the images of the proof.
        progress: True shows progress, False none, None only on terminals and in IPython; or a reporter.

    Raises:
        UsageError: The run is not finished, or the target is unknown, or has no 16-bit activations.
        TfmpqError: TensorFlow or LiteRT is missing, or the written file is not what was trained; it is not
            left behind.
    """
    check_export(target)
    micro_options(file, target)
    folder = run_of(run, "A fine-tuning is exported: its run folder, or what tfmpq.finetune returned.")
    with reporting(progress) as reporter:
        if Stage(folder, "search").finished and not Stage(folder, "finetune").finished:
            quantize_search(folder, data, data_dir, reporter)
        finetuned = Finetuned.load(folder)
        frozen = finetuned.frozen()
        if isinstance(frozen, DynamicModel):
            require_dynamic_target(target)
            file.require_floats()
            choice: tuple[Any, Any] = (None, None)
        else:
            if frozen.wide:
                require_wide_target(target)
                reporter.log(WIDE_WARNING)
            choice = form_choice(forms, target, frozen)
        path = Path(out) if out else folder / f"{finetuned.result['model']}.{target}.tflite"
        dataset = data_of_proof(finetuned, folder, data, data_dir, reporter)
        wishes = FileWishes.of(file, choice, target, dataset.class_names, finetuned.model)
        height, width, channels = finetuned.model.input_shape[1:]
        images, _ = sample(
            dataset.test, AGREEMENT_IMAGES, (height, width, channels), finetuned.options["preprocessing"]
        )
        reference = None
        if not finetuned.chooses:
            outputs = np.asarray(finetuned.model.predict_on_batch(images))
            reference = Reference("fine-tuned model", images, (outputs,))
        judge = finetuned.model if finetuned.chooses else None
        report = write(frozen, path, target, wishes, images, judge, reporter, reference)
        _keep(report, proof_path(folder, path), reporter)
    return report.keeping(*kept_by(run))


def data_of_proof(
    finetuned: Finetuned, folder: Path, data: Any, data_dir: str | Path | None, reporter: Reporter
) -> Dataset:
    """Real images for a proof: those that are given, else the data that a run was trained on.

    Raises:
        UsageError: There are none, or they are of another form than the run's.
    """
    kept = None if data is not None else kept_test_images(folder, finetuned.options)
    if kept is not None:
        return kept
    recorded = finetuned.result["data_dir"]
    data_dir = data_dir or (Path(recorded) if recorded else None)
    word = finetuned.options["target"] if data is None else data
    dataset = open_test(word, data_dir=data_dir, rank=len(finetuned.model.input_shape), reporter=reporter)
    refuse_unknown_scaling(dataset, finetuned.options["preprocessing"])
    return fitted(dataset, tuple(finetuned.model.input_shape[1:]))


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
    frozen: FrozenModel | DynamicModel,
    path: Path,
    target: Target,
    wishes: FileWishes,
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
        wishes: What decides between forms, and what the file's ends are to be.
        images: Preprocessed images, float32 (N, height, width, channels).
        model: Classifier that the file has to agree with on all images; None to compare operators only.
        reporter: Told about progress.
        reference: Outputs of the float model, to compare those of the file with; None for those of `model`.

    Raises:
        TfmpqError: The written file is not the network; it is not left behind.
    """
    from tfmpq.deploy.export import export_dynamic, export_tflite

    logits = None if model is None else np.asarray(model.predict_on_batch(images))
    if reference is None and logits is not None:
        reference = Reference("fine-tuned model", images, (logits,))
    agreement = None if logits is None else (images, logits)
    if isinstance(frozen, DynamicModel):
        return export_dynamic(frozen, path, images[:PROOF_IMAGES], agreement, reference, reporter)
    return export_tflite(
        frozen,
        path,
        target,
        options=wishes.forms[0],
        times=wishes.forms[1],
        file=wishes.ends,
        micro=wishes.microcontroller,
        images=images[:PROOF_IMAGES],
        agreement=agreement,
        reference=reference,
        reporter=reporter,
    )
