"""Trained networks that other people published, at 8 and 4 bits, beside TensorFlow's own int8 files.

    python benchmarks/networks_of_others.py FOLDER                 all networks in a folder, then the page
    python benchmarks/networks_of_others.py FOLDER vww_96 ad01     these again, then the page

FOLDER holds the files as their authors published them, and beside it `imagenette_val.tfrecord`. Images are
photographs of it, in the size and colours of each network; other inputs are seeded noise (`features`).
Calibration has 256 of them; the ratio of signal to noise is that of 128 others, of the outputs before the
softmax, and of several outputs the smallest. The converter gets the same float network and the same inputs.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import tempfile
import warnings
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

import tfmpq
from tfmpq.data import load_dataset
from tfmpq.data.images import resize_for
from tfmpq.data.preprocess import preprocess
from tfmpq.deploy.runtime.interpreter import load
from tfmpq.deploy.runtime.quiet import quiet_stderr
from tfmpq.errors import TfmpqError
from tfmpq.models.registry import load_model

CALIBRATED, MEASURED = 256, 128
ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "docs" / "results" / "networks_of_others.json"
PAGE = ROOT / "docs" / "networks_of_others.md"


@dataclass(frozen=True)
class Source:
    """One published network.

    Attributes:
        file: Name of its file or folder.
        what: What it is.
        shape: Shape of one input.
        preprocessing: How photographs become inputs; None for inputs that are no pictures.
        build: Function of this file that builds the network, where the file holds weights only.
    """

    file: str
    what: str
    shape: tuple[int, ...]
    preprocessing: str | None = None
    build: str | None = None


NETWORKS = {
    "kws_ref_model": Source("kws_ref_model", "keyword spotting, DS-CNN", (49, 10, 1)),
    "vww_96": Source("vww_96.h5", "visual wake words, MobileNet v1 0.25", (96, 96, 3), "unit"),
    "ad01": Source("ad01.h5", "anomaly detection, dense autoencoder", (640,)),
    "str_ww_ref_model": Source("str_ww_ref_model.h5", "streaming wake word", (30, 1, 40)),
    "tinymaix_mbnet96_0.25": Source(
        "tinymaix_mbnet96_0.25.h5", "ImageNet, MobileNet v1 0.25", (96, 96, 3), "tf"
    ),
    "tinymaix_mnist_resnet": Source("tinymaix_mnist_resnet.h5", "digits, residual", (28, 28, 1), "unit"),
    "fer_mini_xception": Source("fer_mini_xception.h5", "emotions, mini Xception", (64, 64, 1), "tf"),
    "kdef_tiny_xception": Source("kdef_tiny_xception.h5", "emotions, tiny Xception", (64, 64, 1), "tf"),
    "mtcnn_12net": Source("mtcnn_12net.h5", "faces, P-Net", (12, 12, 3), "tf", "proposals"),
    "mtcnn_24net": Source("mtcnn_24net.h5", "faces, R-Net", (24, 24, 3), "tf", "refinement"),
}


def proposals() -> keras.Model:
    """P-Net of MTCNN (Zhang et al., arXiv 1604.02878)."""
    image = x = keras.Input((12, 12, 3))
    for number, filters in enumerate((10, 16, 32), 1):
        x = layers.Conv2D(filters, 3, name=f"conv{number}")(x)
        x = layers.PReLU(shared_axes=[1, 2], name=f"PReLU{number}")(x)
        x = layers.MaxPooling2D(2)(x) if number == 1 else x
    faces = layers.Conv2D(2, 1, activation="softmax", name="conv4-1")(x)
    return keras.Model(image, [faces, layers.Conv2D(4, 1, name="conv4-2")(x)])


def refinement() -> keras.Model:
    """R-Net of MTCNN."""
    image = x = keras.Input((24, 24, 3))
    for number, (filters, size, pool) in enumerate(((28, 3, "same"), (48, 3, "valid"), (64, 2, None)), 1):
        x = layers.Conv2D(filters, size, name=f"conv{number}")(x)
        x = layers.PReLU(shared_axes=[1, 2], name=f"prelu{number}")(x)
        x = layers.MaxPooling2D(3, 2, padding=pool)(x) if pool else x
    x = layers.Flatten()(layers.Permute((3, 2, 1))(x))
    x = layers.PReLU(name="prelu4")(layers.Dense(128, name="conv4")(x))
    faces = layers.Dense(2, activation="softmax", name="conv5-1")(x)
    return keras.Model(image, [faces, layers.Dense(4, name="conv5-2")(x)])


def main() -> None:
    """Try the networks and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NETWORKS)}")
    arguments = parser.parse_args()
    for name in arguments.names or NETWORKS:
        records = json.loads(RECORDS.read_text()) if RECORDS.exists() else {}
        records[name] = attempt(arguments.folder, NETWORKS[name])
        kept = {key: records[key] for key in NETWORKS if key in records}
        RECORDS.write_text(json.dumps(kept, indent=1) + "\n")
        print(name, json.dumps(records[name]), flush=True)
    PAGE.write_text(page(json.loads(RECORDS.read_text())))


