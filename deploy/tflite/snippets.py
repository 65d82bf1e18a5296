"""Short programs that run one very file: Python, and Kotlin for Android."""

from __future__ import annotations

from pathlib import Path

from tfmpq.data.preprocess import PREPROCESSINGS
from tfmpq.deploy.tflite.contract import Contract


def python_snippet(contract: Contract, path: str | Path) -> str:
    """A Python program of at most 12 lines that runs a file on a picture and prints the answer.

    It needs NumPy, `ai-edge-litert` and, for pictures, Pillow.

    Args:
        contract: What the file takes and gives.
        path: The file, as the program is to name it.
    """
    entry, leaving = contract.inputs[0], contract.outputs[0]
    _, *shape = entry.shape
    picture = _is_picture(contract)
    lines = ["import numpy as np", "from ai_edge_litert.interpreter import Interpreter"]
    lines += ["from PIL import Image"] if picture else []
    lines += ["import zipfile"] if contract.labels else []
    lines = sorted(lines, key=lambda line: (line.startswith("from"), line))
    if picture:
        mode = "RGB" if shape[-1] == 3 else "L"
        lines.append(f'image = Image.open("picture.png").convert("{mode}").resize(({shape[1]}, {shape[0]}))')
        lines.append(f"pixels = np.asarray(image, np.float32).reshape({entry.shape})")
    else:
        lines.append(f"values = np.zeros({entry.shape}, np.float32)  # your data")
    lines.append(f"codes = {_codes(contract)}")
    lines.append(f"runner = Interpreter({str(path)!r}).get_signature_runner()")
    lines.append(f"answer = runner(**{{{entry.name!r}: codes}})[{leaving.name!r}][0]")
    if leaving.scale is not None:
        lines.append(f"answer = (answer.astype(np.float32) - {leaving.zero_point}) * {leaving.scale!r}")
    if contract.labels:
        lines.append(f'labels = zipfile.ZipFile({str(path)!r}).read("labels.txt").decode().splitlines()')
        lines.append("print(labels[answer.argmax()], answer.max())")
    else:
        lines.append("print(answer)")
    return "\n".join(lines) + "\n"


def kotlin_snippet(contract: Contract, path: str | Path) -> str | None:
    """Kotlin for Android that runs a file of images, a Bitmap of the input's size; None for other files.

    MediaPipe Tasks where it takes the file, else LiteRT's interpreter.
    """
    if not _is_picture(contract):
        return None
    name = Path(path).name
    if takes_mediapipe(contract):
        return (
            '// implementation("com.google.mediapipe:tasks-vision:0.10.+"); the file is in src/main/assets\n'
            f'val classifier = ImageClassifier.createFromFile(context, "{name}")\n'
            "val result = classifier.classify(BitmapImageBuilder(bitmap).build())\n"
            "val best = result.classificationResult().classifications()[0].categories()[0]\n"
            'Log.i("tfmpq", "${best.categoryName()} ${best.score()}")\n'
        )
    entry, leaving = contract.inputs[0], contract.outputs[0]
    _, height, width, channels = entry.shape
    size = {"float32": 4, "int16": 2}.get(entry.type, 1)
    out = {"float32": "FloatArray", "int16": "ShortArray"}.get(leaving.type, "ByteArray")
    count = leaving.shape[-1]
    return (
        '// implementation("com.google.ai.edge.litert:litert:1.+"); the file is in src/main/assets\n'
        f'val interpreter = Interpreter(FileUtil.loadMappedFile(context, "{name}"))\n'
        f"val input = ByteBuffer.allocateDirect({height * width * channels * size})"
        ".order(ByteOrder.nativeOrder())\n"
        f"for (y in 0 until {height}) for (x in 0 until {width}) {{\n"
        "    val pixel = bitmap.getPixel(x, y)\n"
        + "".join(f"    input.{line}\n" for line in _kotlin_channels(contract))
        + "}\n"
        f"val output = arrayOf({out}({count}))\n"
        "interpreter.run(input.rewind(), output)\n"
    )


def takes_mediapipe(contract: Contract) -> bool:
    """Whether MediaPipe's ImageClassifier opens a file and hands it the right numbers.

    It takes uint8 and float32 only, and scales all channels alike.
    """
    kinds = {tensor.type for tensor in (*contract.inputs, *contract.outputs)}
    scaled = (
        contract.inputs[0].type == "uint8" or len(set(zip(contract.mean, contract.std, strict=False))) == 1
    )
    exact = contract.holds == "pixels" or (
        contract.inputs[0].type == "float32" and not PREPROCESSINGS[contract.preprocessing or "none"].reverse
    )
    return (
        _is_picture(contract)
        and contract.inputs[0].shape[-1] == 3
        and bool(contract.mean)
        and kinds <= {"uint8", "float32"}
        and scaled
        and exact
    )


def _is_picture(contract: Contract) -> bool:
    shape = contract.inputs[0].shape
    return (
        len(contract.inputs) == 1
        and contract.preprocessing in PREPROCESSINGS
        and bool(contract.mean)
        and len(shape) == 4
        and shape[1] > 1
        and shape[-1] in (1, 3)
    )


def _codes(contract: Contract) -> str:
    """Python that makes what the input tensor holds."""
    entry = contract.inputs[0]
    values = _values(contract)
    if entry.type == "float32":
        return f"{values}.astype(np.float32)"
    if contract.holds == "pixels":
        return "pixels.astype(np.uint8)" if entry.type == "uint8" else "(pixels - 128).astype(np.int8)"
    limits = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}.get(entry.type)
    if limits is None or entry.scale is None:
        return f"{values}.astype(np.{entry.type})"
    low, high = limits
    return (
        f"np.clip(np.round({values} / {entry.scale!r}) + {entry.zero_point}, {low}, {high})"
        f".astype(np.{entry.type})"
    )


def _values(contract: Contract) -> str:
    """Python that makes preprocessed values."""
    if not _is_picture(contract):
        return "values"
    pixels = "pixels[..., ::-1]" if PREPROCESSINGS[contract.preprocessing or "none"].reverse else "pixels"
    if set(contract.std) == {1.0} and set(contract.mean) == {0.0}:
        return pixels
    mean, std = (_numbers(values) for values in (contract.mean, contract.std))
    return f"(({pixels} - {mean}) / {std})"


def _numbers(values: tuple[float, ...]) -> str:
    rounded = [float(f"{value:.7g}") for value in values]
    return repr(rounded[0]) if len(set(rounded)) == 1 else repr(rounded)


def _kotlin_channels(contract: Contract) -> list[str]:
    """Calls that put the channels of a pixel into the buffer."""
    entry = contract.inputs[0]
    channels = ["Color.red(pixel)", "Color.green(pixel)", "Color.blue(pixel)"][: entry.shape[-1]]
    if PREPROCESSINGS[contract.preprocessing or "none"].reverse and contract.holds != "pixels":
        channels.reverse()
    lines = []
    for number, channel in enumerate(channels):
        if contract.holds == "pixels" and entry.type in ("uint8", "int8"):
            lines.append(f"put(({channel}{' - 128' if entry.type == 'int8' else ''}).toByte())")
            continue
        mean = contract.mean[number % len(contract.mean)]
        std = contract.std[number % len(contract.std)]
        value = f"(({channel} - {mean:.7g}f) / {std:.7g}f)"
        if entry.type == "float32":
            lines.append(f"putFloat({value})")
        else:
            code = f"Math.round({value} / {entry.scale!r}f) + {entry.zero_point}"
            lines.append(f"put(({code}).coerceIn(-128, 127).toByte())")
    return lines
