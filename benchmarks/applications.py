"""Which networks of keras.applications are exported and proved, at 8 bits and at mixed widths, or why not.

    python benchmarks/applications.py                      all of them, then the page
    python benchmarks/applications.py MobileNet Xception   these two again, then the page

Weights are random and images are noise: what is shown is that every operator of the file computes what was
quantized, not how well the network classifies. Records are kept beside the results of the other benchmarks;
the page docs/applications.md is written from them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import subprocess
import time
from datetime import date
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfmpq.deploy.conversion.dynamic_form import build_dynamic
from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.proof.dynamic_verify import verify_dynamic
from tfmpq.deploy.proof.verify import Verification, verify
from tfmpq.errors import TfmpqError
from tfmpq.graph.fusion import analyse
from tfmpq.graph.network import Network
from tfmpq.models.registry import load_model
from tfmpq.quantization.dynamic import freeze_dynamic, quantize_dynamic
from tfmpq.quantization.freeze import freeze, snap_biases
from tfmpq.quantization.insertion import quantize_model

SIDES = {
    "MobileNet": 64,
    "MobileNetV2": 64,
    "MobileNetV3Small": 64,
    "MobileNetV3Large": 64,
    "ResNet50": 64,
    "ResNet50V2": 64,
    "VGG16": 64,
    "DenseNet121": 64,
    "EfficientNetB0": 64,
    "EfficientNetV2B0": 64,
    "ConvNeXtTiny": 64,
    "InceptionV3": 96,
    "Xception": 96,
    "NASNetMobile": 64,
}
"""Side of the image: smaller than usual, for time; at least what the network takes."""

PLANS = {"W8A8": (8,), "mixed": (8, 4, 6, 3, 4, 2, 5, 4)}
"""Weight bits of the layers in order, repeated; activations have 8 bits."""

FLOAT_PLANS = {"W8, dynamic": PLANS["W8A8"], "mixed, dynamic": PLANS["mixed"]}
"""Weight bits of networks that integer activations do not take: their activations are float."""

CLASSES = 100
SPAN = (0.0, 255.0)
ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "docs" / "results" / "applications.json"
PAGE = ROOT / "docs" / "applications.md"


def main() -> None:
    """Try the networks and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SIDES)}")
    names = parser.parse_args().names or list(SIDES)
    for name in names:
        records = json.loads(RECORDS.read_text()) if RECORDS.exists() else {}
        records[name] = attempt(name)
        RECORDS.write_text(
            json.dumps({key: records[key] for key in SIDES if key in records}, indent=1) + "\n"
        )
        print(name, json.dumps(records[name]), flush=True)
    PAGE.write_text(page(json.loads(RECORDS.read_text())))


def attempt(name: str) -> dict[str, Any]:
    """Export one network in every plan, or say why not."""
    side = SIDES[name]
    keras.utils.set_random_seed(0)
    record: dict[str, Any] = {"side": side, "when": f"{date.today()}, commit {commit()}"}
    images = noise(side)
    loaded = load_model(
        f"keras.applications:{name}", input_shape=(side, side, 3), classes=CLASSES, weights=None
    )
    try:
        network = analyse(loaded.model, input_signed=False)
        settle(loaded.model, images)
        record |= {"weighted": len(network.weighted), "nodes": len(network.nodes)}
        for plan, widths in PLANS.items():
            record[plan] = export(loaded.model, network, widths, images)
    except TfmpqError as error:
        network = analyse(loaded.model, dynamic=True)
        record |= {"refused": str(error), "weighted": len(network.weighted), "nodes": len(network.nodes)}
        for plan, widths in FLOAT_PLANS.items():
            record[plan] = export_dynamic(loaded.model, network, widths, images)
    return record


