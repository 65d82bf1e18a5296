"""The search: learn which bit-width every layer needs, on a small proxy data set, under a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from tfmpq.deploy.devices.facts import present
from tfmpq.errors import UsageError
from tfmpq.files import write_json
from tfmpq.methods import load_method
from tfmpq.methods.latency_budget import latencies, latency_record, with_latency
from tfmpq.methods.method import Choice, Outcome, Problem
from tfmpq.methods.options import SearchOptions
from tfmpq.policy.allocation import check_feasible_together
from tfmpq.policy.budget import Budget, parse_budgets
from tfmpq.policy.network_cost import cost_model
from tfmpq.policy.policy import BudgetRecord, LayerChoice, Policy, SearchSpace, save_policy
from tfmpq.policy.search_space import activation_candidates, weight_candidates
from tfmpq.progress import Reporter, SilentReporter
from tfmpq.provenance import fingerprint, versions
from tfmpq.quantization.discretization import restrict
from tfmpq.results import Result
from tfmpq.tasks.scoring import score_model
from tfmpq.tasks.task import Task, begins_trained, first_images, is_trained, load_task, target_network
from tfmpq.training.distribution import run_folder
from tfmpq.training.float_training import pretrain
from tfmpq.training.run_folder import Stage, default_folder

_EVALUATED_IMAGES = 1000


@dataclass(frozen=True, slots=True)
class SearchResult(Result):
    """What a search found.

    Attributes:
        run: Run folder.
        policy: Path of the policy file.
        model: Network name.
        preprocessing: Name of the preprocessing.
        budget: For each budget `key`, `asked`, `limit`, `reached`.
        bits: Weight bits by layer.
        activation_bits: Activation bits by tensor.
        bops: Bit operations of `float`, `int8` and `policy`.
        size: Bytes of `float`, `int8` and `policy`, the latter two in the storage form.
        mean_weight_bits: Mean bits of a weight.
        repaired: Whether the most probable choices had to be changed to meet the budgets.
        accuracy: Top-1 of the float network and of the policy without fine-tuning, on the first test images;
            of an imitation, the share of them that get the same class from both.
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
    policy: str
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

    def to_json(self) -> dict[str, Any]:
        """All fields, and the form that sizes refer to."""
        return Result.to_json(self) | {"size_form": "storage"}