def attempt(folder: Path, source: Source) -> dict[str, Any]:
    """Write one network at 8 and 4 bits and by the converter, and measure all three files."""
    # Built by a function, a network is given to the toolchain as that function and the file of its weights.
    spec = f"networks_of_others:{source.build}" if source.build else str(folder / source.file)
    options: dict[str, Any] = {"weights": str(folder / source.file)} if source.build else {}
    loaded = load_model(
        spec, input_shape=(0, 0, 0), classes=0, several_outputs=True, skip_classifier=None, **options
    )
    inputs = pictures(folder, source) if source.preprocessing else features(source, loaded.model)
    name = source.preprocessing
    values = preprocess(inputs, name) if name else inputs.astype(np.float32)
    values = values.reshape(-1, *loaded.input_shape)
    calibration, images = values[:CALIBRATED], values[CALIBRATED:]
    wanted = [np.asarray(output) for output in keras.tree.flatten(loaded.model.predict(images, verbose=0))]
    record: dict[str, Any] = {"parameters": int(loaded.model.count_params()), "commit": commit()}
    with tempfile.TemporaryDirectory() as work:
        spot = Path(work)
        np.savez(spot / "data_train.npz", x=inputs[:CALIBRATED])
        np.savez(spot / "data_test.npz", x=inputs[CALIBRATED:])
        for bits in (8, 4):
            try:
                made = tfmpq.quantize(
                    spec,
                    f"npz:{spot / 'data'}",
                    weight_bits=bits,
                    out=spot / f"{bits}.tflite",
                    progress=False,
                    preprocessing=name,
                    **options,
                )
            except TfmpqError as error:
                record[f"refused_{bits}"] = str(error)
                continue
            found = load(spot / f"{bits}.tflite").run_all(images)
            proof = made.export.verification
            record[f"bytes_{bits}"] = made.export.bytes
            record[f"db_{bits}"] = signal_to_noise(wanted, found)
            record[f"partitions_{bits}"] = proof.delegate_partitions
        (spot / "converter.tflite").write_bytes(converted(loaded.model, calibration))
        record["bytes_converter"] = (spot / "converter.tflite").stat().st_size
        record["db_converter"] = signal_to_noise(
            wanted, by_interpreter(spot / "converter.tflite", images, wanted)
        )
    return record


def pictures(folder: Path, source: Source) -> np.ndarray:
    """Photographs in the size and colours of a network, uint8 (N, *shape)."""
    split = load_dataset(f"tfrecord:{folder.parent / 'imagenette_val.tfrecord'}").test
    chosen = np.random.default_rng(0).permutation(len(split))[: CALIBRATED + MEASURED]
    height, width, channels = source.shape
    found = []
    for image in split.images(chosen):
        image = resize_for(np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image, (height, width))
        found.append(image if channels == 3 else np.round(image.mean(2, keepdims=True)).astype(np.uint8))
    return np.stack(found)


