"""SavedModels of Keras 2: configuration from their metadata, weights from their checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfmpq.errors import TfmpqError
from tfmpq.models.keras2_layers import plain

GRAPH = "saved_model.pb"
"""File by which a SavedModel is known."""

_KERAS_METADATA = "keras_metadata.pb"
_NETWORKS = ("_tf_keras_network", "_tf_keras_sequential", "_tf_keras_model")
_MOST_ELEMENTS = 2**31


def is_saved_model(path: Path) -> bool:
    """Whether a path is the folder of a SavedModel."""
    return path.is_dir() and (path / GRAPH).is_file()


def read_saved_model(path: Path) -> tuple[str, Mapping[str, Any], Mapping[str, Any]]:
    """Read a SavedModel that Keras 2 wrote.

    Args:
        path: Its folder.

    Returns:
        Class of the model, its configuration, and weights by layer.

    Raises:
        TfmpqError: It is damaged, or holds a graph but no layers.
    """
    try:
        graph = _object_graph(path)
        metadata = _metadata(path, graph)
        root = metadata.get(0, {"identifier": "", "metadata": {}})
        layered = root["identifier"] in _NETWORKS and bool(root["metadata"].get("config"))
        weights = _Weights(path, graph, metadata).of(0) if layered else {}
    except Exception as error:
        raise TfmpqError(
            f"A SavedModel must be whole. Received: {path} ({type(error).__name__}). Check that its folder "
            "was copied completely."
        ) from error
    if not layered:
        raise TfmpqError(
            "A SavedModel is read where Keras 2 wrote a functional or Sequential model into it. Received: "
            f"{path}, which holds a graph, not layers (model.export of Keras 3, plain TensorFlow, or a model "
            "of the user's own class). Save the model with model.save('model.keras') where it was built."
        )
    return str(root["metadata"]["class_name"]), plain(root["metadata"]["config"]), weights


def _object_graph(path: Path) -> Any:
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((path / GRAPH).read_bytes())
    return saved.meta_graphs[0].object_graph_def


def _metadata(path: Path, graph: Any) -> dict[int, dict[str, Any]]:
    """What Keras says of each object, by its number: identifier, and metadata as JSON holds it."""
    found: dict[int, tuple[str, str]] = {}
    if (path / _KERAS_METADATA).is_file():
        message = _metadata_message()()
        message.ParseFromString((path / _KERAS_METADATA).read_bytes())
        found = {node.node_id: (node.identifier, node.metadata) for node in message.nodes}
    else:  # TensorFlow 2.4 and older
        for number, node in enumerate(graph.nodes):
            if node.HasField("user_object") and node.user_object.metadata:
                found[number] = (node.user_object.identifier, node.user_object.metadata)
    return {
        number: {"identifier": identifier, "metadata": json.loads(text)}
        for number, (identifier, text) in found.items()
        if identifier.startswith("_tf_keras_")
    }


def _metadata_message() -> Any:
    """Class of the message in `keras_metadata.pb`, whose definition comes with Keras 2 only."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="keras2_metadata.proto", package="keras2", syntax="proto3")
    node, root = file.message_type.add(name="Node"), file.message_type.add(name="Metadata")
    kinds = descriptor_pb2.FieldDescriptorProto
    for number, name in ((2, "node_id"), (3, "node_path"), (4, "identifier"), (5, "metadata")):
        kind = kinds.TYPE_INT32 if name == "node_id" else kinds.TYPE_STRING
        node.field.add(name=name, number=number, type=kind, label=kinds.LABEL_OPTIONAL)
    root.field.add(
        name="nodes", number=1, type=kinds.TYPE_MESSAGE, label=kinds.LABEL_REPEATED, type_name=".keras2.Node"
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("keras2.Metadata"))


class _Weights:
    """Arrays of the objects of a SavedModel."""

    def __init__(self, path: Path, graph: Any, metadata: Mapping[int, Mapping[str, Any]]) -> None:
        import tensorflow as tf
        from tensorflow.core.protobuf import trackable_object_graph_pb2

        self._graph, self._metadata = graph, metadata
        self._reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
        self._sizes = self._reader.get_variable_to_shape_map()
        self._saved = trackable_object_graph_pb2.TrackableObjectGraph()
        self._saved.ParseFromString(self._reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))

    def of(self, number: int, place: int = 0) -> dict[str, Any]:
        """Weights by layer of a model.

        Args:
            number: The model in the graph of objects.
            place: The model in the graph of the checkpoint.
        """
        found: dict[str, Any] = {}
        kept = {child.local_name: child.node_id for child in self._saved.nodes[place].children}
        for child in self._graph.nodes[number].children:
            if not child.local_name.startswith("layer-") or child.local_name not in kept:
                continue
            described = self._metadata[child.node_id]
            name = str(described["metadata"]["name"])
            if described["identifier"] in _NETWORKS:
                found[name] = self.of(child.node_id, kept[child.local_name])
            else:
                found[name] = self._arrays(child.node_id, kept[child.local_name])
        return found

    def _arrays(self, number: int, place: int) -> list[tuple[str, np.ndarray]]:
        """Weights of a layer, in its own order."""
        places = self._variables(number, place, set())
        lists = [child for child in self._graph.nodes[number].children if child.local_name == "variables"]
        if not lists:  # preprocessing layers, whose statistics are attributes in the right order
            return [("", self._read(key)) for key in places.values()]
        listed = sorted(self._graph.nodes[lists[0].node_id].children, key=lambda child: int(child.local_name))
        return [("", self._read(places[child.node_id])) for child in listed]

    def _variables(self, number: int, place: int, seen: set[int]) -> dict[int, str]:
        """Key in the checkpoint of every variable of an object, by its number in the graph of objects."""
        if number in seen:
            return {}
        seen.add(number)
        keys = [a.checkpoint_key for a in self._saved.nodes[place].attributes]
        if self._graph.nodes[number].HasField("variable") and keys:
            return {number: keys[0]}
        kept = {child.local_name: child.node_id for child in self._saved.nodes[place].children}
        found: dict[int, str] = {}
        for child in self._graph.nodes[number].children:
            if child.local_name in kept:
                found |= self._variables(child.node_id, kept[child.local_name], seen)
        return found

    def _read(self, key: str) -> np.ndarray:
        if np.prod(self._sizes[key], dtype=float) > _MOST_ELEMENTS:
            raise TfmpqError(f"A weight must fit into memory. Received: {key} of shape {self._sizes[key]}.")
        return np.asarray(self._reader.get_tensor(key))
