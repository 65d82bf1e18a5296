"""A network on a device: the form for its processor, the outputs there, the time that it takes."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfmpq.deploy.conversion.specialize import has_wide_activations
from tfmpq.deploy.devices.benchmark_model import BenchmarkModel
from tfmpq.deploy.devices.errors import OutputsDiffer
from tfmpq.deploy.devices.python_runner import PythonRunner
from tfmpq.deploy.devices.transports import Transport, transport
from tfmpq.deploy.latency.measure import binary_for, measure, program_for
from tfmpq.deploy.latency.measurement import Measurement
from tfmpq.deploy.runtime.interpreter import open_interpreter, to_codes
from tfmpq.deploy.runtime.processor import target_for
from tfmpq.deploy.runtime.quiet import quiet_stderr
from tfmpq.deploy.tflite.flatbuffer import read_file, read_model, reading
from tfmpq.deploy.tflite.metadata import read_metadata
from tfmpq.errors import UsageError
from tfmpq.graph.containers import TARGETS, WIDE_TARGET, Target
from tfmpq.progress import Reporter, SilentReporter
from tfmpq.quantization.finished_runs import policy_of_run
from tfmpq.results import Result
from tfmpq.training.run_folder import Stage

LEAST_AGREEMENT = 0.9
"""Share of images that must get the class that they get here.

Rounding differs between processors, by several steps at the end of a deep network (docs/devices.md), so that
close classes change places; wrong kernels do far worse.
"""

_INFER_SECONDS = 1800.0


@dataclass(frozen=True, slots=True)
class Agreement:
    """Outputs of the device beside those of this machine.

    Attributes:
        images: Number of images.
        max_lsb: Largest distance of two outputs in quantization steps; None for float outputs.
        differing: Number of outputs that differ.
        total: Number of outputs.
        top1_agreement: Share of images with the same class, 0 to 1.
        top1: Share of images that the device classifies as labelled, 0 to 1.
        top1_here: The same for this machine.
    """

    images: int
    max_lsb: int | None
    differing: int
    total: int
    top1_agreement: float
    top1: float
    top1_here: float


@dataclass(frozen=True, slots=True)
class Delivery(Result):
    """A network that ran on a device.

    Attributes:
        source: Run folder or file that it came from.
        path: File that was written for the device.
        form: What it was written for.
        bytes: Its size.
        agreement: Its outputs; None where benchmark_model runs it, which shows none.
        measurement: Its latency.
    """

    source: str
    path: str
    form: Target
    bytes: int
    agreement: Agreement | None
    measurement: Measurement

    def to_json(self) -> dict[str, Any]:
        """All fields; the measurement as `measure` writes it."""
        shown = {name: getattr(self, name) for name in ("source", "path", "form", "bytes")}
        agreement = asdict(self.agreement) if self.agreement else None
        return {**shown, "agreement": agreement, "measurement": self.measurement.to_json()}


def deploy(
    source: str | Path,
    data: str,
    *,
    on: str = "local",
    limit: int = 100,
    threads: int = 1,
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    python: str | None = None,
    ssh_config: str | Path | None = None,
    adb: str | Path | None = None,
    benchmark_model: str | Path | None = None,
    reporter: Reporter | None = None,
) -> Delivery:
    """Write a network for a device, compare its outputs there with those here, and measure it.

    On Android `benchmark_model` measures, and outputs are not compared; with a bundle as `python` they are.

    Args:
        source: Run folder of a fine-tuning, or a `.tflite` of one.
        data: Data set whose test images are used.
        on: The device: `local`, `ssh:HOST`, `adb` or `adb:SERIAL`.
        limit: Number of images.
        threads: Threads of the runtime.
        out: File to write; by default beside the source, named after the form.
        data_dir: Folder that is looked in first for data.
        python: How Python is called on the device; by default found. On Android a bundle.
        ssh_config: Configuration file for ssh instead of the user's.
        adb: The adb client; by default found.
        benchmark_model: LiteRT's program of that name for the device; what measures on Android.
        reporter: Told about progress.

    Raises:
        UsageError: The source is none or no classifier, or it or an option does not suit the device.
        DeviceError: The device or the way to it fails, or its outputs are others.
        TfmpqError: The network cannot be written.
    """
    reporter, source = reporter or SilentReporter(), Path(source)
    wide = _check_source(source)
    access: dict[str, Any] = {"python": python, "ssh_config": ssh_config, "adb": adb}
    way, agreement = transport(on, **access), None
    binary = binary_for(way, benchmark_model)
    with way as device:
        program = program_for(device, binary)
        program.require_runtime()
        form = choose_form(program.probe(), wide)
        path = _write(source, form, Path(out) if out else None, data_dir, reporter)
        if isinstance(program, BenchmarkModel):
            reporter.log("Outputs are not compared: benchmark_model shows none.")
        else:
            images, labels = _images(path, data, limit, data_dir, reporter)
            agreement = _compare(device, program, path, images, labels)
    if agreement and agreement.top1_agreement < LEAST_AGREEMENT:
        raise OutputsDiffer(on, f"{agreement.top1_agreement:.1%} of {agreement.images} images do")
    found = measure(
        path, on=on, threads=threads, benchmark_model=benchmark_model, reporter=reporter, **access
    )
    return Delivery(str(source), str(path), form, path.stat().st_size, agreement, found[0])


def choose_form(probed: dict[str, Any], wide: bool = False) -> Target:
    """What to write for a device: see `tfmpq.graph.containers` for what each form is.

    Args:
        probed: The runner's answer: runtime and device.
        wide: Whether the network has 16-bit activations.

    Raises:
        UsageError: The device's runtime has no form for 16-bit activations.
    """
    device, runtime = probed["device"], probed["runtime"]["name"]
    form = target_for(device["machine"], device["features"], runtime)
    if not wide:
        return form
    if form == "tflite-runtime":
        raise UsageError(
            f"16-bit activations are written for --target {WIDE_TARGET}, which ai-edge-litert runs. "
            f"Received: a device with {runtime}. Install ai-edge-litert there, or export 8 bits."
        )
    return WIDE_TARGET


def _check_source(source: Path) -> bool:
    """Refuse what cannot be delivered, before any work; returns whether activations have 16 bits."""
    if source.is_dir():
        stage = Stage(source, "finetune")
        if not stage.finished:
            raise UsageError(
                f"A fine-tuned run is deployed. Received: {source}, not fine-tuned. Run tfmpq finetune "
                f"{source}."
            )
        return policy_of_run(stage).wide
    model = read_model(read_file(source), source)
    with reading(source):
        graph = model.subgraphs[0]
        if (len(graph.inputs), len(graph.outputs)) != (1, 1):
            raise UsageError(
                "A classifier takes one batch of images and answers with logits, which are compared. "
                f"Received: {source} with {len(graph.inputs)} inputs and {len(graph.outputs)} outputs. Use "
                "tfmpq specialize and tfmpq measure, which compare no outputs."
            )
        return has_wide_activations(model)


def _file_beside(source: Path, form: Target) -> Path:
    """Where a file in another form goes; only the name of a form is replaced, because names have dots."""
    stem = source.name.removesuffix(".tflite")
    before, _, last = stem.rpartition(".")
    if before and last in TARGETS:
        stem = before
    return source.with_name(f"{stem}.{form}.tflite")


def _write(
    source: Path, form: Target, out: Path | None, data_dir: str | Path | None, reporter: Reporter
) -> Path:
    """Export the run, or rewrite the file."""
    if source.is_dir():
        with quiet_stderr():  # TensorFlow greets
            from tfmpq.api.export import export
        return Path(export(source, target=form, out=out, data_dir=data_dir, reporter=reporter).path)
    from tfmpq.api.specialize import specialize

    target = out or _file_beside(source, form)
    specialize(source, target, form)
    return target


def _images(
    path: Path, data: str, limit: int, data_dir: str | Path | None, reporter: Reporter
) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the input tensor, int8 (N, height, width, channels), and labels of the first test images."""
    with quiet_stderr():  # TensorFlow greets
        from tfmpq.data import ImageBatches, load_dataset
    content = read_file(path)
    detail = open_interpreter(content).get_input_details()[0]
    preprocessing = read_metadata(content, str(path)).get("preprocessing")
    if preprocessing is None:
        raise UsageError(
            f"Pixels become inputs as in training. Received: {path}, which has no record. Give a file of "
            "tfmpq export."
        )
    _, height, width, channels = (int(size) for size in detail["shape"])
    split = load_dataset(data, data_dir=data_dir, reporter=reporter).test
    batches = ImageBatches(
        split,
        min(limit, len(split)),
        image_shape=(height, width, channels),
        preprocessing=preprocessing,
        shuffle=False,
        drop_remainder=False,
    )
    images, labels = batches[0]
    return to_codes(np.asarray(images), detail), np.asarray(labels)


