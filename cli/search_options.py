"""Options of a search: what it chooses from, how, and within what."""

from __future__ import annotations

from typing import Any

import click

from tfmpq.methods import METHODS
from tfmpq.methods.options import NORMS, PERTURBED, PRECISIONS, RADII, SELECTIONS

from .options import Decorator, Sectioned, finite, stack


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


def _budget(latency: bool) -> Decorator:
    """Budgets; `latency` for a verb that takes a latency table."""
    keys = (
        "size, bops, weight-bits or, with --latency-table, latency"
        if latency
        else "size, bops or weight-bits"
    )
    example = ", latency=2.5ms" if latency else ""
    return click.option(
        "--budget",
        "budgets",
        multiple=True,
        metavar="KEY=VALUE",
        help=f"{keys}: absolute (size=1.2MB, bops=3.2G, weight-bits=4.0{example}) or relative to uniform "
        "8 bits (size=0.5x). May be repeated: all are met.  [default: size=0.5x]",
    )


def search_options(*, latency: bool) -> Decorator:
    """What every search is asked for; `latency` for a verb that takes a latency table."""
    return stack(_budget(latency), weight_bits, activation_bits, _method)


_method = click.option(
    "--method",
    type=click.Choice(METHODS),
    default="asga",
    show_default=True,
    help="Search method: trained (asga, sagm, gsam, sam, sgd, fracbits), measured (sensitivity), or a "
    "control (random, uniform).",
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
        callback=finite,
        help="Largest radius; the radius of methods with a fixed one.  [default: 0.05; with --adaptive 0.5]",
    ),
    _sharpness(
        "--phi",
        metavar="PHI",
        type=click.FloatRange(min=0, min_open=True),
        callback=finite,
        help="Constant of the inverse radius.  [default: from the first gaps]",
    ),
    _sharpness(
        "--alpha",
        metavar="ALPHA",
        type=click.FloatRange(min=0),
        callback=finite,
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
