"""Quantization without training: a float network, calibration images, a file."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfmpq.containers import Target
from tfmpq.errors import UsageError
from tfmpq.exporting import export
from tfmpq.finetuning import FinetuneResult, finetune
from tfmpq.models.registry import display_name
from tfmpq.policy import save_policy, uniform_policy
from tfmpq.prepare import begins_trained, load_task
from tfmpq.progress import Reporter, SilentReporter

if TYPE_CHECKING:
    from tfmpq.deploy.export import ExportReport


@dataclass(frozen=True, slots=True)
class PosttrainingReport:
    """A file that was made without training.

    Attributes:
        export: What was written.
        quantized: The network that was written: its size, bit operations and top-1 on the test images of the
            calibration data.
        calibration: Data set that the ranges come from.
    """

    export: ExportReport
    quantized: FinetuneResult
    calibration: str

    def to_json(self) -> dict[str, Any]:
        """What an export says, and how the network was quantized."""
        facts = ("top1", "top5", "count", "size", "bops", "mean_weight_bits", "started_from", "reconstructed")
        return self.export.to_json() | {
            "calibration": self.calibration,
            "quantized": {name: getattr(self.quantized, name) for name in facts},
        }


def quantize(
    model: str,
    calibration: str,
    *,
    weight_bits: int | None = None,
    policy: str | Path | None = None,
    weights: str | None = None,
    target: Target = "litert",
    out: str | Path | None = None,
    reconstruct: bool = True,
    data_dir: str | Path | None = None,
    preprocessing: str | None = None,
    reporter: Reporter | None = None,
) -> PosttrainingReport:
    """Quantize a trained float network without training, write it and prove the file.

    Steps of activations are those of least squared error on calibration images; kernels are fitted layer by
    layer to the float network's outputs (tfmpq.reconstruction), or rounded to the nearest level.

    Args:
        model: Built-in name, `.keras` file or `MODULE:FUNCTION`.
        calibration: Data set; its labels are used only to say how many of its test images come out right.
        weight_bits: Width of every layer's weights; this or `policy`.
        policy: Policy file.
        weights: File of float weights; None for those of a model file.
        target: Form of the file.
        out: File to write; None for `MODEL.TARGET.tflite` here.
        reconstruct: Whether to fit the layers to those of the float network.
        data_dir: Folder that is looked in first for data.
        preprocessing: Name; None for what the network expects.
        reporter: Told about progress.

    Raises:
        UsageError: There are no float weights, or not exactly one of `weight_bits` and `policy`.
        TfmpqError: As `export` does.
    """
    if (weight_bits is None) == (policy is None):
        raise UsageError(
            "A network is quantized to one width or by a policy. Received: "
            f"{'neither' if policy is None else 'both'}. Give either --weight-bits N or --policy FILE."
        )
    if not begins_trained(model, weights):
        raise UsageError(
            f"Quantization without training needs a trained network. Received: {model} without weights. "
            "Give --weights FILE."
        )
    reporter = reporter or SilentReporter()
    out = Path(out or f"{display_name(model)}.{target}.tflite")
    with tempfile.TemporaryDirectory() as folder:
        if weight_bits is not None:
            task = load_task(
                model,
                calibration,
                data_dir=data_dir,
                weights=weights,
                preprocessing=preprocessing,
                reporter=SilentReporter(),
            )
            policy = Path(folder) / "uniform.yaml"
            names = [node.name for node in task.network.weighted]
            save_policy(uniform_policy(model, names, weight_bits), policy)
        run = Path(folder) / "run"
        quantized = finetune(
            str(policy),
            calibration,
            out=run,
            model=model,
            data_dir=data_dir,
            weights=weights,
            epochs=0,
            reconstruct=reconstruct,
            preprocessing=preprocessing,
            reporter=reporter,
        )
        written = export(run, target=target, out=out, data_dir=data_dir, reporter=reporter)
    return PosttrainingReport(written, quantized, calibration)
