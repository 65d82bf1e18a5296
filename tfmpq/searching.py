"""The search: learn which bit-width every layer needs, on a small proxy data set, under a budget."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from tfmpq.budget import Budget, check_feasible, parse_budgets
from tfmpq.cost import CostModel, ExpectedCost
from tfmpq.data.preprocess import value_range
from tfmpq.errors import UsageError
from tfmpq.loop import train
from tfmpq.optimizer import QuantizationOptimizer
from tfmpq.policy import BudgetRecord, LayerChoice, Policy, SearchSpace, save_policy
from tfmpq.prepare import (
    Task,
    accuracy,
    activation_candidates,
    begins_trained,
    fingerprint,
    is_trained,
    load_task,
    target_network,
    versions,
    weight_candidates,
)
from tfmpq.pretrain import pretrain
from tfmpq.progress import Reporter, SilentReporter
from tfmpq.quantize import Candidates, quantize_model, quantize_wrappers
from tfmpq.restrict import restrict
from tfmpq.runs import Stage, default_folder, write_json
from tfmpq.select import Selection, select
from tfmpq.sharpness import RadiusSchedule
from tfmpq.spend import spend
from tfmpq.training import BudgetTerm, QuantizedTraining, SharpnessOptions

METHODS: Mapping[str, SharpnessOptions | None] = {
    "asga": SharpnessOptions(RadiusSchedule("inverse")),
    "sagm": SharpnessOptions(RadiusSchedule("fixed")),
    "sgd": None,
}
"""Search methods by name: what the training step does beyond plain gradients."""

_LOGIT_TRAVEL = 12.0
"""How far Adam can move a logit in a whole search; the schedule halves it, and e^6 is decided."""

_DUAL_TRAVEL = 5.0
"""How far a budget's multiplier can move in a whole search at a relative violation of 1."""

_EVALUATED_IMAGES = 1000


@dataclass(frozen=True, slots=True)
class SearchResult:
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
        accuracy: Top-1 of the float network and of the policy without fine-tuning, on the first test images.
        search_seconds: Wall-clock time of the training loop, since it was last resumed.
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

    def to_json(self) -> dict[str, Any]:
        """All fields, and the form that sizes refer to."""
        return {name: getattr(self, name) for name in self.__slots__} | {"size_form": "storage"}


