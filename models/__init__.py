"""Reference networks, their registry, and the loading of published weights."""

from tfmpq.models.registry import LoadedModel, load_model, model_names
from tfmpq.models.weights import load_weights

__all__ = ["LoadedModel", "load_model", "load_weights", "model_names"]
