"""What differs between backends, JAX's side: gradients, `train_step`, and several devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils

from tfmpq.data.on_device import DeviceImages, DeviceScaling
from tfmpq.errors import UsageError


def value_and_gradient(function: Callable[[Sequence[Any]], tuple[Any, Any]], inputs: Sequence[Any]) -> Any:
    """Value, auxiliary output and gradient of `function`.

    Args:
        function: Maps a list of tensors to (scalar, auxiliary).
        inputs: Tensors to differentiate with respect to.

    Returns:
        ((scalar, auxiliary), gradients); a gradient is zero where the input has no influence.
    """
    return jax.value_and_grad(function, has_aux=True)(list(inputs))


def traced_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function: XLA compiles the whole step, every call for itself."""
    return function


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tensors, compiled when it is first called with their shapes."""
    return jax.jit(function)


@contextmanager
def quickly_compiled() -> Iterator[None]:
    """Nothing: XLA compiles as it does."""
    yield


def has_xla() -> bool:
    """Always: it is what JAX computes with."""
    return True


uncompilable: tuple[type[Exception], ...] = ()
"""None: what JAX runs at all, it compiles."""


def accelerated() -> bool:
    """Whether something faster than the processors of the host computes."""
    return jax.default_backend() != "cpu"


def mean_over_replicas(tensors: list[Any]) -> list[Any]:
    """The tensors: a step is one program over all devices, in which every mean is one over the batch."""
    return tensors


class Replicas:
    """The devices that share every batch: those of this machine, or of all processes.

    Batches are sharded and variables replicated (`keras.distribution.DataParallel`), and the compiler adds
    the communication.

    Args:
        machines: Whether to join the other processes, as `keras.distribution.initialize` finds them.

    Attributes:
        count: Number of devices.
        processes: Number of processes.
        process: Number of this one; 0 is the chief.

    Raises:
        UsageError: The environment does not say where the other processes are.
    """

    lost = (jax.errors.JaxRuntimeError,)
    """What an operation raises when another process has ended."""

    def __init__(self, machines: bool) -> None:
        if machines:
            _join()
        self._distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
        self.count: int = self._distribution.num_model_replicas
        self.processes, self.process = jax.process_count(), jax.process_index()

    @contextmanager
    def spread(self, model: keras.Model, norms: Sequence[keras.layers.Layer]) -> Iterator[None]:
        """Have `model.fit` use all devices meanwhile.

        At a normal end the variables are brought back to one device. After an error they stay as they are:
        `fit` may hold their values elsewhere.

        Args:
            model: Training model; its optimizer is built.
            norms: Its BatchNormalization layers, which need nothing here.
        """

        def variables() -> list[Any]:
            return [*model.variables, *model.optimizer.variables, *model.metrics_variables]

        with self._distribution.scope():
            for variable in variables():
                layout = self._distribution.get_variable_layout(variable)
                variable.assign(keras.distribution.distribute_tensor(variable.value, layout))
            yield
        for variable in variables():
            variable.assign(np.asarray(variable))

    def part(self, count: int) -> slice:
        """Which images of a batch this process has to prepare: those of its own devices."""
        size = count // self.processes
        return slice(self.process * size, (self.process + 1) * size)

    def from_chief(self, values: np.ndarray) -> np.ndarray:
        """The chief's int32 values (n,), of which every process has as many."""
        return np.asarray(multihost_utils.broadcast_one_to_all(values))


def _join() -> None:
    try:
        keras.distribution.initialize()
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"Several machines find one another by the environment. Received: {error} Set "
            "KERAS_DISTRIBUTION_JOB_ADDRESSES (HOST:PORT of the first), KERAS_DISTRIBUTION_NUM_PROCESSES and "
            "KERAS_DISTRIBUTION_PROCESS_ID, or use a launcher that JAX knows, such as Slurm."
        ) from error


class TrainStep:
    """`train_step` for the JAX backend; mixed into the training model."""

    pixels: DeviceImages | DeviceScaling | None = None
    """What made the images of a batch (`DeviceImages`), or is to preprocess them within the step."""

    def train_step(self: Any, state: Any, data: Any) -> Any:
        """One update from a batch (images float32, or uint8 for `pixels`; labels int32)."""
        trainable, non_trainable, optimizer_state, metric_state = state
        images, labels = data
        if isinstance(self.pixels, DeviceScaling):
            images = self.pixels(images)
        gradients, new_state, metrics = self.compute_update(
            list(trainable), list(non_trainable), images, labels
        )
        trainable, optimizer_state = self.optimizer.stateless_apply(optimizer_state, gradients, trainable)
        return metrics, (trainable, new_state, optimizer_state, metric_state)