def features(source: Source, model: keras.Model) -> np.ndarray:
    """Noise that is smooth along the first axis, float32 (N, *shape).

    Its deviation is 1. For vectors, mean and deviation are those with which the first dense layer gives the
    mean and, on average, the variance that the BatchNorm behind it recorded in training.
    """
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 1, (CALIBRATED + MEASURED, source.shape[0] + 4, *source.shape[1:]))
    smooth = sum(noise[:, shift : shift + source.shape[0]] for shift in range(5)) / np.sqrt(5.0)
    if len(source.shape) == 1:
        kernel, bias = next(la for la in model.layers if isinstance(la, layers.Dense)).get_weights()
        norm = next(la for la in model.layers if isinstance(la, layers.BatchNormalization))
        mean, variance = np.asarray(norm.moving_mean), np.asarray(norm.moving_variance)
        found = smooth @ kernel
        smooth = smooth * np.sqrt(variance.mean() / found.var(0).mean())
        smooth = smooth + np.linalg.lstsq(kernel.T, mean - bias, rcond=None)[0]
    return smooth.astype(np.float32)


def signal_to_noise(wanted: list[np.ndarray], found: Any) -> float:
    """The smallest ratio in dB over the outputs: their variance over the images to the mean squared error."""
    ratios = []
    for one, other in zip(wanted, found, strict=True):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64).reshape(one.shape)
        power, error = np.mean((one - one.mean(0)) ** 2), np.mean((one - other) ** 2)
        ratios.append(10 * np.log10(power / max(error, 1e-30)))
    return round(float(min(ratios)), 1)


def converted(model: keras.Model, calibration: np.ndarray) -> bytes:
    """TensorFlow's own int8 file of a network, calibrated with these inputs."""
    import tensorflow as tf

    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    signature = [tf.TensorSpec((1, *model.input_shape[1:]), tf.float32)]
    module.call = tf.function(lambda image: model(image, training=False), input_signature=signature)
    with quiet_stderr(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        tf.saved_model.save(module, folder, signatures=module.call.get_concrete_function())
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
        return bytes(converter.convert())


def by_interpreter(path: Path, images: np.ndarray, wanted: list[np.ndarray]) -> list[np.ndarray]:
    """All outputs of a file of the converter's, in the order of the model's."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    runner = interpreter.get_signature_runner() if interpreter.get_signature_list() else None
    if runner is None:
        raise SystemExit(f"{path} has no signature.")
    details = runner.get_output_details()
    (entry,) = runner.get_input_details().items()
    scale, zero = entry[1]["quantization"]
    found: dict[str, list[np.ndarray]] = {name: [] for name in details}
    for image in images:
        codes = np.clip(np.round(image / scale) + zero, -128, 127).astype(np.int8)
        for name, value in runner(**{entry[0]: codes[None]}).items():
            step, offset = details[name]["quantization"]
            found[name].append((value[0].astype(np.float64) - offset) * step)
    return [np.stack(found[name]) for name in sorted(found)]


def commit() -> str:
    """The commit that is measured."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()


def page(records: dict[str, Any]) -> str:
    """The page with the table."""
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("keras", "tensorflow", "ai-edge-litert")
    )
    lines = [
        "# Networks of others",
        "",
        f"Written by `python benchmarks/networks_of_others.py FOLDER` ({date.today()}, {versions}; "
        "seed 0; x86-64).",
        "Trained networks as their authors published them, quantized without training: weights of 8 or 4",
        "bits, activations of 8 bits, 256 calibration inputs. Pictures are photographs of Imagenette in the",
        "size and colours of the network; inputs of the keyword, wake-word and anomaly networks are smooth",
        "noise. dB is the ratio of the outputs' variance to the squared error against the float network,",
        "before the softmax, on 128 other inputs; of several outputs the smallest. The converter is",
        "TensorFlow's, int8, with the same float network and the same inputs. All our files are proved.",
        "",
        "| network | what | parameters | 8 bits: bytes | dB | 4 bits: bytes | dB "
        "| converter: bytes | dB | partitions | commit |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, record in records.items():
        cells = [name, NETWORKS[name].what, f"{record['parameters']:,}"]
        for form in ("8", "4", "converter"):
            size = record.get(f"bytes_{form}")
            cells += [f"{size:,}", f"{record[f'db_{form}']:.1f}"] if size else ["refused", ""]
        cells += [str(record.get("partitions_8", "")), record["commit"]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
