"""Options that several verbs share, so that they mean and check the same everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tfmpq.methods import METHODS
from tfmpq.search_options import NORMS, PERTURBED, PRECISIONS, RADII, SELECTIONS

# Names of the library, whose modules are too heavy to import for a help text; a test compares them.
PREPROCESSINGS = ("none", "unit", "tf", "torch", "caffe")
STRATEGIES = ("single", "data-parallel", "multi-worker")

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Sectioned(click.Option):
    """An option that `SectionedCommand` lists under the heading `section`."""

    def __init__(self, *args: Any, section: str, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose help lists options under the headings that they have."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the plain options first, then a section for each heading."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(parameter, "section", "Options"), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class Texts(click.ParamType):
    """A comma-separated list of texts."""

    name = "texts"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Split the text; values that are split already pass."""
        if isinstance(value, tuple):
            return value
        return tuple(part.strip() for part in str(value).split(",") if part.strip())


class BitWidths(click.ParamType):
    """A comma-separated list of bit-widths from 2 to 8; comes out sorted, each once."""

    name = "bits"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Parse the text; values that are parsed already pass."""
        if isinstance(value, tuple):
            return value
        try:
            bits = sorted({int(part) for part in str(value).split(",")})
        except ValueError:
            bits = []
        if not bits or bits[0] < 2 or bits[-1] > 8:
            self.fail(
                f"Bit-widths are whole numbers from 2 to 8. Received: {value}. Write 2,4,8.", param, ctx
            )
        return tuple(bits)


def existing_file_or_folder() -> click.Path:
    """The type of an argument that names something that must be there."""
    return click.Path(exists=True, path_type=Path)


def output_path() -> click.Path:
    """The type of an option that names something to be written."""
    return click.Path(path_type=Path)


def example(*lines: str) -> str:
    """An epilog for the help, as lines that Click must not wrap."""
    return "\n".join(["\b", "Example:", *(f"  {line}" for line in lines)])


def _finite(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number.", ctx=ctx, param=param)
    return value


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object to stdout; all else goes to stderr."
)

data_dir = click.option(
    "--data-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    envvar="TFMPQ_DATA_DIR",
    show_envvar=True,
    help="Folder that is looked in first for data sets, for example for cifar10_train.npz.",
)

preprocess = click.option(
    "--preprocess",
    "preprocessing",
    type=click.Choice(PREPROCESSINGS),
    help="How pixels become inputs: 0..255, 0..1, -1..1, ImageNet mean and standard deviation, or BGR less "
    "the mean.  [default: what the network expects]",
)

weights = click.option(
    "--weights",
    metavar="FILE|none",
    help="Float weights: .keras, .weights.h5, .h5 or .npz; none starts from random ones.",
)

run_folder = click.option(
    "--out",
    metavar="RUN",
    type=output_path(),
    help="Run folder; a started one is resumed.  [default: the given RUN, or runs/MODEL_DATA]",
)


def model(*, required: bool) -> Decorator:
    """The network."""
    return click.option(
        "--model",
        required=required,
        metavar="NAME|FILE.keras|MODULE:FUNCTION",
        help="Built-in network, saved Keras model, or a function of yours that returns one"
        + (" (its module is imported)." if required else ".  [default: the one in the policy]"),
    )


def data(name: str, what: str, *parameters: str, required: bool = True) -> Decorator:
    """A data set."""
    return click.option(
        name,
        *parameters,
        required=required,
        metavar="DATA",
        help=f"{what}: digits, a tensorflow-datasets name (cifar10), npz:PATH, folder:DIR or tfrecord:GLOB.",
    )


def float_epochs(default: int | None, what: str) -> Decorator:
    """Float training before the search; `what` says the default of None."""
    return click.option(
        "--float-epochs",
        metavar="N",
        type=click.IntRange(min=0),
        default=default,
        help=f"Epochs of float training before the search.  [default: {what}]",
    )


def _sharpness(*names: str, **attributes: Any) -> Decorator:
    """An option of sharpness-aware methods."""
    return click.option(*names, cls=Sectioned, section="Sharpness-aware methods", **attributes)


def stack(*decorators: Decorator) -> Decorator:
    """Apply several option decorators; the help lists them in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


training_options = stack(
    click.option(
        "--epochs",
        metavar="N",
        type=click.IntRange(min=0),
        default=10,
        show_default=True,
        help="Epochs of training.",
    ),
    click.option(
        "--steps-per-epoch",
        metavar="N",
        type=click.IntRange(min=1),
        help="Steps in an epoch.  [default: all images once]",
    ),
    click.option(
        "--batch-size",
        metavar="N",
        type=click.IntRange(min=1),
        default=128,
        show_default=True,
        help="Images in a step.",
    ),
    click.option(
        "--learning-rate",
        metavar="RATE",
        type=click.FloatRange(min=0, min_open=True),
        callback=_finite,
        help="Peak learning rate of the weights.  [default: the one that suits where training starts]",
    ),
    click.option(
        "--seed",
        metavar="N",
        type=click.IntRange(0, 2**32 - 1),
        default=0,
        show_default=True,
        help="Random seed.",
    ),
)