def _compare(
    device: Transport, program: PythonRunner, path: Path, images: np.ndarray, labels: np.ndarray
) -> Agreement:
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder, "inputs.npy"), Path(folder, "outputs.npy")
        np.save(inputs, images)
        name, pushed = device.push(path), device.push(inputs)
        program.infer(name, path, pushed, "outputs.npy", _INFER_SECONDS)
        device.pull("outputs.npy", outputs)
        there = np.load(outputs)
    here = _outputs(path, images)
    integers = np.issubdtype(here.dtype, np.integer)
    distance = np.abs(there.astype(np.float64) - here.astype(np.float64))
    classes, classes_here = there.argmax(axis=-1), here.argmax(axis=-1)
    return Agreement(
        images=len(images),
        max_lsb=int(distance.max()) if integers else None,
        differing=int(np.count_nonzero(distance)),
        total=distance.size,
        top1_agreement=float(np.mean(classes == classes_here)),
        top1=float(np.mean(classes == labels)),
        top1_here=float(np.mean(classes_here == labels)),
    )


def _outputs(path: Path, images: np.ndarray) -> np.ndarray:
    """What the runtime of this machine answers, as it is in the output tensor."""
    interpreter = open_interpreter(path.read_bytes())
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]
    outputs = []
    for index in range(len(images)):
        interpreter.set_tensor(source, images[index : index + 1])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(target)[0].copy())
    return np.stack(outputs)
