"""One call from a trained model and some pictures to the smallest proved file that keeps its accuracy."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfmpq.api.candidates import TARGET, Candidate, Forms, Workbench, forms_of
from tfmpq.api.compress_advice import advice_of
from tfmpq.api.compress_output import timed_table, write_page
from tfmpq.api.compress_report import CompressReport, front_entries
from tfmpq.api.compress_search import (
    UNIFORM_BITS,
    Analysis,
    DropTest,
    problem_of,
    within_budget,
    within_drop,
)
from tfmpq.api.export import check_export, write
from tfmpq.api.file_wishes import FileWishes, file_ends, micro_options
from tfmpq.api.given import GivenModel, given_model, refuse_other_than_model
from tfmpq.api.posttraining import data_warnings, float_reference, is_noise, task_of, what_was_lost
from tfmpq.api.search import Asked
from tfmpq.bars import reporting
from tfmpq.deploy.export import ExportReport, refuse_folder
from tfmpq.errors import UsageError
from tfmpq.files import refuse_unwritable
from tfmpq.methods import load_method
from tfmpq.methods.compress_options import DEFAULT_DROP, CompressOptions
from tfmpq.policy.policy import save_policy, uniform_policy
from tfmpq.progress import Reporter
from tfmpq.scratch import Scratch
from tfmpq.tasks.held_out import HeldOut, hold_out
from tfmpq.tasks.model_outputs import outputs_of
from tfmpq.tasks.paired import fewest_images, parse_drop, standard_error
from tfmpq.tasks.task import Task, begins_trained
from tfmpq.units import percent_text, points_text


def compress(
    model: Any,
    data: Any,
    *,
    budget: str | Sequence[str] | None = None,
    validation: Any = None,
    out: str | Path | None = None,
    front: str | Path | None = None,
    options: CompressOptions | None = None,
    progress: bool | Reporter | None = None,
    **changes: Any,
) -> CompressReport:
    """Write the smallest file that keeps a network's accuracy, or the best one within a budget.

    One sensitivity analysis gives the front of policies by the bytes of the file; with a budget its best
    policy is taken, else bisection over the front finds the smallest one whose drop, by its confidence
    bound, is at most `max_drop`. At most 8 candidates are reconstructed, written and scored: the score is
    that of the written file, run by LiteRT on the held-out images. Nothing is trained. The file is proved.

    Args:
        model: A trained Keras model, which is never changed, or a built-in name, `.keras` file or
            `MODULE:FUNCTION`.
        data: Images to calibrate with: `(x, y)`, `x`, a `tf.data.Dataset`, a `keras.utils.PyDataset`, an
            iterable of batches, whose values are the model's inputs as they are; or a word.
        budget: `KEY=VALUE` or several, such as `size=0.6x`; instead of `max_drop`. `size` is that of the
            weights, scales and biases in the very file, relative to the int8 file.
        validation: Images with labels to score on, in the form of `data`; None for the test part of a word,
            or a fifth of the data.
        out: File to write; None for a temporary one that lives as long as the result.
        front: HTML page to write about the whole front; None for none.
        options: All other options.
        progress: True shows progress, False none, None only on terminals and in IPython; or a reporter.
        **changes: Single options, such as `max_drop="0.5%"`; see `tfmpq.CompressOptions`.

    Raises:
        UsageError: A budget cannot be met (the smallest is said), the held-out images are too few to tell
            such a drop (the number needed is said), or the network has no score that a drop could be of.
        TfmpqError: The int8 file already loses more than `max_drop`; or as `export` does.
    """
    given = {} if budget is None else {"budgets": budget}
    chosen = CompressOptions.of(options, given | changes)
    places = (Path(out) if out is not None else None, Path(front) if front is not None else None)
    scratch = Scratch()
    with reporting(progress) as reporter:
        job = _prepare(model, data, validation, places, chosen, scratch, reporter)
        return _compress(job).keeping(scratch)


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """A compression that was found possible.

    Attributes:
        network: The network as it was given.
        bench: Float network, images, what candidates are made with.
        test: What a candidate has to keep; None with a budget.
        options: All options.
        path: File to write.
        stays: Whether that is a file of the user's.
        page: Page to write; None for none.
    """

    network: GivenModel
    bench: Workbench
    test: DropTest | None
    options: CompressOptions
    path: Path
    stays: bool
    page: Path | None

    @property
    def asked(self) -> str:
        """What was asked for, in words."""
        if self.test is None:
            return ", ".join(self.options.budgets)
        return f"max-drop {percent_text(self.test.most)}"

    @property
    def tuning(self) -> str:
        """The call that fine-tunes the next smaller candidate, as far as words can say it."""
        if not self.stays or self.bench.task.dataset.seen is not None:
            return "tfmpq.finetune(model, result.smaller, data)"
        weights = f" --weights {self.options.weights}" if self.options.weights else ""
        return (
            f"tfmpq finetune {self.path.with_suffix('.smaller.yaml')} --model {self.network.recorded} "
            f"--target {self.bench.data}{weights}"
        )


def _compress(job: _Job) -> CompressReport:
    began, bench, options = time.monotonic(), job.bench, job.options
    task, held_out, reporter = bench.task, bench.held_out, bench.reporter
    uniform = uniform_policy(
        job.network.recorded, [node.name for node in task.network.weighted], UNIFORM_BITS
    )
    forms, held = forms_of(task, options.forms, uniform)
    problem = problem_of(bench, options, forms, held)
    warnings = [*data_warnings(task), *_score_warning(task, held_out)]
    reporter.log("Candidate with uniform 8 bits")
    int8 = bench.make("int8", uniform, forms)
    if job.test is not None:
        job.test.refuse_lost(int8)
    asked = Asked(job.network, bench.data, str(options.data_dir or "") or None)
    outcome = load_method(problem.options.method).run(problem)
    analysis = Analysis(bench, forms, problem, asked, outcome)
    found = within_drop(analysis, int8, job.test) if job.test else within_budget(analysis, int8)
    chosen = found.tried[found.chosen]
    written, lost = _write(job, chosen, forms)
    table = timed_table(bench, found, written, options.confidence)
    smaller = None if found.failed is None else found.tried[found.failed].policy
    if job.stays:
        save_policy(chosen.policy, job.path.with_suffix(".policy.yaml"))
        job.path.with_suffix(".smaller.yaml").unlink(missing_ok=True)  # of an earlier compression
        if smaller is not None:
            save_policy(smaller, job.path.with_suffix(".smaller.yaml"))
    mean_bits = [problem.costs.mean_weight_bits(point.choice.weight_bits) for point in found.points]
    report = CompressReport(
        export=written,
        policy=chosen.policy,
        smaller=smaller,
        asked=job.asked,
        score=None if held_out is None else held_out.score_name,
        images=0 if held_out is None else len(held_out.right),
        confidence=options.confidence,
        table=table,
        front=front_entries(found, mean_bits, options.confidence),
        advice=advice_of(found, job.test, forms, job.tuning),
        warnings=(*warnings, *lost),
        seconds=round(time.monotonic() - began, 1),
        page=None if job.page is None else str(job.page),
    )
    if job.page is not None:
        write_page(job.page, report, analysis)
    return report


def _prepare(
    model: Any,
    data: Any,
    validation: Any,
    places: tuple[Path | None, Path | None],
    options: CompressOptions,
    scratch: Scratch,
    reporter: Reporter,
) -> _Job:
    """Load everything, and refuse what cannot be done before anything is computed."""
    test = _drop_test(options)
    refuse_other_than_model(model)
    network = given_model(model, scratch.path)
    out, page = places
    _check(network, data, out, page, options)
    keras.utils.set_random_seed(0)
    task = task_of(network, model, data, validation, options, reporter)
    _refuse_unfit(task)
    ends = file_ends(options.file, task.dataset.class_names, task.model)
    held_out = _hold_out(task, test, options, reporter)
    word = data if isinstance(data, str) else task.dataset.name
    bench = Workbench(task, word, float_reference(task), ends, held_out, scratch.path, reporter)
    path = out or scratch.path / f"{network.name}.{TARGET}.tflite"
    return _Job(network, bench, test, options, path, out is not None, page)


def _drop_test(options: CompressOptions) -> DropTest | None:
    """What a candidate has to keep; None with a budget.

    Raises:
        UsageError: There are both, or a drop is no number of points.
    """
    if options.budgets and options.max_drop is not None:
        raise UsageError(
            "A compression keeps a budget or an accuracy. Received: --budget "
            f"{', '.join(options.budgets)} and --max-drop {options.max_drop}. Leave one out."
        )
    if options.budgets:
        return None
    return DropTest(parse_drop(options.max_drop or DEFAULT_DROP), options.confidence)


def _check(
    network: GivenModel, data: Any, out: Path | None, page: Path | None, options: CompressOptions
) -> None:
    """Refuse what the words alone tell."""
    check_export(TARGET)
    if is_noise(data):
        raise UsageError(
            "A network is compressed with images like those that it will see. Received: random. Give "
            "pictures, or try sizes out with tfmpq export --calibrate random."
        )
    if not begins_trained(network.word, options.weights):
        raise UsageError(
            f"A trained network is compressed. Received: {network.name} without weights. Give --weights FILE."
        )
    micro_options(options.file, TARGET)
    for path in (out, page):
        if path is not None:
            refuse_folder(path)
            refuse_unwritable(path)
    if page is not None and page.suffix not in (".html", ".htm"):
        raise UsageError(f"A front is drawn on a page. Received: {page}. Name a file such as front.html.")


def _refuse_unfit(task: Task) -> None:
    """Refuse networks whose sensitivity cannot be told."""
    if len(task.model.outputs) > 1:
        raise UsageError(
            "Bits are searched for one output. Received: a model with "
            f"{len(task.model.outputs)}: {', '.join(task.network.outputs)}. Take the one that matters, "
            "keras.Model(model.input, model.get_layer(NAME).output), or write all at one width with "
            "tfmpq export --calibrate."
        )
    if task.loaded.new_classifier:
        raise UsageError(
            "A trained network is compressed. Received: weights for another number of classes. Give data of "
            "these classes, or train the classifier first."
        )


def _hold_out(
    task: Task, test: DropTest | None, options: CompressOptions, reporter: Reporter
) -> HeldOut | None:
    """The images to score on.

    Raises:
        UsageError: A drop is asked for, and there is no score, or the images are too few to tell one.
    """
    named = zip(outputs_of(task.model), task.network.outputs, strict=True)
    outputs = [replace(output, name=name) for output, name in named]
    count = min(len(task.dataset.test), options.limit)
    if test is not None and count < (needed := fewest_images(test.most, test.confidence)):
        least = 1 - (1 - test.confidence) ** (1 / count)
        raise UsageError(
            f"A drop of at most {points_text(test.most)} takes at least {needed} held-out images to "
            f"tell with {test.confidence:.4g} confidence. Received: {count} ({task.dataset.name}; "
            f"{len(task.dataset.train)} others calibrate). Give more images, ask for --max-drop "
            f"{percent_text(least + 5e-5)} or more, or name a size (--budget size=0.5x)."
        )
    found = hold_out(task, outputs, options.limit, reporter)
    if found is None and test is not None:
        shape = outputs[0].shape
        raise UsageError(
            f"A drop is one of a score, so the output has to be a classifier's. Received: "
            f"{outputs[0].name} of shape {shape} for {task.dataset.classes or 'no'} classes. Name a "
            "size instead (--budget size=0.5x)."
        )
    if found is not None and not found.labelled:
        reporter.log("The data have no labels: scores are agreement with the float model.")
    return found


def _score_warning(task: Task, held_out: HeldOut | None) -> list[str]:
    """What to say of a score that can hardly drop."""
    if held_out is None:
        return []
    if not held_out.labelled:
        if len(np.unique(held_out.classes)) > 1:
            return []
        return [
            f"The float model gives all {len(held_out.classes)} held-out images the same class, so agreement "
            "with it says nothing: check its weights and the preprocessing."
        ]
    chance = 1 / task.dataset.classes
    score, count = float(np.mean(held_out.right)), len(held_out.right)
    if score > chance + 3 * standard_error(chance, count):
        return []
    return [
        f"The float model has {100 * score:.1f} % of the labels right, no more than by chance: check the "
        "order of the classes and the preprocessing. A drop from there means nothing."
    ]


def _write(job: _Job, chosen: Candidate, forms: Forms) -> tuple[ExportReport, list[str]]:
    """Write and prove the file; and what it has lost, in words."""
    task = job.bench.task
    frozen = replace(chosen.frozen, metadata={**chosen.frozen.metadata, "top1": _top1(job, chosen)})
    reference = job.bench.reference
    wishes = FileWishes(forms, job.bench.ends, micro_options(job.options.file, TARGET))
    model = chosen.quantized
    held = model if job.bench.held_out is not None and task.loaded.classes > 1 else None
    written = write(frozen, job.path, TARGET, wishes, reference.images, held, job.bench.reporter, reference)
    lost = what_was_lost(task, model, chosen.policy, written.fidelity, reference.images)
    return written, lost


def _top1(job: _Job, chosen: Candidate) -> float | None:
    held_out = job.bench.held_out
    return chosen.score if held_out is not None and held_out.labelled else None
