"""What a search, a fine-tuning and the whole job can be asked for: one record each.

Nothing heavy is imported here, so that the command line can read the names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tfmpq.graph.containers import TARGETS, Target
from tfmpq.methods import METHODS
from tfmpq.options import Options, option

RADII = ("inverse", "direct", "fixed")
PERTURBED = ("quantized", "latent")
NORMS = ("global", "layer")
PRECISIONS = ("float32", "bfloat16")
SELECTIONS = ("argmax", "knapsack", "least-sharp")

PREPROCESSINGS = ("none", "unit", "tf", "torch", "caffe")
"""Names of `tfmpq.data.preprocess`, which is too heavy to import here; a test compares them."""

_SHARPNESS = "Sharpness-aware methods"
_LATENCY = "Budgets of latency"


def weights_option(default: str) -> Any:
    """Float weights; `default` says what is taken without the option."""
    return option(
        None,
        "text",
        "Float weights: .keras, .weights.h5, .h5 or .npz; none starts from random ones.",
        shown=default,
        metavar="FILE|none",
        recorded="never",
    )


def budgets_option(keys: str, example: str = "") -> Any:
    """Budgets; `keys` says which there are."""
    return option(
        (),
        "texts",
        f"{keys}: absolute (size=1.2MB, bops=3.2G, weight-bits=4.0{example}) or relative to uniform 8 bits "
        "(size=0.5x). May be repeated: all are met.",
        shown="size=0.5x",
        flag="--budget",
        metavar="KEY=VALUE",
        many=True,
        recorded="never",
    )


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """Where data and weights come from, and how pixels become inputs."""

    data_dir: str | Path | None = option(
        None,
        "folder",
        "Folder that is looked in first for data sets, for example for cifar10_train.npz.",
        envvar="TFMPQ_DATA_DIR",
        recorded="never",
    )
    weights: str | None = weights_option("those of a model file")


@dataclass(frozen=True, kw_only=True)
class PreprocessOptions(Options):
    """How pixels become inputs."""

    preprocessing: str | None = option(
        None,
        "text",
        "How pixels become inputs: 0..255, 0..1, -1..1, ImageNet mean and standard deviation, or BGR less "
        "the mean.",
        shown="what the network expects",
        flag="--preprocess",
        choices=PREPROCESSINGS,
        recorded="never",
    )


@dataclass(frozen=True, kw_only=True)
class BudgetOptions(Options):
    """What a network may cost."""

    budgets: tuple[str, ...] = budgets_option(
        "size, bops, weight-bits or, with --latency-table, latency", ", latency=2.5ms"
    )


@dataclass(frozen=True, kw_only=True)
class WidthOptions(Options):
    """Widths to choose from."""

    weight_bits: tuple[int, ...] = option((2, 4, 8), "bits", "Weight bit-widths to choose from.")
    activation_bits: tuple[int, ...] = option((8,), "bits", "Activation bit-widths to choose from.")


@dataclass(frozen=True, kw_only=True)
class MethodOptions(Options):
    """How widths are chosen."""

    method: str = option(
        "asga",
        "text",
        "Search method: trained (asga, sagm, gsam, sam, sgd, fracbits), measured (sensitivity), or a "
        "control (random, uniform).",
        choices=METHODS,
    )


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(Options):
    """How long and how fast is trained."""

    epochs: int = option(10, "whole", "Epochs of training.", metavar="N", least=0)
    steps_per_epoch: int | None = option(
        None, "whole", "Steps in an epoch.", shown="all images once", metavar="N", least=1
    )
    batch_size: int = option(128, "whole", "Images in a step.", metavar="N", least=1)
    learning_rate: float | None = option(
        None,
        "number",
        "Peak learning rate of the weights.",
        shown="the one that suits where training starts",
        metavar="RATE",
        least=0,
        open=True,
    )
    seed: int = option(0, "whole", "Random seed.", metavar="N", least=0, most=2**32 - 1)


@dataclass(frozen=True, kw_only=True)
class DistillationOptions(Options):
    """Learning from the float model."""

    distill: bool = option(True, "yes-no", "Learn from the float model's outputs as well.")


@dataclass(frozen=True, kw_only=True)
class SharpnessKnobs(Options):
    """What sharpness-aware methods can be told."""

    radius: str | None = option(
        None,
        "text",
        "How asga's radius follows the surrogate gap h: phi / ln(1 + h), ln(1 + h), or not at all.",
        shown="inverse",
        choices=RADII,
        section=_SHARPNESS,
        recorded="given",
    )
    rho_max: float | None = option(
        None,
        "number",
        "Largest radius; the radius of methods with a fixed one.",
        shown="0.05; with --adaptive 0.5",
        metavar="RHO",
        least=0,
        open=True,
        section=_SHARPNESS,
        recorded="given",
    )
    phi: float | None = option(
        None,
        "number",
        "Constant of the inverse radius.",
        shown="from the first gaps",
        metavar="PHI",
        least=0,
        open=True,
        section=_SHARPNESS,
        recorded="given",
    )
    alpha: float | None = option(
        None,
        "number",
        "How strongly both gradients are aligned.",
        shown="0.001; gsam: 0.4",
        metavar="ALPHA",
        least=0,
        section=_SHARPNESS,
        recorded="given",
    )
    perturb: str = option(
        "quantized",
        "text",
        "What is perturbed: kernels after quantization, or before.",
        choices=PERTURBED,
        section=_SHARPNESS,
    )
    norm: str = option(
        "global",
        "text",
        "One gradient norm over all layers, or one in each.",
        choices=NORMS,
        section=_SHARPNESS,
        recorded="given",
    )
    adaptive: bool = option(
        False,
        "yes-no",
        "Perturb in proportion to the magnitude of the weights (ASAM).",
        section=_SHARPNESS,
        recorded="given",
    )
    second_gradient_every: int = option(
        1,
        "whole",
        "Take the second gradient every K steps and reuse a part of it in between (LookSAM).",
        metavar="K",
        least=1,
        section=_SHARPNESS,
        recorded="given",
    )


@dataclass(frozen=True, kw_only=True)
class SelectionKnobs(Options):
    """What methods that learn probabilities can be told."""

    select: str = option(
        "knapsack",
        "text",
        "How bits follow from learned probabilities: the most probable of each layer, narrowed to the "
        "budget; the most probable within the budget, exactly; the least sharp of 20 that are drawn.",
        choices=SELECTIONS,
        recorded="given",
    )
    prune_below: float | None = option(
        None,
        "number",
        "Drop bit-widths whose probability is below P at the end of an epoch, such as 0.01.",
        shown="none",
        metavar="P",
        least=0,
        most=0.5,
        open=True,
        recorded="given",
    )
    precision: str = option(
        "float32",
        "text",
        "Precision of activations and convolutions during the search; for GPUs and TPUs.",
        choices=PRECISIONS,
        recorded="given",
    )


@dataclass(frozen=True, kw_only=True)
class LatencyOptions(Options):
    """What a budget of latency is for."""

    latency_table: str | Path | None = option(
        None,
        "file",
        "What tfmpq profile has measured, for --budget latency=2.5ms or latency=0.9x.",
        metavar="FILE.json",
        section=_LATENCY,
        recorded="never",
    )
    on: str | None = option(
        None,
        "text",
        "Device that the latency is for: local, ssh:HOST or adb[:SERIAL]; the table has to be that of its "
        "processor and runtime.",
        shown="local for a table that was measured so, else not asked",
        metavar="TARGET",
        section=_LATENCY,
        recorded="never",
    )
    threads: int | None = option(
        None,
        "whole",
        "Threads of the runtime that the latency is for.",
        shown="the table's",
        metavar="N",
        least=1,
        section=_LATENCY,
        recorded="never",
    )
    ssh_config: str | Path | None = option(
        None,
        "file",
        "Configuration file for ssh and scp (their -F).",
        shown="~/.ssh/config",
        metavar="FILE",
        envvar="TFMPQ_SSH_CONFIG",
        section=_LATENCY,
        recorded="never",
    )


@dataclass(frozen=True, kw_only=True)
class SearchOptions(
    LatencyOptions,
    SharpnessKnobs,
    PreprocessOptions,
    TrainingOptions,
    SelectionKnobs,
    MethodOptions,
    WidthOptions,
    BudgetOptions,
    DataOptions,
):
    """The options of `tfmpq.search`, each described in `tfmpq search --help` and docs/cli.md."""

    weights: str | None = weights_option("those of a model file, else random ones")
    pareto: tuple[str, ...] = option(
        (),
        "texts",
        "Write a policy for each of these budgets of size, such as 0.3x,0.4x,0.5x, from one search at the "
        "middle one.",
        metavar="LIMIT,...",
        recorded="given",
    )
    float_epochs: int = option(
        0, "whole", "Epochs of float training before the search.", metavar="N", least=0
    )
    target_input: int | None = option(
        None,
        "whole",
        "Image side in pixels at which the budget counts BOPs.",
        shown="that of the proxy",
        metavar="N",
        least=1,
    )
    target_classes: int | None = option(
        None,
        "whole",
        "Classes for which the budget counts the last layer.",
        shown="those of the proxy",
        metavar="N",
        least=2,
    )
    imitate: bool = option(
        False,
        "switch",
        "Learn to give what the float network gives on the proxy's images, not their labels; it keeps the "
        "classes of its weights (--target-classes).",
        recorded="given",
    )

    @property
    def knobs(self) -> dict[str, Any]:
        """The knobs that were given another value than their default."""
        return {name: value for name, value in self.changed.items() if name in KNOBS}

    @property
    def description(self) -> str:
        """The method with its knobs, for records: `asga (rho_max=0.1, norm=layer)`."""
        given = self.knobs
        knobs = ", ".join(f"{name}={given[name]}" for name in KNOBS if name in given)
        return f"{self.method} ({knobs})" if knobs else self.method


KNOBS: Mapping[str, Any] = {
    name: (SharpnessKnobs.defaults() | SelectionKnobs.defaults())[name]
    for name in ("perturb", *SharpnessKnobs.defaults(), *SelectionKnobs.defaults())
}
"""Options that not every method has, with their defaults; None stands for the method's own value."""


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(PreprocessOptions, DistillationOptions, TrainingOptions, DataOptions):
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
    PreprocessOptions,
    DistillationOptions,
    TrainingOptions,
    MethodOptions,
    WidthOptions,
    BudgetOptions,
    DataOptions,
):
    """The options of `tfmpq.run`, each described in `tfmpq run --help` and docs/cli.md."""

    weights: str | None = weights_option("those of a model file, else float training")
    budgets: tuple[str, ...] = budgets_option("size, bops or weight-bits")
    float_epochs: int | None = option(
        None,
        "whole",
        "Epochs of float training before the search.",
        shown="those of --epochs without --weights, else 0",
        metavar="N",
        least=0,
    )


def target_option() -> Any:
    """What a file is for; the command line says what each is for."""
    return option("litert", "text", "What the file is for.", choices=TARGETS)


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions(PreprocessOptions, DataOptions):
    """The options of `tfmpq.quantize`, each described in `tfmpq export --help` and docs/cli.md."""

    target: str = target_option()
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
