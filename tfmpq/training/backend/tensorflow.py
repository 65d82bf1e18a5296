"""What differs between backends, TensorFlow's side: gradients, `train_step`, and several devices."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from tfmpq.errors import UsageError

if TYPE_CHECKING:
    from tfmpq.data.on_device import DeviceImages, DeviceScaling


def value_and_gradient(function: Callable[[Sequence[Any]], tuple[Any, Any]], inputs: Sequence[Any]) -> Any:
    """Value, auxiliary output and gradient of `function`.

    Args:
        function: Maps a list of tensors to (scalar, auxiliary).
        inputs: Tensors to differentiate with respect to.

    Returns:
        ((scalar, auxiliary), gradients); a gradient is zero where the input has no influence.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(inputs)
        value, auxiliary = function(inputs)
    return (value, auxiliary), tape.gradient(
        value, inputs, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )


def traced_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """A part of a step that is called several times, each time with tensors of the same shapes.

    It becomes one function of the graph, which is traced and optimized once, however often it is called.
    Where several devices share a step it is traced at every call: they cannot meet within such a function.
    """
    context = tf.distribute.get_replica_context()
    shared = context is not None and context.num_replicas_in_sync > 1
    if shared or tf.executing_eagerly():
        return function
    # Inlined, it would be optimized at every place where it is called.
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tensors, compiled when it is first called with their shapes."""
    return tf.function(function, autograph=False)


@contextmanager
def quickly_compiled() -> Iterator[None]:
    """Leave out TensorFlow's graph optimizers meanwhile, on a CPU and where the user has set none.

    For a step of tens of thousands of small operations they take longer than everything else before the first
    step, and on a CPU the steps that follow are no faster for it.
    """
    if any(tf.config.optimizer.get_experimental_options().values()) or accelerated():
        yield
        return
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


def has_xla() -> bool:
    """Whether XLA can compile a function for the device at hand."""
    try:
        return float(tf.function(lambda x: x + 1.0, jit_compile=True)(tf.constant(0.0))) == 1.0
    except (tf.errors.OpError, ValueError):
        return False


uncompilable = (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)
"""What a step raises that XLA cannot compile."""


def accelerated() -> bool:
    """Whether something faster than the processors of the host computes."""
    return bool(tf.config.list_logical_devices("GPU"))


def mean_over_replicas(tensors: list[Any]) -> list[Any]:
    """Means over the devices that compute a step together; the tensors themselves where one does."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tensors
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, tensors)


