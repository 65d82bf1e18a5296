"""What both halves share: the folder that goes from JAX to TensorFlow, and the training model to compare.

`make test-jax` runs `test_jax_backend.py` where there is no TensorFlow and then `test_handover.py` where
there is no JAX.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

# Two devices for data-parallel training; all else uses the first. JAX reads this when it makes its devices.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"

import keras
import pytest

from tfmpq.graph.fusion import analyse
from tfmpq.methods import load_method
from tfmpq.methods.gradient import search_trainer
from tfmpq.policy.budget import parse_budgets
from tfmpq.policy.network_cost import cost_model
from tfmpq.quantizers.choices import quantize_wrappers
from tfmpq.training.descent import Descent
from tfmpq.training.optimizer import QuantizationOptimizer
from tfmpq.training.presets import of_fine_tuning
from tfmpq.training.step import QuantizedTraining

STEPS = 40
"""Length of the search whose step is compared: it sets the rates."""


@pytest.fixture(scope="session")
def handover(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that JAX's half fills and TensorFlow's half reads."""
    named = os.environ.get("TFMPQ_HANDOVER")
    folder = Path(named) if named else tmp_path_factory.mktemp("handover")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def trainer_of() -> Callable[[keras.Model], QuantizedTraining]:
    """The training model of an ASGA search, made from a searchable quantized model."""

    def make(quantized: keras.Model) -> QuantizedTraining:
        network = analyse(quantized, input_signed=False)
        costs = cost_model(network)
        configs = {w.name: w.quantize_config for w in quantize_wrappers(quantized)}
        weights = {node.name: configs[node.name].weight_bits for node in network.weighted}
        space = (weights, dict.fromkeys(network.tensors, (8,)))
        limits = parse_budgets(["size=0.4x"], costs)
        return search_trainer(
            quantized, costs, limits, space, load_method("asga").sharpness, Descent(0.01, STEPS)
        )

    return make


SAQ_STEPS = {"saq-1": (1, 2, "adamw"), "saq-3": (3, 1, "sgd")}
"""By name: the case, steps from one second gradient to the next, and the optimizer of the weights."""


@pytest.fixture(scope="session")
def saq_trainer_of() -> Callable[[keras.Model, str], QuantizedTraining]:
    """The training model of a fine-tuning by SAQ, made from a quantized model."""

    def make(quantized: keras.Model, name: str) -> QuantizedTraining:
        case, every, weights = SAQ_STEPS[name]
        trainer = QuantizedTraining(quantized.inputs[0], quantized.outputs[0])
        options = of_fine_tuning(
            "saq", saq_case=case, rho=0.05, adaptive=False, norm="global", second_gradient_every=every
        )
        trainer.configure(options)
        trainer.compile(
            optimizer=QuantizationOptimizer(0.001, weights=weights),
            jit_compile=keras.backend.backend() == "jax",
        )
        return trainer

    return make
