"""A network on a device: the form for its processor, the outputs there, the time that it takes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfmpq.api.device_options import DeployOptions
from tfmpq.api.sources import file_of, kept_by
from tfmpq.api.specialize import specialize
from tfmpq.bars import reporting
from tfmpq.deploy.conversion.specialize import has_wide_activations
from tfmpq.deploy.devices.benchmark_model import BenchmarkModel
from tfmpq.deploy.devices.errors import OutputsDiffer
from tfmpq.deploy.devices.python_runner import PythonRunner
from tfmpq.deploy.devices.transports import Transport, transport
from tfmpq.deploy.latency.measure import binary_for, measure, program_for
from tfmpq.deploy.latency.measurement import Measurement
from tfmpq.deploy.runtime.interpreter import open_interpreter
from tfmpq.deploy.runtime.processor import kernels_for, target_for
from tfmpq.deploy.runtime.quiet import quiet_stderr
from tfmpq.deploy.tflite.flatbuffer import read_file, read_model, reading
from tfmpq.errors import UsageError
from tfmpq.graph.containers import TARGETS, WIDE_TARGET, Target
from tfmpq.graph.forms import CHOOSING_TARGET, FormRequest
from tfmpq.progress import Reporter
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
        top1_agreement: Share of images with the same class, 0 to 1; None where labels are no classes, or the
            output is no row of numbers, one for each.
        top1: Share of images that the device classifies as labelled, 0 to 1.
        top1_here: The same for this machine.
    """

    images: int
    max_lsb: int | None
    differing: int
    total: int
    top1_agreement: float | None
    top1: float | None
    top1_here: float | None


@dataclass(frozen=True, slots=True)
class Delivery(Result, verb="deploy"):
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
    source: Any,
    data: Any,
    *,
    on: str = "local",
    limit: int = 100,
    out: str | Path | None = None,
    options: DeployOptions | None = None,
    progress: bool | Reporter | None = None,
    **changes: Any,
) -> Delivery:
    """Write a network for a device, compare its outputs there with those here, and measure it.

    On Android `benchmark_model` measures, and outputs are not compared; with a bundle as `python` they are.

    Args:
        source: What `finetune`, `export` or `quantize` returned, the run folder of a fine-tuning, or a
            `.tflite` of one.
        data: Labelled images: a word, whose test images are used, or an object.
        on: The device: `local`, `ssh:HOST`, `adb` or `adb:SERIAL`.
        limit: Number of images.
        out: File to write; by default beside the source, named after the form.
        options: All other options.
        progress: True shows progress, False none, None only on terminals and in IPython; or a reporter.
        **changes: Single options, such as `threads=4`; see `tfmpq.DeployOptions`.

    Raises:
        UsageError: The source is none or no classifier, or it or an option does not suit the device.
        DeviceError: The device or the way to it fails, or its outputs are others.
        TfmpqError: The network cannot be written.
    """
    chosen = DeployOptions.of(options, changes)
    path = file_of(source, "A fine-tuned run or a .tflite is deployed, or the result that stands for one.")
    with reporting(progress) as reporter:
        found = _deploy(path, (data, limit, chosen.data_dir), on, out, chosen, reporter)
    return found.keeping(*kept_by(source))


def _deploy(
    source: Path,
    images_of: tuple[Any, int, str | Path | None],
    on: str,
    out: str | Path | None,
    options: DeployOptions,
    reporter: Reporter,
) -> Delivery:
    wide = _check_source(source)
    access: dict[str, Any] = {"python": options.python, "ssh_config": options.ssh_config, "adb": options.adb}
    way, agreement = transport(on, **access), None
    binary = binary_for(way, options.benchmark_model)
    with way as device:
        program = program_for(device, binary)
        program.require_runtime()
        probed = program.probe()
        form = choose_form(probed, wide)
        to = Path(out) if out else None
        path = _write(source, form, probed["device"], to, options.data_dir, reporter)
        if isinstance(program, BenchmarkModel):
            reporter.log("Outputs are not compared: benchmark_model shows none.")
        else:
            with quiet_stderr():  # TensorFlow greets
                from tfmpq.api.delivered_images import images_for

            images, labels = images_for(path, *images_of, reporter)
            agreement = _compare(device, program, path, images, labels)
    share = agreement.top1_agreement if agreement else None
    if agreement and share is not None and share < LEAST_AGREEMENT:
        raise OutputsDiffer(on, f"{share:.1%} of {agreement.images} images do")
    found = measure(
        path,
        on=on,
        threads=options.threads,
        benchmark_model=options.benchmark_model,
        reporter=reporter,
        **access,
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
        # Lazy, like the export: a wrong folder is refused before Keras and TensorFlow are loaded.
        with quiet_stderr():  # TensorFlow greets
            from tfmpq.quantization.finished_runs import policy_of_run

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
    source: Path,
    form: Target,
    device: Mapping[str, Any],
    out: Path | None,
    data_dir: str | Path | None,
    reporter: Reporter,
) -> Path:
    """Export the run, or rewrite the file, with forms of layers for the device's processor."""
    processor = kernels_for(device["machine"], device["features"])
    forms = FormRequest(processor=processor if form == CHOOSING_TARGET else None)
    if source.is_dir():
        # Lazy: a wrong folder is refused before Keras and TensorFlow are loaded.
        with quiet_stderr():  # TensorFlow greets
            from tfmpq.api.export import export

        written = export(source, target=form, out=out, forms=forms, data_dir=data_dir, progress=reporter)
        return Path(written.path)
    target = out or _file_beside(source, form)
    specialize(source, target, form, forms)
    return target


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
    rows = [answers.reshape(len(answers), -1) for answers in (there, here)]
    shares: tuple[float | None, ...] = (None, None, None)
    if labels.dtype.kind != "f" and max(here.shape[1:], default=1) == rows[1].shape[1] > 1:
        classes, classes_here = (answers.argmax(axis=1) for answers in rows)
        pairs = ((classes, classes_here), (classes, labels), (classes_here, labels))
        shares = tuple(float(np.mean(one == other)) for one, other in pairs)
    return Agreement(
        images=len(images),
        max_lsb=int(distance.max()) if integers else None,
        differing=int(np.count_nonzero(distance)),
        total=distance.size,
        top1_agreement=shares[0],
        top1=shares[1],
        top1_here=shares[2],
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