def noise(side: int) -> np.ndarray:
    """Images in which neighbouring pixels are alike, so that deep layers see differences as well."""
    generator = np.random.default_rng(0)
    coarse = generator.uniform(*SPAN, (16, side // 8, side // 8, 3)).repeat(8, axis=1).repeat(8, axis=2)
    fine = generator.uniform(-40, 40, coarse.shape)
    return np.clip(coarse + fine, *SPAN).astype(np.float32)


def settle(model: keras.Model, images: np.ndarray) -> None:
    """Give BatchNorm the statistics of the images; with its initial ones signals die out or explode."""
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    usual = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    model(images, training=True)
    for layer, momentum in zip(norms, usual, strict=True):
        layer.momentum = momentum


def export(
    model: keras.Model, network: Network, widths: tuple[int, ...], images: np.ndarray
) -> dict[str, Any]:
    """Quantize, freeze, write and prove; what came out of it."""
    begin = time.perf_counter()
    weights = candidates(network, widths)
    quantized = quantize_model(model, network, weights, dict.fromkeys(network.tensors, (8,)), images, SPAN)
    found = analyse(quantized, input_signed=False)
    snap_biases(quantized, found)
    frozen = freeze(quantized, found)
    content = build_tflite(frozen, "litert")
    return outcome(verify(frozen, content, "litert", images[:1]), content, begin)


def export_dynamic(
    model: keras.Model, network: Network, widths: tuple[int, ...], images: np.ndarray
) -> dict[str, Any]:
    """The same with float activations."""
    begin = time.perf_counter()
    quantized = quantize_dynamic(model, network, candidates(network, widths))
    frozen = freeze_dynamic(quantized, analyse(quantized, dynamic=True))
    content = build_dynamic(frozen)
    return outcome(verify_dynamic(frozen, content, images[:1]), content, begin)


def candidates(network: Network, widths: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Weight bits of the layers, which repeat."""
    cycle = itertools.cycle(widths)
    return {node.name: (next(cycle),) for node in network.weighted}


def outcome(proof: Verification, content: bytes, begin: float) -> dict[str, Any]:
    """What came out, since a point in time."""
    fast = [check for check in proof.operators if check.kernels == "xnnpack"]
    return {
        "proved": proof.passed,
        "failures": list(proof.failures[:3]),
        "bytes": len(content),
        "elements": sum(check.elements for check in fast),
        "off_by_one": sum(check.off_by_one for check in fast),
        "off_by_more": sum(check.off_by_more for check in fast),
        "partitions": proof.delegate_partitions,
        "kinds": sorted({check.kind for check in fast}),
        "seconds": round(time.perf_counter() - begin, 1),
    }


def page(records: dict[str, Any]) -> str:
    """The table as Markdown."""
    versions = ", ".join(
        f"{package} {importlib.metadata.version(package)}"
        for package in ("keras", "tensorflow", "ai-edge-litert")
    )
    lines = [
        "# Networks of keras.applications",
        "",
        "Written by `python benchmarks/applications.py` (random weights, images of noise; "
        f"{occasions(records)}; {versions}; x86-64).",
        "A network is proved when the file holds the quantized integers and every operator, recomputed from",
        "the runtime's own inputs, is within the bounds of the proof. Elements off by one are those of all",
        "tensors of one image under XNNPACK. `mixed` repeats "
        f"{', '.join(map(str, PLANS['mixed']))} bits over the layers.",
        "",
        "| network | side | layers with weights | plan | kB | off by one / elements | partitions | outcome |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, record in records.items():
        lines += rows(name, record)
    return "\n".join([*lines, "", *remarks(records)]) + "\n"


def occasions(records: dict[str, Any]) -> str:
    """When which networks were tried."""
    names: dict[str, list[str]] = {}
    for name, record in records.items():
        names.setdefault(record["when"], []).append(name)
    usual = max(names, key=lambda when: len(names[when]))
    others = [f"{', '.join(found)}: {when}" for when, found in names.items() if when != usual]
    return "; ".join([usual, *others])


def rows(name: str, record: dict[str, Any]) -> list[str]:
    """A line for each plan, or one with the reason."""
    found = []
    if "refused" in record:
        found.append(f"| {name} | {record['side']} | | W8A8 | | | | refused, see below |")
    for plan in FLOAT_PLANS if "refused" in record else PLANS:
        made = record[plan]
        said = "proved" if made["proved"] else f"not proved: {made['failures'][0]}"
        found.append(
            f"| {name} | {record['side']} | {record['weighted']} | {plan} | {made['bytes'] / 1000:.0f} | "
            f"{made['off_by_one']} / {made['elements']} | {made['partitions']} | {said} |"
        )
    return found


def remarks(records: dict[str, Any]) -> list[str]:
    """Reasons of refusals, and what more than one partition means."""
    lines = [
        "More than one partition: XNNPACK has no int8 average over the border (`AveragePooling2D` with",
        "padding `same`) and no GELU; LiteRT's own kernels compute them, exactly.",
        "`dynamic`: with [float activations](operators.md#float-activations), where no element may be beyond",
        "its bound.",
    ]
    for name, record in records.items():
        if "refused" in record:
            lines += ["", f"**{name}**: {record['refused']}"]
    return lines


def commit() -> str:
    """What is measured."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
