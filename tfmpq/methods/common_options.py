"""Options that several verbs have.

Nothing heavy is imported here, so that the command line can read the names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfmpq.graph.containers import TARGETS
from tfmpq.options import Options, option

METHODS = ("asga", "fisher", "fracbits", "gsam", "random", "sagm", "sam", "sensitivity", "sgd", "uniform")
"""Names of `tfmpq.methods`, which imports this file; a test compares them."""

PREPROCESSINGS = ("none", "unit", "tf", "torch", "caffe")
"""Names of `tfmpq.data.preprocess`, which is too heavy to import here; a test compares them."""


OPTIMIZERS = ("sgd", "adamw")
PRECISIONS = ("float32", "bfloat16")
JITS = ("auto", "on", "off")
NORMS = ("global", "layer")

SHARPNESS = "Sharpness-aware methods"
"""Heading of the options that such methods alone have."""


def weights_option(default: str) -> Any:
    """Float weights; `default` says what is taken without the option."""
    return option(
        None,
        "text",
        "Float weights: .keras, .weights.h5, .h5 or .npz; imagenet takes those that Keras publishes, from "
        "its cache or the network; none starts from random ones.",
        shown=default,
        metavar="FILE|imagenet|none",
        recorded="never",
    )


def budgets_option(keys: str, example: str = "", shown: str = "size=0.5x") -> Any:
    """Budgets; `keys` says which there are, `shown` what is taken without."""
    return option(
        (),
        "texts",
        f"{keys}: absolute (size=1.2MB, bops=3.2G, weight-bits=4.0{example}) or relative to uniform 8 bits "
        "(size=0.5x). May be repeated: all are met.",
        shown=shown,
        flag="--budget",
        metavar="KEY=VALUE",
        many=True,
        recorded="never",
    )


def target_option() -> Any:
    """What a file is for; the command line says what each is for."""
    return option("litert", "text", "What the file is for.", choices=TARGETS)


@dataclass(frozen=True, kw_only=True)
class FolderOptions(Options):
    """Where data lie."""

    data_dir: str | Path | None = option(
        None,
        "folder",
        "Folder that is looked in first for data sets, for example for cifar10_train.npz.",
        envvar="TFMPQ_DATA_DIR",
        recorded="never",
    )


@dataclass(frozen=True, kw_only=True)
class DataOptions(FolderOptions):
    """Where data and weights come from."""

    weights: str | None = weights_option("those of a model file")


@dataclass(frozen=True, kw_only=True)
class ReconstructionOptions(Options):
    """What quantized layers are fitted to those of the float network on."""

    calibration_images: int = option(
        1024,
        "whole",
        "Training images that layers are fitted to the float network on; all if there are fewer.",
        metavar="N",
        least=1,
        recorded="given",
    )
    views: int = option(
        1,
        "whole",
        "Views of each of these images: the image itself, and random crops and mirrored copies of it.",
        metavar="N",
        least=1,
        recorded="given",
    )


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
        "size, kernel-size, bops, weight-bits or, with --latency-table, latency", ", latency=2.5ms"
    )


@dataclass(frozen=True, kw_only=True)
class WidthOptions(Options):
    """Widths to choose from."""

    weight_bits: tuple[int, ...] = option((2, 4, 8), "bits", "Weight bit-widths to choose from.")
    activation_bits: tuple[Any, ...] = option((8,), "bits", "Activation bit-widths to choose from.")


@dataclass(frozen=True, kw_only=True)
class SearchedWidthOptions(WidthOptions):
    """Widths to choose from, where activations may stay float."""

    activation_bits: tuple[Any, ...] = option(
        (8,),
        "bits",
        "Activation bit-widths to choose from. Or dynamic: floats that kernels quantize to 8 bits as they "
        "read them, which takes transformers.",
        metavar="BITS|dynamic",
        choices=("dynamic",),
    )

    @property
    def dynamic(self) -> bool:
        """Whether activations are float, quantized where a kernel reads them."""
        return self.activation_bits == ("dynamic",)

    @property
    def activation_widths(self) -> tuple[int, ...]:
        """Widths of activations to choose from; what kernels read of float ones has 8 bits."""
        return (8,) if self.dynamic else self.activation_bits


@dataclass(frozen=True, kw_only=True)
class PinOptions(Options):
    """Widths that single layers are given beforehand."""

    pin: tuple[str, ...] = option(
        (),
        "texts",
        "Width of the weights of a layer, or of all layers that a pattern names, such as 'block_?_expand=8'. "
        "May be repeated.",
        metavar="LAYER=BITS",
        many=True,
        recorded="given",
    )
    at_least: tuple[str, ...] = option(
        (),
        "texts",
        "Least width of such layers; without it, classifiers have 4 bits where the budget allows. May be "
        "repeated.",
        metavar="LAYER=BITS",
        many=True,
        recorded="given",
    )


@dataclass(frozen=True, kw_only=True)
class MethodOptions(Options):
    """How widths are chosen."""

    method: str = option(
        "asga",
        "text",
        "Search method: trained (asga, sagm, gsam, sam, sgd, fracbits), measured (sensitivity, fisher), or a "
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
    optimizer: str | None = option(
        None,
        "text",
        "Optimizer of the weights; steps of quantizers have Adam.",
        shown="sgd; with LayerNormalization adamw",
        choices=OPTIMIZERS,
        recorded="given",
    )
    jit: str = option(
        "auto",
        "text",
        "Compile the steps with XLA; auto does so on GPUs. JAX always does.",
        choices=JITS,
        recorded="never",
    )
    seed: int = option(0, "whole", "Random seed.", metavar="N", least=0, most=2**32 - 1)


@dataclass(frozen=True, kw_only=True)
class DistillationOptions(Options):
    """Learning from the float model."""

    distill: bool = option(True, "yes-no", "Learn from the float model's outputs as well.")


@dataclass(frozen=True, kw_only=True)
class PerturbationOptions(Options):
    """How sharpness-aware methods perturb, in a search as in a fine-tuning."""

    norm: str = option(
        "global",
        "text",
        "One gradient norm over all layers, or one in each.",
        choices=NORMS,
        section=SHARPNESS,
        recorded="given",
    )
    adaptive: bool = option(
        False,
        "yes-no",
        "Perturb in proportion to the magnitude of the weights (ASAM).",
        section=SHARPNESS,
        recorded="given",
    )
    second_gradient_every: int = option(
        1,
        "whole",
        "Take the second gradient every K steps and reuse a part of it in between (LookSAM).",
        metavar="K",
        least=1,
        section=SHARPNESS,
        recorded="given",
    )
