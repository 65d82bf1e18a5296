"""The four networks of MLPerf Tiny on a microcontroller: flash, arena and fidelity, by bits.

    python benchmarks/microcontrollers.py --networks FOLDER --cifar FOLDER --out microcontrollers.json

The first folder holds `kws_ref_model`, `vww_96.h5` and `ad01.h5` as published, beside it lies
`cifar10_resnet8_mlperftiny.h5`; the other has `cifar10_train.npz` and `cifar10_test.npz` with arrays `images`
and `labels`. They are files of Keras 2. Where there are no test images, fidelity is the signal-to-noise ratio
of the outputs (before a softmax) to those of the float network, in dB, on inputs like the calibration's:
smooth noise for the image network, normal noise for the others, seed 0. Nothing is trained; layers are fitted
as `tfmpq export --calibrate` does.
The converter's files come from the same float network and the same calibration inputs, int8 in and out.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from tfmpq.deploy.conversion.microcontroller_form import PREFERENCES, as_written
from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.microcontroller.report import flash_image, micro_report
from tfmpq.deploy.microcontroller.runtime import arena_bytes
from tfmpq.deploy.runtime.interpreter import tensor_values
from tfmpq.deploy.runtime.quiet import quiet_stderr
from tfmpq.graph.fusion import analyse
from tfmpq.models.registry import load_model
from tfmpq.progress import SilentReporter
from tfmpq.provenance import versions
from tfmpq.quantization.freeze import freeze, snap_biases
from tfmpq.quantization.insertion import quantize_model
from tfmpq.quantization.reconstruction import reconstruct
from tfmpq.tasks.noise import random_images

CALIBRATION, TEST, SCORED = 128, 64, 1000


@dataclass(frozen=True)
class Subject:
    """A float network, its inputs, and labels if there are some."""

    name: str
    model: keras.Model
    calibration: np.ndarray
    test: np.ndarray
    labels: np.ndarray | None


def subjects(networks: Path, cifar: Path) -> Iterator[Subject]:
    """The four networks, one after the other."""
    generator = np.random.default_rng(0)
    images = random_images(CALIBRATION + TEST, (96, 96, 3)).astype(np.float32) / 255
    features = generator.normal(0, 1, (CALIBRATION + TEST, 49, 10, 1)).astype(np.float32)
    vectors = generator.normal(0, 1, (CALIBRATION + TEST, 640)).astype(np.float32)
    train, test = (np.load(cifar / f"cifar10_{part}.npz") for part in ("train", "test"))
    chosen = generator.permutation(len(train["images"]))[:CALIBRATION]
    labels = test["labels"][:SCORED]
    # The published file takes pixels of 0 to 255.
    photos = [train["images"][chosen].astype(np.float32), test["images"][:SCORED].astype(np.float32)]
    for name, path, data, scored in (
        ("keyword spotting", networks / "kws_ref_model", features, None),
        ("visual wake words", networks / "vww_96.h5", images, None),
        ("anomaly detection", networks / "ad01.h5", vectors, None),
        ("image classification", networks.parent / "cifar10_resnet8_mlperftiny.h5", photos, labels),
    ):
        calibration, held = data if isinstance(data, list) else (data[:CALIBRATION], data[CALIBRATION:])
        yield Subject(name, load(path), calibration, held, scored)


def load(path: Path) -> keras.Model:
    """A file of Keras 2 as the toolchain reads it: images in, logits out."""
    return load_model(str(path), input_shape=(0, 0, 0), classes=0, several_outputs=True).model


def rows(subject: Subject) -> Iterator[dict[str, Any]]:
    """A row for the converter's file, and for each of ours."""
    model = subject.model
    shape = tuple(model.inputs[0].shape[1:])
    calibration, test = (part.reshape(-1, *shape) for part in (subject.calibration, subject.test))
    exact = model.predict(test, verbose=0)
    low, high = min(float(calibration.min()), 0.0), float(calibration.max())
    network = analyse(model, low < 0)
    names = [node.name for node in network.weighted]
    sizes = {node.name: int(np.prod(model.get_layer(node.name).kernel.shape)) for node in network.weighted}
    largest = sorted(names, key=lambda name: -sizes[name])
    half, held = set[str](), 0
    for name in largest:  # the largest layers, until they hold four fifths of the weights
        if held < 0.8 * sum(sizes.values()):
            half.add(name)
            held += sizes[name]
    widths = {
        "8 bits": dict.fromkeys(names, 8),
        "4 bits": dict.fromkeys(names, 4),
        "4 bits in the largest layers": {name: 4 if name in half else 8 for name in names},
    }
    yield converter_row(subject, model, calibration, test, exact)
    for title, bits in widths.items():
        quantized = quantize_model(
            model,
            network,
            {name: (width,) for name, width in bits.items()},
            dict.fromkeys(network.tensors, (8,)),
            calibration,
            (low, high),
        )
        reconstruct(quantized, model, network, calibration, SilentReporter())
        snap_biases(quantized, analyse(quantized, low < 0))
        frozen = freeze(quantized, analyse(quantized, low < 0), {"preprocessing": "none"})
        for prefer in PREFERENCES if title != "8 bits" else PREFERENCES[:1]:
            written = as_written(frozen, "tflm", prefer)
            core = build_tflite(written, "tflm")
            report = micro_report(core, core, written, test[:2])
            codes = frozen.layers[0].grid.quantize(test)
            answers = next(iter(tensor_values(core, None, codes, "builtin").values()))
            found = frozen.layer(frozen.returned[0]).grid.dequantize(answers)
            yield {
                "network": subject.name,
                "file": f"{title}, --prefer {prefer}" if title != "8 bits" else title,
                "flash": report.flash_bytes,
                "arena": report.arena_bytes,
                "unpacking": report.unpacking_bytes,
                **fidelity(subject, found.reshape(exact.shape), exact),
            }


