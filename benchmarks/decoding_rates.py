"""Images per second from JPEG files: of the product, of bare tf.data, and of one thread with Pillow.

    python benchmarks/decoding_rates.py --data tfrecord:FILES --longer-side 500

Random resized crops to 224 pixels, batches of 64. The images are copied into a temporary folder, enlarged to
the longer side that is asked for.

- `before`: what the product did until commit cc92aaf: one thread, Pillow, float32 on the host.
- `product`: `ImageBatches`.
- `bare`: tf.data with the same files: read_file, decode_and_crop_jpeg, resize, batch.
- `fit`: a model that does next to nothing is trained with the batches.

Every number of processors has a process of its own. In it the ways alternate, each begins with nothing
prepared and ends before the next one begins, and of the rounds the median is taken. The machine may be
shared: CPU time per image depends less on that, and the load of the machine is in the report.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE, BATCH, SEED = 224, 64, 1
QUALITY = 88


def write_folder(data: str, longer_side: int, folder: Path) -> float:
    """Copy the training images of a data set as JPEG files; returns their mean number of bytes."""
    from tfmpq.data import load_dataset

    split, sizes = load_dataset(data).train, []
    for number, label in enumerate(split.labels):
        path = folder / f"{label:04d}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        if longer_side:
            (pixels,) = split.images([number])
            image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
            scale = longer_side / max(image.size)
            size = (round(image.width * scale), round(image.height * scale))
            stream = io.BytesIO()
            image.resize(size, Image.Resampling.BICUBIC).save(stream, "jpeg", quality=QUALITY)
            path.write_bytes(stream.getvalue())
        else:
            path.write_bytes(split.encoded.read(number))
        sizes.append(path.stat().st_size)
    return float(np.mean(sizes))


def before(batches: Any, step: int) -> tuple[np.ndarray, np.ndarray]:
    """A batch of one thread: decoded, cropped and preprocessed one after another."""
    from tfmpq.data.decoding import Pixels, by_pillow
    from tfmpq.data.preprocess import preprocess

    pixels = Pixels((SIDE, SIDE), 3, True)
    chosen, boxes = batches.plan.chosen(step), batches.plan.boxes(step)
    images = [
        by_pillow(batches.split.encoded.read(i), box, pixels) for i, box in zip(chosen, boxes, strict=True)
    ]
    return preprocess(np.stack(images), "tf"), batches.split.labels[chosen].astype(np.int32)


def quiet() -> None:
    """Wait until nothing is prepared in the background any more."""
    before = -1.0
    while (now := time.process_time()) - before > 0.02:
        before = now
        time.sleep(0.5)


def bare(paths: list[str], processors: int) -> Any:
    """Batches of tf.data alone, for ever."""
    import tensorflow as tf

    from tfmpq.data.augment import crop_box

    def image(path: Any) -> Any:
        content = tf.io.read_file(path)
        height, width = tf.unstack(tf.cast(tf.io.extract_jpeg_shape(content)[:2], tf.float32))
        left, top, columns, rows = crop_box(height, width, tf.random.uniform((5,)), tf.math)
        window = tf.cast(tf.stack([top, left, rows, columns]), tf.int32)
        part = tf.image.decode_and_crop_jpeg(content, window, channels=3)
        return tf.cast(tf.image.resize(part, (SIDE, SIDE)), tf.uint8)

    options = tf.data.Options()
    options.threading.private_threadpool_size = processors
    options.threading.max_intra_op_parallelism = 1
    data = tf.data.Dataset.from_tensor_slices(paths).repeat().map(image, num_parallel_calls=processors)
    return data.batch(BATCH).prefetch(2).with_options(options)


def rates(run: Callable[[], int]) -> tuple[float, float]:
    """Images per second, and milliseconds of CPU time per image."""
    wall, cpu = time.perf_counter(), time.process_time()
    count = run()
    return count / (time.perf_counter() - wall), 1000 * (time.process_time() - cpu) / count


def resident_megabytes() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(folder: Path, processors: int, steps: int, rounds: int) -> dict[str, Any]:
    """All ways with so many processors, in this process."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:processors])
    import keras

    from tfmpq.data import ImageBatches, load_dataset
    from tfmpq.training.float_training import FloatTraining

    split = load_dataset(f"folder:{folder}").train
    slow_steps = max(1, steps // 6)

    def source() -> ImageBatches:
        return ImageBatches(
            split,
            BATCH,
            image_shape=(SIDE, SIDE, 3),
            preprocessing="tf",
            augment="imagenet",
            seed=SEED,
            steps_per_epoch=steps,
        )

    class Before(keras.utils.PyDataset):
        def __len__(self) -> int:
            return slow_steps

        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            return before(plain, index)

    def trainer(scaled: ImageBatches | None) -> keras.Model:
        image = keras.Input((SIDE, SIDE, 3))
        mean = keras.layers.GlobalAveragePooling2D()(image)
        model = FloatTraining(image, keras.layers.Dense(int(split.labels.max()) + 1)(mean))
        model.compile(optimizer="sgd", jit_compile=False)
        model.pixels = scaled.scale_on_device() if scaled else None
        return model

    plain, product, fitted = source(), source(), source()
    raw = bare([str(split.encoded.path(i)) for i in range(len(split))], processors)
    models = {"before": trainer(None), "product": trainer(fitted)}

    def fit(name: str, data: Any) -> int:
        models[name].fit(data, epochs=1, verbose=0, shuffle=False)
        return len(data) * BATCH

    def fit_product() -> int:
        with fitted.only(slice(None)):  # reads nothing ahead of its end
            return fit("product", fitted)

    def read() -> int:
        with product.only(slice(None)):
            return sum(len(product.pixels(0, index)[0]) for index in range(steps))

    ways: dict[str, Callable[[], int]] = {
        "before": lambda: sum(len(before(plain, index)[0]) for index in range(slow_steps)),
        "product": read,
        "bare": lambda: sum(len(batch) for batch in raw.take(steps).as_numpy_iterator()),
        "before, fit": lambda: fit("before", Before(workers=1, use_multiprocessing=False)),
        "product, fit": fit_product,
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    memory = []
    for way in ways.values():  # compiles
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            quiet()
            found[name].append(rates(way))
        memory.append(round(resident_megabytes()))
    return {
        "processors": processors,
        "images_per_second": {n: round(statistics.median(v for v, _ in m)) for n, m in found.items()},
        "cpu_ms_per_image": {n: round(statistics.median(c for _, c in m), 3) for n, m in found.items()},
        "resident_megabytes_after_each_round": memory,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="data set of JPEG images")
    parser.add_argument("--longer-side", type=int, default=0, help="0: as they are")
    parser.add_argument("--steps", type=int, default=48, help="batches in a round; for `before` a sixth")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processors", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        (processors,) = arguments.processors
        print(json.dumps(measure(arguments.folder, processors, arguments.steps, arguments.rounds)))
        return
    with tempfile.TemporaryDirectory(prefix="tfmpq-") as name:
        mean_bytes = write_folder(arguments.data, arguments.longer_side, Path(name))
        parts = []
        for processors in arguments.processors:
            command = [sys.executable, __file__, "--folder", name, "--processors", str(processors)]
            command += ["--steps", str(arguments.steps), "--rounds", str(arguments.rounds)]
            load = os.getloadavg()[0]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            parts.append(json.loads(done.stdout) | {"load_before": round(load, 1)})
    report = {"data": arguments.data, "longer_side": arguments.longer_side, "mean_bytes": round(mean_bytes)}
    print(json.dumps(report | {"measured": parts}, indent=2))


if __name__ == "__main__":
    main()