class Replicas:
    """The devices that share every batch: those of this machine, or of all in TF_CONFIG.

    Variables stay plain ones of this process. Each device computes `compute_update` on its part of the batch,
    with all-reduced loss and gradients after each of the two passes, and BatchNorm synchronized; the update
    happens once a process. Keras' own way, variables that are mirrored, reduces gradients in the optimizer
    only, which is too late for the norm of the first one.

    Args:
        machines: Whether to take part in the cluster of TF_CONFIG.

    Attributes:
        count: Number of devices.
        processes: Number of processes.
        process: Number of this one; 0 is the chief.

    Raises:
        UsageError: TF_CONFIG does not describe such a cluster.
    """

    lost = (
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.InternalError,
        tf.errors.UnavailableError,
    )
    """What an operation raises when another process has ended."""

    def __init__(self, machines: bool) -> None:
        if machines:
            self.processes, self.process = _place_in_cluster()
            self._strategy = tf.distribute.MultiWorkerMirroredStrategy()
        else:
            devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
            self.processes, self.process = 1, 0
            self._strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
        self.count: int = self._strategy.num_replicas_in_sync

    @contextmanager
    def spread(self, model: keras.Model, norms: Sequence[keras.layers.Layer]) -> Iterator[None]:
        """Have `model.fit` use all devices meanwhile.

        Args:
            model: Training model; its optimizer is built.
            norms: Its BatchNormalization layers.

        Raises:
            UsageError: A step has a branch, in which devices cannot meet.
        """
        options = getattr(model, "options", None)
        if options is not None and options.second_gradient_every > 1:
            raise UsageError(
                "On TensorFlow, several devices take the second gradient in every step. Received: "
                f"second_gradient_every={options.second_gradient_every}. Leave it out, or use JAX."
            )
        if model.jit_compile:
            raise UsageError(
                "XLA compiles the steps of one device. Received: --jit for several. Leave it out, or use JAX."
            )
        for norm in norms:
            norm.synchronized = True
        model.strategy = self._strategy
        try:
            yield
        finally:
            model.strategy = None
            for norm in norms:
                norm.synchronized = False

    def part(self, count: int) -> slice:
        """Which images of a batch this process has to prepare: those of its own devices."""
        size = count // self.processes
        return slice(self.process * size, (self.process + 1) * size)

    def from_chief(self, values: np.ndarray) -> np.ndarray:
        """The chief's int32 values (n,), of which every process has as many."""

        def masked() -> Any:
            context = tf.distribute.get_replica_context()
            first = tf.equal(context.replica_id_in_sync_group, 0)
            sent = tf.where(first, tf.constant(values), tf.zeros_like(values))
            return context.all_reduce(tf.distribute.ReduceOp.SUM, sent)

        result = tf.function(lambda: self._strategy.run(masked), autograph=False)()
        return self._strategy.experimental_local_results(result)[0].numpy()


def _place_in_cluster() -> tuple[int, int]:
    """Number of processes and of this one, from TF_CONFIG."""
    try:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        jobs = resolver.cluster_spec().as_dict()
        tasks = [(job, index) for job in ("chief", "worker") for index in range(len(jobs.get(job, ())))]
        place = tasks.index((resolver.task_type, resolver.task_id))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            "Several machines find one another by TF_CONFIG. "
            f"Received: {os.environ.get('TF_CONFIG', 'none')}. Set it to "
            '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": N}}.'
        ) from error
    return len(tasks), place


class TrainStep:
    """`train_step` for the TensorFlow backend; mixed into the training model."""

    strategy: tf.distribute.Strategy | None = None
    """What spreads a step over several devices."""

    pixels: DeviceImages | DeviceScaling | None = None
    """What makes the images of a batch: of recipes, where images lie on the device, or of uint8."""

    def train_step(self: Any, data: Any) -> dict[str, Any]:
        """One update from a batch (images float32, or what `pixels` takes; labels int32)."""
        images, labels = data
        if self.pixels is not None:
            images = self.pixels(images)
        trainable = [tf.convert_to_tensor(variable.value) for variable in self.trainable_variables]
        state = [tf.convert_to_tensor(variable.value) for variable in self.non_trainable_variables]

        def update(images: Any, labels: Any) -> Any:
            return self.compute_update(trainable, state, images, labels)

        if self.strategy is None:
            gradients, new_state, metrics = update(images, labels)
        else:
            gradients, new_state, metrics = _on_all_devices(self.strategy, update, images, labels)
        for variable, value in zip(self.non_trainable_variables, new_state, strict=True):
            variable.assign(value)
        self.optimizer.apply(gradients, self.trainable_variables)
        return metrics


def _on_all_devices(
    strategy: tf.distribute.Strategy, update: Callable[[Any, Any], Any], images: Any, labels: Any
) -> Any:
    """What the first device of this process finds, each having got its part of what this process prepared."""
    devices = len(strategy.extended.worker_devices)  # of this process, whose numbers follow one another

    def mine() -> Any:
        index = tf.distribute.get_replica_context().replica_id_in_sync_group % devices
        size = tf.shape(labels)[0] // devices
        part = slice(index * size, (index + 1) * size)
        return update(images[part], labels[part])

    return tf.nest.map_structure(
        lambda value: strategy.experimental_local_results(value)[0], strategy.run(mine)
    )
