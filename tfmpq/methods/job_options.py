"""What a fine-tuning, a quantization without training and the whole job can be asked for: one record each.

Nothing heavy is imported here, so that the command line can read the names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from tfmpq.errors import UsageError
from tfmpq.graph.containers import Target
from tfmpq.graph.file_request import NO_FILE_WISHES, FileRequest
from tfmpq.graph.forms import NO_WISHES, FormRequest
from tfmpq.methods.common_options import (
    PRECISIONS,
    SHARPNESS,
    BudgetOptions,
    DataOptions,
    DistillationOptions,
    MethodOptions,
    PerturbationOptions,
    PinOptions,
    PreprocessOptions,
    ReconstructionOptions,
    SearchedWidthOptions,
    TrainingOptions,
    budgets_option,
    target_option,
    weights_option,
)
from tfmpq.options import option

FINETUNE_METHODS = ("qat", "sam", "saq")
_OF_SHARPNESS = ("rho", "norm", "adaptive", "second_gradient_every")


@dataclass(frozen=True, kw_only=True)
class SharpnessTuning(PerturbationOptions):
    """How a fine-tuning looks for flat minima."""

    method: str = option(
        "qat",
        "text",
        "What a step descends: the plain gradient (qat), or the gradient at the sharpest point near the "
        "latent weights (sam) or the quantized ones (saq). Steps of the latter two take about twice as long.",
        choices=FINETUNE_METHODS,
        recorded="given",
    )
    saq_case: int | None = option(
        None,
        "whole",
        "Of saq: 1 takes the direction from the latent weights, 3 from the quantized ones.",
        shown="3",
        metavar="1|3",
        least=1,
        most=3,
        section=SHARPNESS,
        recorded="given",
    )
    rho: float | None = option(
        None,
        "number",
        "How far away the sharpest point is looked for.",
        shown="saq: 0.01, sam: 0.05; with --adaptive 0.5",
        metavar="RHO",
        least=0,
        open=True,
        section=SHARPNESS,
        recorded="given",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in _OF_SHARPNESS if name in self.changed]
        if self.method == "qat" and given:
            raise UsageError(
                f"qat perturbs nothing. Received: {', '.join(map(_typed, given))} with --method qat. Leave "
                "it out, or take --method saq."
            )
        if self.method != "saq" and self.saq_case is not None:
            raise UsageError(
                f"A case is one of saq. Received: {_typed('saq_case')} {self.saq_case} with --method "
                f"{self.method}. Leave it out, or take --method saq."
            )
        if self.saq_case == 2:
            raise UsageError(
                "SAQ's second case perturbs latent weights, which is --method sam. Received: "
                f"{_typed('saq_case')} 2. Take --method sam, or case 1 or 3."
            )


def _typed(name: str) -> str:
    """An option as it is typed."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(
    SharpnessTuning,
    ReconstructionOptions,
    PreprocessOptions,
    DistillationOptions,
    TrainingOptions,
    DataOptions,
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
    weight_decay: float | None = option(
        None,
        "number",
        "Decay of kernels in a step, relative to the learning rate.",
        shown="0.0001; with adamw 0.01",
        metavar="DECAY",
        least=0,
        recorded="given",
    )
    ends: int | str | None = option(
        None,
        "word-or-whole",
        "With uniform:WEIGHTS[/ACTIVATIONS]: bits of the first and the last layer and of what the last one "
        "reads, or same.",
        shown="8",
        metavar="BITS|same",
        choices=("same",),
        least=2,
        most=8,
        recorded="never",  # the policy says it
    )


@dataclass(frozen=True, kw_only=True)
class RunOptions(
    ReconstructionOptions,
    PreprocessOptions,
    DistillationOptions,
    TrainingOptions,
    MethodOptions,
    PinOptions,
    SearchedWidthOptions,
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
    activation_bits: int | str | None = option(
        None,
        "word-or-whole",
        "With --weight-bits: 2 to 8, or 16, which is exact to 16 bits and 3 to 100 times slower. Or dynamic: "
        "floats that kernels quantize to 8 bits as they read them; needs no images, and takes transformers.",
        shown="8",
        metavar="N|dynamic",
        choices=("dynamic",),
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
