"""Training on several devices: those of this machine, or those of several machines.

Every batch is split evenly among all devices. The norm of the gradient, the surrogate gap, the radius and the
statistics of BatchNorm are those of the whole batch, so that a step is the one that a single device makes
(`tfmpq.training.backend`). Processes on several machines run the same command; one of them, the chief, has
the run folder, the others keep a copy of it for themselves, which vanishes at the end.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import keras
import numpy as np

from tfmpq.data import ImageBatches
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.quantizers.wrapper import inner
from tfmpq.training.backend import Replicas

Strategy = Literal["single", "data-parallel", "multi-worker"]

STEP_SECONDS = 900.0
"""Time for all processes to make a step, compiling included; longer means that one of them hangs."""


class LostProcess(TfmpqError):
    """Another process of the same training has ended or hangs, so that this one cannot go on."""

    def __init__(self, what: str) -> None:
        first = (what.strip().splitlines() or ["no reason"])[0].rstrip(". ")
        super().__init__(
            f"All processes of a training have to stay to its end. Received: {first}. The last checkpoint is "
            "kept: start all of them again with the same command, which resumes."
        )


@dataclass(frozen=True, slots=True)
class _Team:
    """Devices in use, and the folders that a process other than the chief keeps for itself."""

    replicas: Replicas
    watch: Deadline
    folders: dict[Path, Path] = field(default_factory=dict)


_team: ContextVar[_Team | None] = ContextVar("tfmpq_team", default=None)


@contextmanager
def strategy(name: Strategy) -> Iterator[bool]:
    """Train by a strategy while the context is open; with `multi-worker`, one training in a context.

    Args:
        name: `single` device; `data-parallel` on all devices of this machine; `multi-worker` on all devices
            of all processes, which TF_CONFIG or the environment of `jax.distributed` describes, and which
            have to be there before anything is computed.

    Yields:
        Whether this process is the chief, which has the results.

    Raises:
        UsageError: The name is unknown, there is one device only, or the processes are not described.
        LostProcess: Another process has ended.
    """
    if name not in get_args(Strategy):
        raise UsageError(f"A strategy is one of {', '.join(get_args(Strategy))}. Received: {name}.")
    if name == "single":
        yield True
        return
    with _last_words() if name == "multi-worker" else nullcontext():
        yield from _led(name)


def _led(name: Strategy) -> Iterator[bool]:
    """What `strategy` does with several devices."""
    watch = Deadline(STEP_SECONDS, lambda seconds: _give_up(f"no common step in {seconds:.0f} s"))
    with watch.armed() if name == "multi-worker" else nullcontext():
        try:
            replicas = _replicas(name)
        except Replicas.lost as error:
            raise LostProcess(str(error)) from error
    if replicas.count < 2:
        raise UsageError(
            f"A batch is split among several devices. Received: one, for --strategy {name}. Leave it out."
        )
    team = _Team(replicas, watch)
    token = _team.set(team)
    try:
        yield replicas.process == 0
        if replicas.processes > 1:
            # Nobody leaves before all have finished: the others' connections would break.
            with watch.armed():
                replicas.from_chief(np.zeros(1, np.int32))
    except replicas.lost as error:
        if replicas.processes == 1:
            raise
        raise LostProcess(str(error)) from error
    finally:
        _team.reset(token)
        for folder in team.folders.values():
            shutil.rmtree(folder, ignore_errors=True)


@cache
def _replicas(name: Strategy) -> Replicas:
    """The devices; found once a process, since processes join at its start only."""
    return Replicas(machines=name == "multi-worker")


def run_folder(path: Path) -> Path:
    """The run folder of this process: the given one, or a copy of it for processes other than the chief."""
    team = _team.get()
    if team is None or team.replicas.process == 0:
        return path
    if path not in team.folders:
        team.folders[path] = Path(tempfile.mkdtemp(prefix="tfmpq-"))
        if path.exists():
            unfinished = shutil.ignore_patterns(".*")
            shutil.copytree(
                path, team.folders[path], ignore=unfinished, copy_function=_copied, dirs_exist_ok=True
            )
    return team.folders[path]


def _copied(source: str, target: str) -> None:
    with suppress(FileNotFoundError):  # the chief may just have removed it
        shutil.copy2(source, target)


def agreed(variables: Sequence[Any], step: int) -> int:
    """Give all processes the chief's variables, in place, and its step, which is returned."""
    team = _team.get()
    if team is None or team.replicas.processes == 1:
        return step
    values = [np.asarray(variable) for variable in variables]
    packed = [np.ascontiguousarray(value).reshape(-1).view(np.int32) for value in values]
    with team.watch.armed():
        place, *sent = np.split(
            team.replicas.from_chief(np.concatenate([np.asarray([step], np.int32), *packed])),
            np.cumsum([1, *(len(part) for part in packed)])[:-1],
        )
    for variable, value, part in zip(variables, values, sent, strict=True):
        variable.assign(part.view(value.dtype).reshape(value.shape))
    return int(place[0])


