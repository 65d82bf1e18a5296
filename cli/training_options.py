"""Options of the verbs that train."""

from __future__ import annotations

import click

from .options import finite, stack

# Names of the library, which is too heavy to import for a help text; a test compares them.
STRATEGIES = ("single", "data-parallel", "multi-worker")

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
        callback=finite,
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

strategy_option = click.option(
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
