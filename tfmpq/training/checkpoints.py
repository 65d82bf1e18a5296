"""Checkpoints: all variables of a training in one npz file, and the one before it in another."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfmpq.errors import TfmpqError

_POSITION = "position "
_NETWORK = "network"


@dataclass(frozen=True, slots=True)
class _Content:
    """What a checkpoint file holds; `network` is empty in files of earlier versions."""

    variables: dict[str, np.ndarray]
    position: dict[str, int]
    network: list[Any]


def previous(path: Path) -> Path:
    """Where the checkpoint before the one in `path` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def write(
    path: Path, variables: Sequence[Any], position: Mapping[str, int], network: Sequence[Any] = ()
) -> None:
    """Write an npz file.

    Args:
        path: File; written as it stands, so give a temporary name.
        variables: Keras variables, in an order that the network decides.
        position: Where the training stands.
        network: What `described` says of the network.
    """
    arrays = {name: np.asarray(v) for name, v in zip(_names(variables), variables, strict=True)}
    arrays |= {f"{_POSITION}{key}": np.asarray(value) for key, value in position.items()}
    arrays[_NETWORK] = np.frombuffer(json.dumps(list(network)).encode(), np.uint8)
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def keep_previous(path: Path, spare: Path) -> None:
    """Give the present checkpoint, if there is one, the name of the one before as well.

    Args:
        path: The present checkpoint.
        spare: A name to use on the way.
    """
    if not path.exists():
        return
    spare.unlink(missing_ok=True)
    try:
        os.link(path, spare)
    except OSError:  # a file system without hard links: for a moment only the one before is there
        os.replace(path, previous(path))
    else:
        os.replace(spare, previous(path))


def restore(
    path: Path, variables: Sequence[Any], network: Sequence[Any], log: Callable[[str], None]
) -> dict[str, int] | None:
    """Assign all variables from the newest checkpoint that is whole.

    Args:
        path: File of the newest.
        variables: Keras variables, in the order of `write`; changed only if the checkpoint is theirs.
        network: What `described` says of the network; nothing is compared if empty.
        log: Told if the newest is damaged and the one before it is used.

    Returns:
        The position that was stored, or None if there is no checkpoint.

    Raises:
        TfmpqError: No checkpoint is whole, or it is of another network; the first difference is named.
    """
    candidates = [file for file in (path, previous(path)) if file.exists()]
    damage = ""
    for file in candidates:
        try:
            content = _read(file)
        except Exception as error:  # a damaged zip file fails in many ways
            damage = damage or f"{file}: {error}"
            continue
        _refuse_other_layers(file, content.network, network)
        _refuse_other_variables(file, content.variables, variables)
        for variable, value in zip(variables, content.variables.values(), strict=True):
            variable.assign(value)
        if damage:
            log(f"The newest checkpoint is damaged; the one before it is used. Received: {damage}.")
            os.replace(file, path)
        return content.position
    if candidates:
        raise TfmpqError(f"A checkpoint is an npz file. Received: {damage}. Delete it to start over.")
    return None


def described(model: Any) -> list[Any]:
    """JSON of every layer's configuration and connections, to notice another network of the same shapes."""
    return json.loads(_without_numbers(json.dumps(model.get_config()["layers"], default=str)))


def _read(path: Path) -> _Content:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        arrays = {key: stored[key] for key in stored.files}
    numbers = {key: int(arrays.pop(key)) for key in list(arrays) if key.startswith(_POSITION)}
    network = json.loads(arrays.pop(_NETWORK, np.frombuffer(b"[]", np.uint8)).tobytes())
    return _Content(arrays, {key.removeprefix(_POSITION): n for key, n in numbers.items()}, network)


def _without_numbers(text: str) -> str:
    """Without the numbers at the end of names.

    Keras numbers what has no name of its own by what else the process has made before, so they say nothing
    about the network.
    """
    return re.sub(r"_[0-9]+(?![A-Za-z0-9])", "", text)


def _names(variables: Sequence[Any]) -> list[str]:
    """Names of variables, by position and path."""
    return [f"{i:05d} {_without_numbers(v.path)}" for i, v in enumerate(variables)]


def _refuse_other_variables(path: Path, stored: Mapping[str, np.ndarray], variables: Sequence[Any]) -> None:
    expected = [f"{n} {tuple(v.shape)}" for n, v in zip(_names(variables), variables, strict=True)]
    found = [f"{name} {array.shape}" for name, array in stored.items()]
    for wanted, received in itertools.zip_longest(expected, found, fillvalue="nothing"):
        if wanted != received:
            _refuse(path, f"'{received}'", f"'{wanted}'")


def _refuse_other_layers(path: Path, stored: Sequence[Any], network: Sequence[Any]) -> None:
    if stored and network and (found := _difference(stored, network, "layer")):
        _refuse(path, *found)


def _refuse(path: Path, received: str, wanted: str) -> None:
    raise TfmpqError(
        f"A checkpoint belongs to its network. Received: {received} where the network has {wanted} in "
        f"{path}. Use the network that it was made with, or delete it to start over."
    )


def _difference(stored: Any, wanted: Any, place: str) -> tuple[str, str] | None:
    """The first difference between two JSON values, as it is in each; None if they are equal."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        name = stored.get("name")
        place = f"{place} {name}" if isinstance(name, str) and name not in place.split() else place
        # What only the network has are arguments of a later version, of which older files had the defaults.
        # A registered class is known by that name, whichever module it has moved to.
        pairs = [
            (place if key == "config" else f"{place} {key}", value, wanted.get(key))
            for key, value in stored.items()
            if key != "module" or not stored.get("registered_name")
        ]
    elif isinstance(stored, list) and isinstance(wanted, list) and _comparable(stored, wanted):
        pairs = [(place, one, other) for one, other in itertools.zip_longest(stored, wanted)]
    else:
        return None if stored == wanted else (f"{place} {_short(stored)}", _short(wanted))
    return next((found for name, a, b in pairs if (found := _difference(a, b, name))), None)


def _comparable(stored: list[Any], wanted: list[Any]) -> bool:
    """Whether the difference of two lists is that of their first different items (else: the whole lists)."""
    return len(stored) == len(wanted) or any(isinstance(item, dict) for item in (*stored, *wanted))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