def converter_row(
    subject: Subject, model: keras.Model, calibration: np.ndarray, test: np.ndarray, exact: np.ndarray
) -> dict[str, Any]:
    """The TensorFlow converter's full int8 file of the same network."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), quiet_stderr():
        warnings.simplefilter("ignore")
        model.export(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
        content = fixed_batch(converter.convert())
    interpreter = tf.lite.Interpreter(model_content=content)
    entry, leaving = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero = entry["quantization"]
    codes = np.clip(np.round(test / scale) + zero, -128, 127).astype(np.int8)
    answers = next(iter(tensor_values(content, None, codes, "builtin").values()))
    scale, zero = leaving["quantization"]
    found = (answers.astype(np.float32) - zero) * scale
    return {
        "network": subject.name,
        "file": "TensorFlow's converter, int8",
        "flash": len(flash_image(content)),
        "arena": arena_bytes(flash_image(content), 1 << 20),
        "unpacking": 0,
        **fidelity(subject, found.reshape(exact.shape), exact),
    }


def fixed_batch(content: bytes) -> bytes:
    """The file for one input at a time: a free batch becomes 1."""
    from tfmpq.deploy.tflite.flatbuffer import read_model, write_model

    model = read_model(content)
    for tensor in model.subgraphs[0].tensors:
        tensor.shapeSignature = None
    return write_model(model)


def fidelity(subject: Subject, found: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """Signal-to-noise ratio in dB, and top-1 where there are labels."""
    noise = float(np.mean(np.square(found - exact)))
    # What an input changes counts as signal, not the mean that an output has over all of them.
    signal = float(np.mean(np.square(exact - exact.mean(0))))
    decibels = 10 * np.log10(signal / max(noise, 1e-30))
    score: dict[str, float] = {"db": round(float(decibels), 1)}
    if subject.labels is not None:
        score["top1"] = float(np.mean(found.argmax(1) == subject.labels))
        score["float_top1"] = float(np.mean(exact.argmax(1) == subject.labels))
    return score


def main() -> None:
    """Measure all and write the rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", type=Path, required=True)
    parser.add_argument("--cifar", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    found = []
    for subject in subjects(arguments.networks, arguments.cifar):
        for row in rows(subject):
            print(row, flush=True)
            found.append(row)
    facts = {"seed": 0, "versions": versions(), "rows": found}
    arguments.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