def search(
    model: str,
    proxy: str,
    *,
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    weights: str | None = None,
    budgets: Sequence[str] = (),
    weight_bits: Sequence[int] = (2, 4, 8),
    activation_bits: Sequence[int] = (8,),
    method: str = "asga",
    perturb: Literal["quantized", "latent"] = "quantized",
    epochs: int = 10,
    steps_per_epoch: int | None = None,
    batch_size: int = 128,
    seed: int = 0,
    float_epochs: int = 0,
    learning_rate: float | None = None,
    preprocessing: str | None = None,
    target_input: int | None = None,
    target_classes: int | None = None,
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
        weight_bits: Candidate widths of weights.
        activation_bits: Candidate widths of activations.
        method: Name in `METHODS`.
        perturb: Whether a sharpness-aware method perturbs quantized kernels (SAQ's case 3) or latent ones.
        epochs: Epochs of the search.
        steps_per_epoch: Steps in an epoch; None for all images once.
        batch_size: Images in a step.
        seed: Of data order, augmentation and initial weights.
        float_epochs: Epochs of float training before the search.
        learning_rate: Peak rate of the weights; None is 0.01 from given or pretrained weights, else 0.05.
        preprocessing: Name; None for what the network expects.
        target_input: Image side at which the budget counts; None for that of the proxy.
        target_classes: Classes for which the budget counts; None for those of the proxy.
        reporter: Told about progress.

    Raises:
        UsageError: A name is unknown, a budget cannot be met, or the folder holds a run with other options.
        TfmpqError: The network has layers that cannot be quantized (they are listed), or a file is damaged.
    """
    if method not in METHODS:
        raise UsageError(f"A method is one of {', '.join(METHODS)}. Received: {method}.")
    reporter = reporter or SilentReporter()
    keras.utils.set_random_seed(seed)
    task = load_task(
        model, proxy, data_dir=data_dir, weights=weights, preprocessing=preprocessing, reporter=reporter
    )
    costs = target_network(model, task, target_input, target_classes).cost_model()
    other_classes = target_classes not in (None, task.loaded.classes)
    space = (
        weight_candidates(task.network, weight_bits, other_classes),
        activation_candidates(task.network, activation_bits),
    )
    limits = parse_budgets(budgets, costs)
    if not budgets:
        reporter.log(f"No budget given: {limits[0].text} of the uniform 8-bit model (storage form).")
    check_feasible(limits, costs, *space)
    options = {
        "stage": "search",
        "model": model,
        "model_file": fingerprint(model),
        "proxy": proxy,
        "data": task.dataset.fingerprint,
        "weights": fingerprint(weights),
        "budgets": [budget.text for budget in limits],
        "weight_bits": list(weight_bits),
        "activation_bits": list(activation_bits),
        "method": method,
        "perturb": perturb,
        "epochs": epochs,
        "steps_per_epoch": steps_per_epoch,
        "batch_size": batch_size,
        "seed": seed,
        "float_epochs": float_epochs,
        "float_is_trained": is_trained(task, model, weights, float_epochs),
        "learning_rate": learning_rate,
        "preprocessing": task.preprocessing,
        "target_input": target_input,
        "target_classes": target_classes,
    }
    out = Path(out or default_folder(model, proxy))
    stage = Stage(out, "search")
    with stage.opened(options) as finished:
        if finished is not None:
            reporter.log(f"{out} is finished; its result is shown.")
            return SearchResult(**{name: finished[name] for name in SearchResult.__slots__})
        if float_epochs:
            pretrain(task, stage.folder, epochs=float_epochs, steps_per_epoch=steps_per_epoch,
                     batch_size=batch_size, seed=seed,
                from_weights=begins_trained(model, weights), reporter=reporter)  # fmt: skip
        rate = learning_rate or (0.01 if float_epochs or begins_trained(model, weights) else 0.05)
        sharpness = METHODS[method]
        batches = task.batches(batch_size, seed, steps_per_epoch)
        if sharpness is not None:
            # Phi comes from the first gaps; a short search cannot wait for a hundred of them.
            window = min(sharpness.radius.window, max(1, epochs * len(batches) // 4))
            sharpness = replace(sharpness, radius=replace(sharpness.radius, window=window), perturb=perturb)
        quantized = _searchable(task, *space)
        trainer = search_trainer(quantized, costs, limits, space, sharpness, rate, epochs * len(batches))
        begin = time.monotonic()
        train(trainer, batches, epochs=epochs, stage=stage, reporter=reporter, label="search")
        seconds = time.monotonic() - begin
        logits, output_logits = _logits(quantized, "weight"), _logits(quantized, "output")
        chosen = select(costs, limits, space[0], logits, space[1], output_logits)
        bits = spend(costs, limits, space[0], logits, chosen.weight_bits, chosen.activation_bits)
        chosen = replace(chosen, weight_bits=bits)
        result = _finish(task, stage, quantized, costs, limits, chosen, options, seconds)
        write_json(stage.path(".result.json"), result.to_json())
    return result


def _searchable(task: Task, weights: Candidates, activations: Candidates) -> keras.Model:
    return quantize_model(
        task.model,
        task.network,
        weights,
        activations,
        task.calibration_images(),
        value_range(task.preprocessing),
    )


def search_trainer(
    quantized: keras.Model,
    costs: CostModel,
    limits: Sequence[Budget],
    space: tuple[Candidates, Candidates],
    sharpness: SharpnessOptions | None,
    rate: float,
    steps: int,
) -> QuantizedTraining:
    """The compiled training model of a search of `steps` steps, at a peak rate of the weights."""
    trainer = QuantizedTraining(quantized.inputs[0], quantized.outputs[0])
    expected = ExpectedCost(costs, *space)
    relative = {budget.key: budget.limit / costs.reference(budget.key) for budget in limits}
    steps = max(1, steps)
    trainer.configure(sharpness, BudgetTerm(expected, relative, rate=_DUAL_TRAVEL / steps))
    logit_rate = min(0.1, _LOGIT_TRAVEL / steps)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps, alpha=0.01)
    optimizer = QuantizationOptimizer(schedule, step_multiplier=0.1, logit_multiplier=logit_rate / rate)
    trainer.compile(optimizer=optimizer, jit_compile=keras.backend.backend() == "jax")
    return trainer


def _logits(model: keras.Model, kind: str) -> dict[str, np.ndarray]:
    found = {}
    for wrapper in quantize_wrappers(model):
        variables = wrapper.weight_variables if kind == "weight" else wrapper.output_variables
        if "bit_logits" in variables:
            found[wrapper.name] = np.asarray(variables["bit_logits"])
    return found


def _finish(
    task: Task,
    stage: Stage,
    quantized: keras.Model,
    costs: CostModel,
    limits: Sequence[Budget],
    chosen: Selection,
    options: Mapping[str, Any],
    seconds: float,
) -> SearchResult:
    """Write policy and models, and say what was found."""
    reached = {b.key: costs.value(b.key, chosen.weight_bits, chosen.activation_bits) for b in limits}
    reports = {
        "int8": costs.report(*costs.uniform()),
        "policy": costs.report(chosen.weight_bits, chosen.activation_bits),
    }
    policy = Policy(
        format="tfmpq-policy/1",
        model=options["model"],
        layers={name: LayerChoice(weight_bits=bits) for name, bits in chosen.weight_bits.items()},
        activations={name: bits for name, bits in chosen.activation_bits.items() if bits != 8},
        budget=[
            BudgetRecord(key=b.key, asked=b.text, limit=float(b.limit), reached=float(reached[b.key]))
            for b in limits
        ],
        search_space=SearchSpace(
            weight_bits=list(options["weight_bits"]), activation_bits=list(options["activation_bits"])
        ),
        method=options["method"],
        proxy=options["proxy"],
        seed=options["seed"],
        versions=versions(),
        created=date.today(),
    )
    shape = task.network.input_shape
    test = (task.dataset.test, shape, task.preprocessing, _EVALUATED_IMAGES)
    result = SearchResult(
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
            "float": accuracy(task.model, *test),
            "policy_without_finetuning": accuracy(restrict(quantized, policy), *test),
        },
        search_seconds=round(seconds, 3),
    )
    stage.save_model(quantized)
    stage.save_model(task.model, ".float.keras")
    save_policy(policy, stage.folder / "policy.yaml")
    return result