def search(
    model: str,
    proxy: str,
    *,
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    weights: str | None = None,
    budgets: Sequence[str] = (),
    pareto: Sequence[str] = (),
    weight_bits: Sequence[int] = (2, 4, 8),
    activation_bits: Sequence[int] = (8,),
    method: str = "asga",
    perturb: Literal["quantized", "latent"] = "quantized",
    radius: Literal["inverse", "direct", "fixed"] | None = None,
    rho_max: float | None = None,
    phi: float | None = None,
    alpha: float | None = None,
    norm: Literal["global", "layer"] = "global",
    adaptive: bool = False,
    second_gradient_every: int = 1,
    select: Literal["argmax", "knapsack", "least-sharp"] = "knapsack",
    prune_below: float | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    epochs: int = 10,
    steps_per_epoch: int | None = None,
    batch_size: int = 128,
    seed: int = 0,
    float_epochs: int = 0,
    imitate: bool = False,
    learning_rate: float | None = None,
    preprocessing: str | None = None,
    target_input: int | None = None,
    target_classes: int | None = None,
    latency_table: str | Path | None = None,
    on: str | None = None,
    threads: int | None = None,
    ssh_config: str | Path | None = None,
    reporter: Reporter | None = None,
) -> SearchResult:
    """Search a mixed-precision policy on a proxy data set.

    Args:
        model: Built-in name, `.keras` file or `MODULE:FUNCTION`.
        proxy: Data set to search on.
        out: Run folder; the same call resumes it; None for `runs/MODEL_DATA`.
        data_dir: Folder that is looked in first for data.
        weights: File of float weights; None or "none" starts from random ones.
        budgets: `KEY=VALUE` texts, all of them met; `size=0.5x` if empty.
        pareto: Limits of `size`, such as `0.3x`, that get a policy each from one search at the middle one.
        weight_bits: Candidate widths of weights.
        activation_bits: Candidate widths of activations.
        method: Name in `tfmpq.methods.METHODS`.
        perturb: Whether a sharpness-aware method perturbs quantized kernels (SAQ's case 3) or latent ones.
        radius: How ASGA's radius follows the surrogate gap; None is `inverse`.
        rho_max: Largest (or fixed) radius; None is 0.05, with `adaptive` 0.5.
        phi: Constant of the inverse form; None derives it from the first gaps.
        alpha: Alignment constant of `asga` and `sagm`, None is 0.001; of `gsam`, None is 0.4.
        norm: One norm of the gradient over all tensors, or one a layer.
        adaptive: Perturb in proportion to the magnitude of the weights (ASAM).
        second_gradient_every: Take the second gradient every so many steps (LookSAM).
        select: How bits follow from what was learned; see `tfmpq.methods.selection.decide`.
        prune_below: Probability below which a width is dropped at the end of an epoch; None drops nothing.
        precision: That of activations and convolutions during the search; see `tfmpq.methods.precision`.
        epochs: Epochs of the search.
        steps_per_epoch: Steps in an epoch; None for all images once.
        batch_size: Images in a step.
        seed: Of data order, augmentation, initial weights and drawn policies.
        float_epochs: Epochs of float training before the search.
        imitate: Learn to give what the float network gives, instead of the labels: the network keeps the
            classes of its weights (`target_classes`, if they are not those of the proxy), and the search sees
            what its last layers need for them.
        learning_rate: Peak rate of the weights; None is 0.01 from given or pretrained weights, else 0.05.
        preprocessing: Name; None for what the network expects.
        target_input: Image side at which the budget counts; None for that of the proxy.
        target_classes: Classes for which the budget counts; None for those of the proxy.
        latency_table: File of `tfmpq profile`, for a budget of latency.
        on: Device that the latency is for, whose processor and runtime are compared with those of the table:
            `local`, `ssh:HOST`, `adb[:SERIAL]`; None for this machine if the table was measured so, else not
            asked.
        threads: Threads of the runtime that the latency is for; None for those of the table.
        ssh_config: Configuration file for ssh instead of the user's.
        reporter: Told about progress.

    Raises:
        UsageError: A name is unknown, the method does not have an option, a budget cannot be met, the latency
            table is one of something else, or the folder holds a run with other options.
        TfmpqError: The network has layers that cannot be quantized (they are listed), or a file is damaged.
    """
    options = SearchOptions.of(locals())
    searcher = load_method(method)
    searcher.check(options)
    reporter = reporter or SilentReporter()
    keras.utils.set_random_seed(seed)
    task = load_task(
        model, proxy, data_dir=data_dir, weights=weights, preprocessing=preprocessing, reporter=reporter,
        classes=target_classes if imitate else None,
    )  # fmt: skip
    if imitate:
        _check_imitation(task, options)
    stage = Stage(run_folder(Path(out or default_folder(model, proxy))), "search")
    problem, front = _problem(task, options, stage, reporter)
    with stage.opened(_record(problem)) as finished:
        if finished is not None:
            reporter.log(f"{stage.folder} is finished; its result is shown.")
            return SearchResult(
                **{f.name: finished[f.name] for f in fields(SearchResult) if f.name in finished}
            )
        if float_epochs:
            pretrain(task, stage.folder, epochs=float_epochs, steps_per_epoch=steps_per_epoch,
                     batch_size=batch_size, seed=seed,
                from_weights=begins_trained(model, weights), reporter=reporter)  # fmt: skip
        outcome = searcher.run(problem)
        result = _finish(problem, front, outcome, data_dir)
        write_json(stage.path(".result.json"), result.to_json())
    return result


def _check_imitation(task: Task, options: SearchOptions) -> None:
    trained = begins_trained(options.model, options.weights) and not task.loaded.new_classifier
    if options.float_epochs or not trained:
        why = "float training before it" if options.float_epochs else "no weights that fit its classes"
        raise UsageError(
            f"Only a trained network can be imitated. Received: imitate with {why}. "
            "Give --weights, and --target-classes as many as they have."
        )


