"""What a caller gives a verb: a model, run, policy or file, as a word, a path, an object or a result."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from tfmpq.api.sources import run_of
from tfmpq.errors import UsageError
from tfmpq.files import write_atomically
from tfmpq.graph.equivalence import require_same
from tfmpq.graph.operations import without_functions
from tfmpq.models.registry import display_name
from tfmpq.policy.policy import Policy
from tfmpq.provenance import fingerprint
from tfmpq.training.run_folder import OWN_MODEL, load_keras

POLICIES = "A policy is a tfmpq.Policy, a policy file, or a search: its run folder or its result."
_MODELS = (
    "A model is a Keras 3 model, a built-in name, a .keras or .h5 file, or MODULE:FUNCTION. Received: {}. "
    "Give one of these."
)


@dataclass(frozen=True, slots=True)
class GivenModel:
    """A network as a verb was given it.

    Attributes:
        word: What `tfmpq.models.registry.load_model` takes.
        name: What it is called.
        recorded: What run folders and policies call it; the file of a model object lies in the run folder.
    """

    word: str
    name: str
    recorded: str

    @property
    def fingerprint(self) -> str | None:
        """The digest of a model file; the word of any other."""
        return fingerprint(self.word)


def given_model(model: Any, folder: Path, file: str = OWN_MODEL) -> GivenModel:
    """Take a model; an object is stored in a folder, as `file`, and is itself never changed.

    Raises:
        UsageError: It is no model, or the folder holds another one.
    """
    if isinstance(model, str | Path):
        word = str(model)
        return GivenModel(word, display_name(word), word)
    refuse_other_than_model(model)
    name, path = name_of(model), folder / file
    given, model = model, without_functions(model)  # a file with code would have to be read with the code
    if model is not given and len(given.inputs) == 1:
        require_same(given, model, (False,) * len(given.outputs))
    # A call that was refused leaves its model behind, but nothing that it could be resumed with.
    if path.exists() and any((folder / f"{stage}.json").exists() for stage in ("search", "finetune")):
        if _digest(load_keras(path)) != _digest(model):
            raise UsageError(
                f"A run folder is resumed with the model that it was begun with. Received: {model.name}, not "
                f"the one in {path}. Choose another out."
            )
    else:
        write_atomically(path, lambda temporary: model.save(temporary))
    return GivenModel(str(path), name, file)


def refuse_other_than_model(model: Any) -> None:
    """Refuse what is neither a Keras 3 model nor a word for one.

    Raises:
        UsageError: It is another thing.
    """
    if isinstance(model, str | Path):
        return
    if not isinstance(model, keras.Model):
        of_keras_2 = any(base.__module__.startswith("tf_keras") for base in type(model).__mro__)
        hint = ", a model of Keras 2 (tf_keras), which can be saved as .h5" if of_keras_2 else ""
        raise UsageError(_MODELS.format(f"{type(model).__name__}{hint}"))


def name_of(model: keras.Model) -> str:
    """The name that the user gave a model, or `model` where Keras numbered it."""
    numbered = re.fullmatch(r"(functional|sequential|model)(_\d+)?", model.name)
    return "model" if numbered else re.sub(r"[^A-Za-z0-9_.-]+", "-", model.name)


def _digest(model: keras.Model) -> str:
    """What tells a model from others: kinds and settings of its layers, and its weights; not the names.

    Keras numbers layers over all models of a process, so the same code gives other names the next time.
    """
    digest = hashlib.sha256()
    for layer in model.layers:
        config = {key: value for key, value in layer.get_config().items() if key not in ("name", "layers")}
        if not isinstance(layer, keras.Model):
            digest.update(f"{type(layer).__name__}{json.dumps(config, sort_keys=True, default=str)}".encode())
        else:
            digest.update(_digest(layer).encode())
    for weight in model.weights:
        value = keras.ops.convert_to_numpy(weight)
        digest.update(f"{value.shape}{value.dtype}".encode() + value.tobytes())
    return digest.hexdigest()


def policy_of(policy: Any) -> Policy | Path:
    """A policy, or the file that holds it.

    Args:
        policy: A `tfmpq.Policy`, a policy file, a run folder, or what `search` or `finetune` returned.

    Raises:
        UsageError: It is none of these.
    """
    if isinstance(policy, Policy):
        return policy
    path = run_of(policy, POLICIES)
    return path / "policy.yaml" if path.is_dir() else path
