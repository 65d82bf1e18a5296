"""The option of the verbs that train on several devices."""

from __future__ import annotations

import click

# Names of the library, which is too heavy to import for a help text; a test compares them.
STRATEGIES = ("single", "data-parallel", "multi-worker")

strategy_option = click.option(
    "--strategy",
    type=click.Choice(STRATEGIES),
    default="single",
    show_default=True,
    help="Train on one device, on all of this machine, or on those of several processes that run this "
    "command, found by TF_CONFIG or, on JAX, KERAS_DISTRIBUTION_* or a launcher such as Slurm.",
)
