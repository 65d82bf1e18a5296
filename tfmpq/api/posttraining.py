"""A float network quantized without training: what every verb that does so has in common."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfmpq.api.export import AGREEMENT_IMAGES
from tfmpq.api.given import GivenModel
from tfmpq.data.objects import model_rank, open_data
from tfmpq.data.preprocess import pixel_step, value_range
from tfmpq.graph.dynamic import DynamicModel
from tfmpq.graph.frozen import FrozenModel
from tfmpq.methods.compress_options import CompressOptions
from tfmpq.methods.job_options import QuantizeOptions
from tfmpq.policy.policy import Policy
from tfmpq.progress import Reporter
from tfmpq.quantization.dynamic import freeze_dynamic, quantize_dynamic
from tfmpq.quantization.finished_runs import file_facts
from tfmpq.quantization.freeze import freeze, snap_biases
from tfmpq.quantization.insertion import LINKED_IMAGES, quantize_model
from tfmpq.quantization.loss import loss_warnings
from tfmpq.quantization.reconstruction import affordable_images, reconstruct
from tfmpq.quantization.unchanging import unchanging_tensors, unchanging_warning
from tfmpq.tasks.fidelity import Fidelity, Reference
from tfmpq.tasks.image_checks import image_warnings
from tfmpq.tasks.model_outputs import outputs_of
from tfmpq.tasks.noise import RANDOM
from tfmpq.tasks.sampling import drawn
from tfmpq.tasks.scoring import predictor
from tfmpq.tasks.task import CALIBRATION_IMAGES, Task, fused, load_task


def is_noise(data: Any) -> bool:
    """Whether it is the word for images of noise; where no images are needed, none stand for that too."""
    return data is None or (isinstance(data, str) and data == RANDOM)


def task_of(
    network: GivenModel,
    model: Any,
    data: Any,
    validation: Any,
    options: CompressOptions | QuantizeOptions,
    reporter: Reporter,
    dynamic: bool = False,
) -> Task:
    """The float network with the images that are given; nothing is learned from their labels.

    Args:
        network: The network.
        model: It as it was given.
        data: Images to calibrate with, or `random`.
        validation: Images to score on; None for a part of the data.
        options: Weights, preprocessing, folder of data.
        reporter: Told about progress.
        dynamic: Whether activations stay float.

    Raises:
        UsageError: The two do not fit.
    """
    dataset = None
    if not is_noise(data):
        dataset = open_data(
            data,
            validation,
            data_dir=options.data_dir,
            rank=model_rank(model),
            sampled=True,
            reporter=reporter,
        )
    return load_task(
        network.word,
        dataset,
        weights=options.weights,
        preprocessing=options.preprocessing,
        reporter=reporter,
        name=network.name,
        trains=False,
        dynamic=dynamic,
    )


def data_warnings(task: Task) -> tuple[str, ...]:
    """What is wrong with the images that ranges come from.

    Raises:
        UsageError: They do not differ at all.
    """
    train = task.dataset.train
    found = image_warnings(train.take(drawn(train, CALIBRATION_IMAGES)), task.dataset.name)
    same = unchanging_tensors(task.model, task.network, task.calibration_images())
    return (*found, *([unchanging_warning(same)] if same else []))


def float_reference(task: Task) -> Reference:
    """The float network's answers to a sample of the test images."""
    images, labels = task.test_sample(AGREEMENT_IMAGES)
    outputs = tuple(np.asarray(x) for x in predictor(task.model)(images))
    known = labels if task.dataset.classes else None
    cuts = tuple(output.cut for output in outputs_of(task.model))
    return Reference("float model", images, outputs, known, task.dataset.classes, cuts)


def quantize_without_training(
    task: Task, bits: Policy, real: bool, fitting: bool, reporter: Reporter, *, images: int | None = None
) -> keras.Model:
    """A quantized model whose biases lie on their grid, ready to be frozen.

    Args:
        task: Float network and calibration images.
        bits: Widths.
        real: Whether the images are real ones, on which means and kernels can be fitted.
        fitting: Whether kernels are fitted to the float layers; else only the biases.
        reporter: Told about progress.
        images: Calibration images; None for as many as are of use.
    """
    model, network = task.model, task.network
    widths = {name: (width,) for name, width in bits.weight_bits.items()}
    if network.dynamic and not real:
        return quantize_dynamic(model, network, widths)
    useful = affordable_images(network) if real else CALIBRATION_IMAGES
    sample = task.calibration_images(images or useful)
    if network.dynamic:
        quantized = quantize_dynamic(model, network, widths, images=sample[:LINKED_IMAGES])
        reconstruct(quantized, model, network, sample, reporter, kernels=fitting)
        return quantized
    quantized = quantize_model(
        model,
        network,
        widths,
        {name: (width,) for name, width in bits.activation_bits(network.tensors).items()},
        sample[:CALIBRATION_IMAGES],
        value_range(task.preprocessing),
        pixel_step=pixel_step(task.preprocessing),
    )
    if real:
        reconstruct(quantized, model, network, sample, reporter, kernels=fitting)
    snap_biases(quantized, fused(quantized, task.preprocessing))
    return quantized


def frozen_network(
    task: Task, quantized: keras.Model, bits: Policy, top1: float | None, data: str
) -> FrozenModel | DynamicModel:
    """The quantized model as integers.

    Args:
        task: Float network.
        quantized: What `quantize_without_training` made.
        bits: Its widths.
        top1: Its score, which the file records; None without one.
        data: Data set that it was calibrated on.
    """
    facts = file_facts(
        task.loaded.name,
        task.preprocessing,
        task.loaded.classes,
        bits.weight_bits,
        bits.activation_bits(task.network.tensors),
        top1,
        data,
    )
    network = fused(quantized, task.preprocessing, task.network.dynamic)
    return (freeze_dynamic if network.dynamic else freeze)(quantized, network, facts)


def what_was_lost(
    task: Task, quantized: keras.Model, bits: Policy, fidelity: Fidelity | None, images: np.ndarray
) -> list[str]:
    """Warnings of a file whose outputs are far from the float network's, and the layer where that begins."""
    if fidelity is None:
        return []
    widths = (*bits.weight_bits.values(), *bits.activation_bits(task.network.tensors).values())
    return loss_warnings(fidelity, min(widths), quantized, task.model, task.network, images)
