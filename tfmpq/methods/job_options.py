"""What a fine-tuning, a quantization without training and the whole job can be asked for: one record each.

Nothing heavy is imported here, so that the command line can read the names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from tfmpq.graph.containers import Target
from tfmpq.graph.file_request import NO_FILE_WISHES, FileRequest
from tfmpq.graph.forms import NO_WISHES, FormRequest
from tfmpq.methods.common_options import (
    PRECISIONS,
    BudgetOptions,
    DataOptions,
    DistillationOptions,
    MethodOptions,
    PinOptions,
    PreprocessOptions,
    ReconstructionOptions,
    TrainingOptions,
    WidthOptions,
    budgets_option,
    target_option,
    weights_option,
)
from tfmpq.options import option


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(
    ReconstructionOptions, PreprocessOptions, DistillationOptions, TrainingOptions, DataOptions
):
    """The options of `tfmpq.finetune`, each described in `tfmpq finetune --help` and docs/cli.md."""

    weights: str | None = weights_option("those of the search, else of a model file")
    reconstruct: bool = option(
        True,
        "yes-no",
        "Begin by fitting the quantized layers, one after the other, to those of the float model.",
    )
    distill_weight: float = option(
        0.5,
        "number",
        "Share of the float model's outputs in the loss; with 1 the labels are not used.",
        metavar="SHARE",
        least=0,
        most=1,
    )
    precision: str = option(
        "float32",
        "text",
        "Precision of activations and convolutions during the training; for GPUs and TPUs.",
        choices=PRECISIONS,
        recorded="given",
    )
    frozen_statistics_epochs: int | None = option(
        None,
        "whole",
        "Last epochs in which BatchNorm uses its moving statistics; with few images, take all.",
        shown="a fifth of the epochs",
        metavar="N",
        least=0,
    )


@dataclass(frozen=True, kw_only=True)
class RunOptions(
    ReconstructionOptions,
    PreprocessOptions,
    DistillationOptions,
    TrainingOptions,
    MethodOptions,
    PinOptions,
    WidthOptions,
    BudgetOptions,
    DataOptions,
):
    """The options of `tfmpq.run`, each described in `tfmpq run --help` and docs/cli.md."""

    weights: str | None = weights_option("those of a model file, else float training")
    budgets: tuple[str, ...] = budgets_option("size, kernel-size, bops or weight-bits")
    float_epochs: int | None = option(
        None,
        "whole",
        "Epochs of float training before the search.",
        shown="those of --epochs without trained weights, else 0",
        metavar="N",
        least=0,
    )


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions(ReconstructionOptions, PreprocessOptions, DataOptions):
    """The options of `tfmpq.quantize`, each described in `tfmpq export --help` and docs/cli.md."""

    target: str = target_option()
    forms: FormRequest = option(
        NO_WISHES, "object", "What decides where layers have a choice of forms.", recorded="never"
    )
    file: FileRequest = option(
        NO_FILE_WISHES, "object", "Types, labels, and what a microcontroller has room for.", recorded="never"
    )
    activation_bits: int | None = option(
        None,
        "whole",
        "With --weight-bits: 2 to 8, or 16, which is exact to 16 bits and 3 to 100 times slower.",
        shown="8",
        metavar="N",
        least=2,
        most=16,
    )
    reconstruct: bool | None = option(
        None,
        "yes-no",
        "With --calibrate: fit each layer to the float one's outputs, or round to the nearest level.",
        shown="fit, on real images",
    )

    @property
    def form(self) -> Target:
        """The target, which is one of the known ones."""
        return cast(Target, self.target)
