"""Where a search begins: float training before it, what is said of it, and what imitation needs."""

from __future__ import annotations

from tfmpq.errors import UsageError
from tfmpq.methods import load_method
from tfmpq.methods.method import Method, Problem
from tfmpq.methods.options import SearchOptions
from tfmpq.progress import Reporter
from tfmpq.tasks.task import Task


def default_float_epochs(task: Task, options: SearchOptions, searcher: Method) -> int:
    """Epochs of float training: as asked for, else none where weights are trained or nothing reads them."""
    if options.float_epochs is not None:
        return options.float_epochs
    return 0 if task.begins_trained or options.imitate or not searcher.reads_weights else options.epochs


def announce_start(problem: Problem, reporter: Reporter) -> None:
    """Say what the search begins with, where that is not trained weights."""
    task, options = problem.task, problem.options
    if task.begins_trained or not load_method(options.method).reads_weights:
        return
    if not options.float_epochs:
        reporter.log(f"{task.loaded.name} starts from random weights and without float training, as asked.")
        return
    batches = task.batches(options.batch_size, options.seed, options.steps_per_epoch)
    steps = options.float_epochs * len(batches)
    reporter.log(
        f"{task.loaded.name} has no trained weights: first it is trained in float on the proxy, for "
        f"{options.float_epochs} epochs, {steps} steps (see --float-epochs, --weights)."
    )


def check_imitation(task: Task, options: SearchOptions) -> None:
    """Refuse to imitate a network that has learned nothing.

    Raises:
        UsageError: It is trained only now, or has no weights that fit its classes.
    """
    if options.float_epochs or not task.is_trained:
        why = "float training before it" if options.float_epochs else "no weights that fit its classes"
        raise UsageError(
            f"Only a trained network can be imitated. Received: imitate with {why}. "
            "Give --weights, and --target-classes as many as they have."
        )