weight_bits = click.option(
    "--weight-bits",
    type=BitWidths(),
    default="2,4,8",
    show_default=True,
    help="Weight bit-widths to choose from.",
)

activation_bits = click.option(
    "--activation-bits",
    type=BitWidths(),
    default="8",
    show_default=True,
    help="Activation bit-widths to choose from.",
)

search_options = stack(
    click.option(
        "--budget",
        "budgets",
        multiple=True,
        metavar="KEY=VALUE",
        help="size, bops, weight-bits or, with --latency-table, latency: absolute (size=1.2MB, bops=3.2G, "
        "weight-bits=4.0, latency=2.5ms) or relative to uniform 8 bits (size=0.5x). May be repeated: all are "
        "met.  [default: size=0.5x]",
    ),
    weight_bits,
    activation_bits,
    click.option(
        "--method",
        type=click.Choice(METHODS),
        default="asga",
        show_default=True,
        help="Search method: trained (asga, sagm, gsam, sam, sgd), measured (sensitivity), or a control "
        "(random, uniform).",
    ),
)

selection_options = stack(
    click.option(
        "--select",
        type=click.Choice(SELECTIONS),
        default="knapsack",
        show_default=True,
        help="How bits follow from learned probabilities: the most probable of each layer, narrowed to the "
        "budget; the most probable within the budget, exactly; the least sharp of 20 that are drawn.",
    ),
    click.option(
        "--pareto",
        metavar="LIMIT,...",
        type=Texts(),
        default="",
        help="Write a policy for each of these budgets of size, such as 0.3x,0.4x,0.5x, from one search at "
        "the middle one.",
    ),
    click.option(
        "--prune-below",
        metavar="P",
        type=click.FloatRange(0, 0.5, min_open=True, max_open=True),
        help="Drop bit-widths whose probability is below P at the end of an epoch, such as 0.01.  "
        "[default: none]",
    ),
    click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        default="float32",
        show_default=True,
        help="Precision of activations and convolutions during the search; for GPUs and TPUs.",
    ),
)

sharpness_options = stack(
    _sharpness(
        "--radius",
        type=click.Choice(RADII),
        help="How asga's radius follows the surrogate gap h: phi / ln(1 + h), ln(1 + h), or not at all.  "
        "[default: inverse]",
    ),
    _sharpness(
        "--rho-max",
        metavar="RHO",
        type=click.FloatRange(min=0, min_open=True),
        callback=_finite,
        help="Largest radius; the radius of methods with a fixed one.  [default: 0.05; with --adaptive 0.5]",
    ),
    _sharpness(
        "--phi",
        metavar="PHI",
        type=click.FloatRange(min=0, min_open=True),
        callback=_finite,
        help="Constant of the inverse radius.  [default: from the first gaps]",
    ),
    _sharpness(
        "--alpha",
        metavar="ALPHA",
        type=click.FloatRange(min=0),
        callback=_finite,
        help="How strongly both gradients are aligned.  [default: 0.001; gsam: 0.4]",
    ),
    _sharpness(
        "--perturb",
        type=click.Choice(PERTURBED),
        default="quantized",
        show_default=True,
        help="What is perturbed: kernels after quantization, or before.",
    ),
    _sharpness(
        "--norm",
        type=click.Choice(NORMS),
        default="global",
        show_default=True,
        help="One gradient norm over all layers, or one in each.",
    ),
    _sharpness(
        "--adaptive/--no-adaptive",
        default=False,
        show_default=True,
        help="Perturb in proportion to the magnitude of the weights (ASAM).",
    ),
    _sharpness(
        "--second-gradient-every",
        metavar="K",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Take the second gradient every K steps and reuse a part of it in between (LookSAM).",
    ),
)

strategy = click.option(
    "--strategy",
    type=click.Choice(STRATEGIES),
    default="single",
    show_default=True,
    help="Train on one device, on all of this machine, or on those of several processes that run this "
    "command, found by TF_CONFIG or, on JAX, KERAS_DISTRIBUTION_* or a launcher such as Slurm.",
)

distill = click.option(
    "--distill/--no-distill",
    default=True,
    show_default=True,
    help="Learn from the float model's outputs as well.",
)

distill_weight = click.option(
    "--distill-weight",
    metavar="SHARE",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Share of the float model's outputs in the loss; with 1 the labels are not used.",
)

frozen_statistics = click.option(
    "--frozen-statistics-epochs",
    metavar="N",
    type=click.IntRange(min=0),
    help="Last epochs in which BatchNorm uses its moving statistics; with few images, take all.  "
    "[default: a fifth of the epochs]",
)
