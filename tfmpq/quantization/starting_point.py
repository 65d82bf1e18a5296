"""What fine-tuning begins with: a policy, and the weights that fit it best."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import keras

from tfmpq.data.preprocess import pixel_step, value_range
from tfmpq.errors import UsageError
from tfmpq.files import read_json
from tfmpq.graph.dynamic import DYNAMIC
from tfmpq.models.registry import is_users_code
from tfmpq.policy.policy import Policy, load_policy
from tfmpq.progress import Reporter
from tfmpq.quantization.batch_statistics import with_fitting_statistics
from tfmpq.quantization.discretization import refuse_unsearched, restrict
from tfmpq.quantization.dynamic import quantize_dynamic
from tfmpq.quantization.insertion import LINKED_IMAGES, quantize_model
from tfmpq.quantization.reconstruction import reconstruct
from tfmpq.tasks.calibration import USUAL_CALIBRATION, Calibration
from tfmpq.tasks.task import Task, begins_trained, fused
from tfmpq.training.run_folder import OWN_MODEL, Stage, load_keras


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """Where fine-tuning begins: a policy, and the search that it came from, if any.

    Attributes:
        policy: The policy.
        model: Network as the search was asked for it.
        loadable: Network as it can be loaded without importing code that the user has not named in this call.
        preprocessing: That of the search.
        search: The search.
    """

    policy: Policy
    model: str
    loadable: str
    preprocessing: str | None
    search: Stage | None

    @classmethod
    def of(cls, source: Path | Policy, model: str | None) -> Origin:
        """Read a run folder or a policy file, or take a policy.

        Raises:
            UsageError: The search is not finished, or the policy is of code that the user did not name.
            TfmpqError: A file is damaged.
        """
        if isinstance(source, Path) and source.is_dir():
            stage = Stage(source, "search")
            if not stage.finished:
                raise UsageError(
                    f"Fine-tuning begins with a finished search or a policy. Received: {source}, unfinished. "
                    "Finish tfmpq search with this --out."
                )
            asked = read_json(stage.path(".json"))
            policy, name = load_policy(source / "policy.yaml"), asked["model"]
            loadable = str(stage.path(".float.keras")) if is_users_code(name) else name
            if name == OWN_MODEL:
                loadable = str(source / OWN_MODEL)
            return cls(policy, name, loadable, asked["preprocessing"], stage)
        policy = source if isinstance(source, Policy) else load_policy(source)
        # A policy may come from somebody else, and code is imported only where the user types its name.
        if model is None and (is_users_code(policy.model) or policy.model == OWN_MODEL):
            named = source if isinstance(source, Path) else "a policy"
            raise UsageError(
                "A policy alone stands for a built-in network or a model file. "
                f"Received: {named} of '{policy.model}', and no model. Give --model {policy.model}."
            )
        return cls.of_policy(policy)

    @classmethod
    def of_policy(cls, policy: Policy) -> Origin:
        """A policy that comes from no search."""
        return cls(policy, policy.model, policy.model, None, None)


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """A quantized model to train.

    Attributes:
        quantized: Quantized model with the bits of the policy.
        teacher: Trained float model to learn from; None if there is none.
        weights: Where the weights come from: the name of a file, `float` for the float model of the search,
            `search` for the searched model itself, or `none`.
        reconstructed: Whether they were fitted to the float model by reconstruction.
    """

    quantized: keras.Model
    teacher: keras.Model | None
    weights: str
    reconstructed: bool


@dataclass(frozen=True, slots=True)
class _Source:
    """Which weights a start takes.

    Attributes:
        name: As `Start.weights`.
        search: The search that holds them; None if the task's own float model does.
        model: Float model of the search, or of the task.
        trained: Whether they are those of a float model that knows the task.
    """

    name: str
    search: Stage | None
    model: keras.Model
    trained: bool

    def is_restricted(self, reconstructing: bool) -> bool:
        """Whether the searched model is taken with its steps, and nothing is quantized anew."""
        return self.search is not None and not (self.trained and reconstructing)


def choose_weights(
    task: Task, origin: Origin, model: str, weights: str | None, *, reconstructing: bool
) -> _Source:
    """Decide which weights to begin with, before anything is computed.

    Raises:
        UsageError: There are none, or none that the policy can be applied to.
    """
    source = _source(task, origin, model, weights)
    if source.search is not None and source.is_restricted(reconstructing):
        searched = read_json(source.search.path(".json"))["activation_bits"]
        refuse_unsearched(origin.policy, dynamic=searched == [DYNAMIC])
    return source


def _source(task: Task, origin: Origin, model: str, weights: str | None) -> _Source:
    search = origin.search
    if weights is None and search is not None:
        asked = read_json(search.path(".json"))
        searched = load_keras(search.path(".float.keras"))
        shapes = [(m.input_shape, m.output_shape) for m in (searched, task.model)]
        if shapes[0] == shapes[1]:
            # The float model of the search can teach only what it has learned: the same images.
            knows = bool(asked["float_is_trained"] and asked["data"] == task.dataset.fingerprint)
            return _Source("float" if knows else "search", search, searched, knows)
    # Not the task's: the float model of a search is a file, whose weights need not be learned ones.
    trained = begins_trained(model, weights)
    if weights is None and not trained:
        raise UsageError(
            "Fine-tuning needs weights to start from. Received: none that fit this data set. "
            "Give --weights FILE, or --weights none for random ones."
        )
    return _Source(weights or model, None, task.model, trained and not task.loaded.new_classifier)


def begin(
    task: Task,
    origin: Origin,
    source: _Source,
    *,
    reconstructing: bool,
    resumed: bool,
    reporter: Reporter,
    calibration: Calibration = USUAL_CALIBRATION,
) -> Start:
    """Make the quantized model.

    A trained float model is quantized anew and, where wanted, reconstructed: that begins nearer to it than
    the searched weights do, which had to serve every width at once.

    Args:
        task: Data and float network.
        origin: Policy.
        source: Which weights.
        reconstructing: Whether to reconstruct; without it, a search on the same data hands on its weights.
        resumed: Whether a checkpoint overwrites the weights anyway.
        reporter: Told about progress.
        calibration: Images to reconstruct with.
    """
    model = source.model
    if source.search is not None and source.is_restricted(reconstructing):
        quantized = restrict(source.search.load_model(), origin.policy)
        return Start(quantized, model if source.trained else None, "search", False)
    dynamic = task.network.dynamic
    network = fused(model, task.preprocessing, dynamic)
    bits = origin.policy.weight_bits
    activations = origin.policy.activation_bits(network.tensors)
    reconstructing = reconstructing and source.trained
    fitting = reconstructing and not resumed
    sample = task.calibration_images()
    begun = model if source.trained else with_fitting_statistics(model, sample, reporter)
    begun_network = network if begun is model else fused(begun, task.preprocessing, dynamic)
    widths = {name: (bits[name],) for name in bits}
    if dynamic:
        quantized = quantize_dynamic(begun, begun_network, widths, images=sample[:LINKED_IMAGES])
    else:
        quantized = quantize_model(
            begun,
            begun_network,
            widths,
            {name: (value,) for name, value in activations.items()},
            sample,
            value_range(task.preprocessing),
            pixel_step=pixel_step(task.preprocessing),
        )
    if fitting:
        images = task.reconstruction_images(calibration)
        reconstruct(quantized, model, network, images, reporter, views=calibration.views)
    return Start(quantized, model if source.trained else None, source.name, reconstructing)