def _problem(
    task: Task, options: SearchOptions, stage: Stage, reporter: Reporter
) -> tuple[Problem, tuple[Budget, ...]]:
    """What is to be searched, and the budgets of the front, if one is asked for.

    Raises:
        UsageError: A budget cannot be met.
    """
    network = target_network(options.model, task, options.target_input, options.target_classes)
    classes = options.target_classes or task.loaded.classes
    costs = with_latency(cost_model(network), network, task.loaded.name, classes, options, present, reporter)
    other_classes = classes != task.loaded.classes
    space = (
        weight_candidates(task.network, options.weight_bits, other_classes),
        activation_candidates(task.network, options.activation_bits),
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


def _record(problem: Problem) -> dict[str, Any]:
    """The options that decide the result, as a run folder keeps them; knobs only where they were given."""
    options, task = problem.options, problem.task
    front = {"pareto": list(options.pareto)} if options.pareto else {}
    return {
        "stage": "search",
        "model": options.model,
        "model_file": fingerprint(options.model),
        "proxy": options.proxy,
        "data": task.dataset.fingerprint,
        "weights": fingerprint(options.weights),
        "budgets": [budget.text for budget in problem.budgets],
        "weight_bits": list(options.weight_bits),
        "activation_bits": list(options.activation_bits),
        "method": options.method,
        "perturb": options.perturb,
        "epochs": options.epochs,
        "steps_per_epoch": options.steps_per_epoch,
        "batch_size": options.batch_size,
        "seed": options.seed,
        "float_epochs": options.float_epochs,
        **({"imitate": True} if options.imitate else {}),
        "float_is_trained": is_trained(task, options.model, options.weights, options.float_epochs),
        "learning_rate": options.learning_rate,
        "preprocessing": task.preprocessing,
        "target_input": options.target_input,
        "target_classes": options.target_classes,
        **latency_record(options),
        **options.knobs,
        **front,
    }


def _finish(
    problem: Problem, front: Sequence[Budget], outcome: Outcome, data_dir: str | Path | None
) -> SearchResult:
    """Choose, write policies and models, and say what was found."""
    task, stage, costs = problem.task, problem.stage, problem.costs
    size, *others = problem.budgets
    along = {budget.text: outcome.choose((budget, *others)) for budget in front}
    chosen = along[size.text] if front else outcome.choose(problem.budgets)
    policy = _policy(problem, problem.budgets, chosen)
    rows = [_front_row(problem, outcome, (budget, *others), along[budget.text]) for budget in front]
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
        policy=str(stage.folder / "policy.yaml"),
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
        data_dir=str(Path(data_dir).resolve()) if data_dir else None,
    )


def _front_row(
    problem: Problem, outcome: Outcome, budgets: Sequence[Budget], chosen: Choice
) -> dict[str, Any]:
    """Write one policy of a front and say what it is."""
    value = budgets[0].text.partition("=")[2].strip()
    path = problem.stage.folder / f"policy-{value}.yaml"
    policy = _policy(problem, budgets, chosen)
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


def _policy(problem: Problem, budgets: Sequence[Budget], chosen: Choice) -> Policy:
    options, costs = problem.options, problem.costs
    return Policy(
        format="tfmpq-policy/1",
        model=options.model,
        layers={name: LayerChoice(weight_bits=bits) for name, bits in chosen.weight_bits.items()},
        activations={name: bits for name, bits in chosen.activation_bits.items() if bits != 8},
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
            weight_bits=list(options.weight_bits), activation_bits=list(options.activation_bits)
        ),
        method=options.description,
        proxy=options.proxy,
        seed=options.seed,
        versions=versions(),
        created=date.today(),
    )


def _untuned(problem: Problem, model: keras.Model) -> float:
    """Accuracy of a policy's network; of an imitation, the share of images with the float network's class."""
    task = problem.task
    if not problem.options.imitate:
        return _accuracy(task, model)
    images = first_images(task.dataset.test, _EVALUATED_IMAGES, task.network.input_shape, task.preprocessing)
    wanted, given = (np.argmax(m.predict_on_batch(images), axis=-1) for m in (task.model, model))
    return float(np.mean(wanted == given))


def _accuracy(task: Task, model: keras.Model) -> float:
    return score_model(model, task.dataset.test, task.preprocessing, _EVALUATED_IMAGES).top1