@contextmanager
def spread(model: keras.Model, batches: ImageBatches) -> Iterator[keras.utils.PyDataset]:
    """Have `model.fit` follow the strategy that is in force.

    Args:
        model: Compiled training model, its optimizer built.
        batches: Training data.

    Yields:
        Batches to train with: the given ones, or this process's part of them.

    Raises:
        UsageError: A batch cannot be split evenly.
    """
    team = _team.get()
    if team is None:
        yield batches
        return
    count, size = team.replicas.count, batches.batch_size
    if size % count:
        raise UsageError(
            f"A batch is split evenly among all devices. Received: {size} images for {count} devices. "
            f"Take --batch-size {max(1, size // count) * count}."
        )
    layers = [inner(layer) for layer in model.layers]
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    part = team.replicas.part(size)
    watched = team.watch.armed() if team.replicas.processes > 1 else nullcontext()
    with watched, team.replicas.spread(model, norms):
        if part == slice(0, size):
            yield batches
            return
        with batches.only(part):
            yield batches


def step_done() -> None:
    """Note that all processes have made a step."""
    if team := _team.get():
        team.watch.restart()


class Deadline:
    """Calls a function, from a thread of its own, when something takes too long.

    Args:
        seconds: How long it may take from one `restart` to the next.
        expired: What to call.
    """

    def __init__(self, seconds: float, expired: Callable[[float], None]) -> None:
        self._seconds, self._expired = seconds, expired
        self._since = 0.0

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Watch meanwhile."""
        over = threading.Event()

        def watch() -> None:
            while (left := self._since + self._seconds - time.monotonic()) > 0:
                if over.wait(left):
                    return
            self._expired(self._seconds)

        self.restart()
        threading.Thread(target=watch, daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def restart(self) -> None:
        """Begin to count anew."""
        self._since = time.monotonic()


_WITNESS = """
import sys
if not sys.stdin.buffer.read():
    sys.stderr.write(sys.argv[1])
"""
_witness: list[subprocess.Popen[bytes]] = []


@contextmanager
def _last_words() -> Iterator[None]:
    """Have it said what happened if this process ends without a word.

    When its coordinator is gone, JAX aborts a process from C++: no code here runs any more.
    """
    error = LostProcess("the end of the first process, which took this one with it")
    command = [sys.executable, "-c", _WITNESS, f"Error: {error}\n"]
    _witness.append(subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True))
    try:
        yield
    finally:
        _dismiss_witness()


def _dismiss_witness() -> None:
    while _witness:
        _witness.pop().communicate(b"all is said")


def _give_up(what: str) -> None:
    """End the process: its main thread waits for another one and cannot be interrupted."""
    print(f"Error: {LostProcess(what)}", file=sys.stderr, flush=True)
    _dismiss_witness()
    os._exit(LostProcess.exit_code)
