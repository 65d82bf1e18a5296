"""The search: learn which bit-width every layer needs, on a small proxy data set, under a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import date
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfmpq.api.given import GivenModel, given_model, refuse_other_than_model
from tfmpq.api.search_start import announce_start, check_imitation, default_float_epochs
from tfmpq.bars import reporting
from tfmpq.data.objects import model_rank, open_data
from tfmpq.deploy.devices.facts import present
from tfmpq.errors import UsageError
from tfmpq.files import write_json
from tfmpq.methods import load_method
from tfmpq.methods.latency_budget import latencies, latency_record, with_latency
from tfmpq.methods.method import Choice, Outcome, Problem
from tfmpq.methods.options import SearchOptions
from tfmpq.policy.allocation import check_feasible_together
from tfmpq.policy.budget import Budget, parse_budgets
from tfmpq.policy.cost import REFERENCE_BITS
from tfmpq.policy.network_cost import activation_products, cost_model
from tfmpq.policy.policy import BudgetRecord, LayerChoice, Policy, SearchSpace, load_policy, save_policy
from tfmpq.policy.search_space import activation_candidates, weight_candidates
from tfmpq.progress import Reporter
from tfmpq.provenance import fingerprint, versions
from tfmpq.quantization.discretization import restrict
from tfmpq.reports.drawings import Drawing, policy_drawing
from tfmpq.results import Result
from tfmpq.scratch import folder_or_scratch
from tfmpq.tasks.score_names import ACCURACY
from tfmpq.tasks.scoring import score_model
from tfmpq.tasks.task import Task, load_task, target_network
from tfmpq.training.compiling import compiling
from tfmpq.training.distribution import run_folder
from tfmpq.training.float_training import pretrain
from tfmpq.training.run_folder import Stage

_EVALUATED_IMAGES = 1000


@dataclass(frozen=True, slots=True)
class Asked:
    """What a search was asked for beside its options.

    Attributes:
        model: The network.
        proxy: The data: a word, or the name that an object got.
        data_dir: Folder that data were looked for in.
    """

    model: GivenModel
    proxy: str
    data_dir: str | None


@dataclass(frozen=True, slots=True)
class SearchResult(Result, verb="search"):
    """What a search found.

    Attributes:
        run: Run folder.
        policy: The policy, which lies in `policy.yaml` of the run folder.
        model: Network name.
        preprocessing: Name of the preprocessing.
        budget: For each budget `key`, `asked`, `limit`, `reached`.
        bits: Weight bits by layer.
        activation_bits: Activation bits by tensor.
        bops: Bit operations of `float`, `int8` and `policy`.
        size: Bytes of `float`, `int8` and `policy`, the latter two in the storage form.
        mean_weight_bits: Mean bits of a weight.
        repaired: Whether the most probable choices had to be changed to meet the budgets.
        accuracy: Score of the float network and of the policy without fine-tuning, on some test images;
            of an imitation of classes, the share of them that get the same class from both.
        score_name: What that is: `accuracy` (top-1), `label accuracy` or `explained variance`.
        search_seconds: Wall-clock time of the search itself, since it was last resumed.
        method: The method with its knobs.
        gmpq: `compression` and `bops` of the policy as the GMPQ and EdMIPS papers count, first and last
            layer left out; `bops` above are SAQ's, all layers counted.
        latency: With a latency table, milliseconds of `int8` and `policy` as it predicts them.
        latency_conditions: What the table is for: processor, way to it, runtime, threads.
        pareto: With a front, for each of its budgets `asked`, `policy` (path), `limit`, `reached`, `bops`,
            `mean_weight_bits` and `accuracy` without fine-tuning; with a table also `latency`.
        data_dir: Folder that the data came from.
    """

    run: str
    policy: Policy
    model: str
    preprocessing: str
    budget: list[dict[str, Any]]
    bits: dict[str, int]
    activation_bits: dict[str, int]
    bops: dict[str, int]
    size: dict[str, int]
    mean_weight_bits: float
    repaired: bool
    accuracy: dict[str, float]
    search_seconds: float
    method: str = ""
    gmpq: dict[str, float] = field(default_factory=dict)
    latency: dict[str, float] = field(default_factory=dict)
    latency_conditions: str | None = None
    pareto: list[dict[str, Any]] = field(default_factory=list)
    data_dir: str | None = None
    score_name: str = ACCURACY

    def to_json(self) -> dict[str, Any]:
        """All fields, the policy as the path of its file, and the form that sizes refer to."""
        told = {"policy": str(Path(self.run, "policy.yaml")), "size_form": "storage"}
        return Result.to_json(self) | told

    @classmethod
    def of(cls, finished: Mapping[str, Any], folder: Path) -> SearchResult:
        """The result that a run folder holds."""
        known = {field.name: finished[field.name] for field in fields(cls) if field.name in finished}
        return cls(**known | {"run": str(folder), "policy": load_policy(folder / "policy.yaml")})

    def plot(self) -> Drawing:
        """The bits of each layer."""
        return policy_drawing(self.bits)


def search(
    model: Any,
    data: Any,
    *,
    budget: str | Sequence[str] | None = None,
    method: str | None = None,
    validation: Any = None,
    out: str | Path | None = None,
    options: SearchOptions | None = None,
    progress: bool | Reporter | None = None,
    **changes: Any,
) -> SearchResult:
    """Search the bit-width of every layer, on a proxy data set and under a budget.

    Args:
        model: A Keras model, which is never changed, or a built-in name, `.keras` file or `MODULE:FUNCTION`.
        data: What is searched on: `(x, y)`, `x`, a `tf.data.Dataset`, a `keras.utils.PyDataset`, an iterable
            of batches, whose values are the model's inputs as they are; or a word, such as `cifar10`.
        budget: `KEY=VALUE` or several, all of them met, such as `size=0.4x`; None for `size=0.5x`.
        method: Name in `tfmpq.methods.METHODS`; None for that of the options.
        validation: What the float network and the policy are scored on, in the form of `data`; None for the
            test part of a word, or a fifth of the data.
        out: Run folder; the same call resumes it. None leaves nothing behind: a temporary folder lives as
            long as the result.
        options: All other options.
        progress: True shows progress, False none, None only on terminals and in IPython; or a reporter.
        **changes: Single options, such as `epochs=3`; see `tfmpq.SearchOptions`.

    Returns:
        The policy (`found.policy`) and what it costs; `finetune` takes it.

    Raises:
        UsageError: A name is unknown, the method does not have an option, a budget cannot be met, the latency
            table is one of something else, or the folder holds a run with other options.
        TfmpqError: The network has layers that cannot be quantized (they are listed), or a file is damaged.
    """
    given = {"budgets": budget, "method": method}
    chosen = SearchOptions.of(options, {k: v for k, v in given.items() if v is not None} | changes)
    with reporting(progress) as reporter, compiling(chosen.jit, reporter):
        return _search(model, data, validation, out, chosen, reporter)


def _search(
    model: Any, data: Any, validation: Any, out: str | Path | None, options: SearchOptions, reporter: Reporter
) -> SearchResult:
    searcher = load_method(options.method)
    searcher.check(options)
    refuse_other_than_model(model)
    keras.utils.set_random_seed(options.seed)
    dataset = open_data(
        data,
        validation,
        data_dir=options.data_dir,
        rank=model_rank(model),
        sampled=not (searcher.reads_weights or options.float_epochs),
        reporter=reporter,
    )
    folder, kept = folder_or_scratch(out)
    network = given_model(model, folder)
    task = load_task(
        network.word,
        dataset,
        weights=options.weights,
        preprocessing=options.preprocessing,
        reporter=reporter,
        name=network.name,
        classes=options.target_classes if options.imitate else None,
        dynamic=options.dynamic,
    )
    if not dataset.labelled and not options.imitate:
        options = replace(options, imitate=True)
    options = replace(options, float_epochs=default_float_epochs(task, options, searcher))
    if options.imitate:
        check_imitation(task, options)
    asked = Asked(
        network, data if isinstance(data, str) else dataset.name, str(options.data_dir or "") or None
    )
    stage = Stage(run_folder(folder), "search")
    problem, front = _problem(task, options, asked, stage, reporter)
    with stage.opened(_record(problem, asked)) as finished:
        if finished is not None:
            reporter.log(f"{stage.folder} is finished; its result is shown.")
            return SearchResult.of(finished, stage.folder).keeping(*kept, task.dataset)
        announce_start(problem, reporter)
        if options.float_epochs:
            pretrain(
                task,
                stage.folder,
                epochs=options.float_epochs,
                steps_per_epoch=options.steps_per_epoch,
                batch_size=options.batch_size,
                seed=options.seed,
                from_weights=task.begins_trained,
                reporter=reporter,
                optimizer=options.optimizer,
            )
        outcome = searcher.run(problem)
        result = _finish(problem, front, outcome, asked)
        write_json(stage.path(".result.json"), result.to_json())
    return result.keeping(*kept, task.dataset)


def _problem(
    task: Task, options: SearchOptions, asked: Asked, stage: Stage, reporter: Reporter
) -> tuple[Problem, tuple[Budget, ...]]:
    """What is to be searched, and the budgets of the front, if one is asked for.

    Raises:
        UsageError: A budget cannot be met.
    """
    network = target_network(asked.model.word, task, options.target_input, options.target_classes)
    classes = options.target_classes or task.loaded.classes
    costs = with_latency(cost_model(network), network, task.loaded.name, classes, options, present, reporter)
    if products := activation_products(network):
        reporter.log(
            f"{products:,} multiply-accumulates of two activations stay float; bit operations leave them out."
        )
    other_classes = classes != task.loaded.classes
    space = (
        weight_candidates(task.network, options.weight_bits, other_classes),
        activation_candidates(task.network, options.activation_widths),
    )
    front = sorted((parse_budgets([f"size={v}"], costs)[0] for v in options.pareto), key=lambda b: b.limit)
    budgets = parse_budgets(options.budgets, costs) if options.budgets or not front else ()
    if front and any(budget.key == "size" for budget in budgets):
        raise UsageError(
            "A front is one of size, so there is no other budget of size. "
            f"Received: {', '.join(options.budgets)} beside {', '.join(options.pareto)}. Leave one out."
        )
    if not options.budgets and not front:
        reporter.log(f"No budget given: {budgets[0].text} of the uniform 8-bit model (storage form).")
    for budget in front:
        check_feasible_together((budget, *budgets), costs, *space)
    if front:
        budgets = (front[(len(front) - 1) // 2], *budgets)
    check_feasible_together(budgets, costs, *space)
    return Problem(task, costs, budgets, *space, options, stage, reporter), tuple(front)


def _record(problem: Problem, asked: Asked) -> dict[str, Any]:
    """The options that decide the result, as a run folder keeps them; knobs only where they were given."""
    options, task = problem.options, problem.task
    return {
        "stage": "search",
        "model": asked.model.recorded,
        "model_file": asked.model.fingerprint,
        "proxy": asked.proxy,
        "data": task.dataset.fingerprint,
        "weights": fingerprint(options.weights),
        "budgets": [budget.text for budget in problem.budgets],
        "float_is_trained": bool(options.float_epochs) or task.is_trained,
        "preprocessing": task.preprocessing,
        **latency_record(options),
        **options.record(),
    }


def _finish(problem: Problem, front: Sequence[Budget], outcome: Outcome, asked: Asked) -> SearchResult:
    """Choose, write policies and models, and say what was found."""
    task, stage, costs = problem.task, problem.stage, problem.costs
    size, *others = problem.budgets
    along = {budget.text: outcome.choose((budget, *others)) for budget in front}
    chosen = along[size.text] if front else outcome.choose(problem.budgets)
    policy = policy_of_choice(problem, asked, problem.budgets, chosen)
    rows = [_front_row(problem, asked, outcome, (budget, *others), along[budget.text]) for budget in front]
    reports = {
        "int8": costs.report(*costs.uniform()),
        "policy": costs.report(chosen.weight_bits, chosen.activation_bits),
    }
    gmpq = costs.gmpq_bops(chosen.weight_bits, chosen.activation_bits)
    stage.save_model(outcome.model)
    stage.save_model(task.model, ".float.keras")
    save_policy(policy, stage.folder / "policy.yaml")
    return SearchResult(
        run=str(stage.folder),
        policy=policy,
        model=task.loaded.name,
        preprocessing=task.preprocessing,
        budget=[record.model_dump() for record in policy.budget],
        bits=chosen.weight_bits,
        activation_bits=chosen.activation_bits,
        bops={"float": costs.float_bops} | {name: report.bops for name, report in reports.items()},
        size={"float": costs.float_size} | {name: report.size for name, report in reports.items()},
        mean_weight_bits=reports["policy"].mean_weight_bits,
        repaired=chosen.repaired,
        accuracy={
            **({} if problem.options.imitate else {"float": _accuracy(task, task.model)}),
            "policy_without_finetuning": _untuned(problem, restrict(outcome.model, policy)),
        },
        search_seconds=round(outcome.seconds, 3),
        method=problem.options.description,
        gmpq={"compression": round(gmpq.compression, 3), "bops": round(gmpq.bops)},
        latency=latencies(costs, chosen.weight_bits, chosen.activation_bits),
        latency_conditions=costs.latency.conditions if costs.latency else None,
        pareto=rows,
        data_dir=str(Path(asked.data_dir).resolve()) if asked.data_dir else None,
        score_name=task.scored_by.score_name,
    )


def _front_row(
    problem: Problem, asked: Asked, outcome: Outcome, budgets: Sequence[Budget], chosen: Choice
) -> dict[str, Any]:
    """Write one policy of a front and say what it is."""
    value = budgets[0].text.partition("=")[2].strip()
    path = problem.stage.folder / f"policy-{value}.yaml"
    policy = policy_of_choice(problem, asked, budgets, chosen)
    save_policy(policy, path)
    report = problem.costs.report(chosen.weight_bits, chosen.activation_bits)
    predicted = latencies(problem.costs, chosen.weight_bits, chosen.activation_bits)
    return {
        "asked": budgets[0].text,
        "policy": str(path),
        "limit": budgets[0].limit,
        "reached": report.size,
        "bops": report.bops,
        "mean_weight_bits": report.mean_weight_bits,
        "accuracy": _untuned(problem, restrict(outcome.model, policy)),
        **({"latency": predicted["policy"]} if predicted else {}),
    }


def policy_of_choice(problem: Problem, asked: Asked, budgets: Sequence[Budget], chosen: Choice) -> Policy:
    """Bit-widths with where they come from.

    Args:
        problem: What was searched.
        asked: What for.
        budgets: The budgets that they meet.
        chosen: The bit-widths.
    """
    options, costs = problem.options, problem.costs
    narrow = {name: bits for name, bits in chosen.activation_bits.items() if bits != REFERENCE_BITS}
    return Policy(
        format="tfmpq-policy/1",
        model=asked.model.recorded,
        layers={name: LayerChoice(weight_bits=bits) for name, bits in chosen.weight_bits.items()},
        activations="dynamic" if options.dynamic else narrow,
        budget=[
            BudgetRecord(
                key=b.key,
                asked=b.text,
                limit=float(b.limit),
                reached=float(costs.value(b.key, chosen.weight_bits, chosen.activation_bits)),
            )
            for b in budgets
        ],
        search_space=SearchSpace(
            weight_bits=list(options.weight_bits), activation_bits=list(options.activation_widths)
        ),
        method=options.description,
        proxy=asked.proxy,
        seed=options.seed,
        versions=versions(),
        created=date.today(),
    )


def _untuned(problem: Problem, model: keras.Model) -> float:
    """Score of a policy's network; of an imitation of classes, the share of images with the same class."""
    task = problem.task
    if not (problem.options.imitate and task.scored_by.of_classes):
        return _accuracy(task, model)
    images = task.test_images(_EVALUATED_IMAGES)
    wanted, given = (np.argmax(m.predict_on_batch(images), axis=-1) for m in (task.model, model))
    return float(np.mean(wanted == given))


def _accuracy(task: Task, model: keras.Model) -> float:
    where = (task.dataset.test, task.preprocessing, _EVALUATED_IMAGES)
    return score_model(model, *where, objective=task.scored_by).value
