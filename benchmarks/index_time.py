"""Seconds and megabytes of the index of a data set as large as ImageNet: the first time, and from the cache.

    python benchmarks/index_time.py --records 1280000 --files 64

Records have the features of ImageNet's, with images of a few hundred random bytes, in a temporary folder that
is deleted. The index is made in processes of its own, with a cache in that folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def write(folder: Path, records: int, files: int) -> None:
    """Write the records, so many in each file."""
    import tensorflow as tf

    generator = np.random.default_rng(0)

    def text(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    def whole(value: int) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    def example(label: int) -> bytes:
        feature = {
            "image/encoded": text(generator.bytes(int(generator.integers(200, 400)))),
            "image/class/label": whole(label),
            "image/class/synset": text(b"n01440764"),
            "image/class/text": text(b"tench, Tinca tinca"),
            "image/filename": text(b"n01440764_10026.JPEG"),
            "image/format": text(b"JPEG"),
            "image/colorspace": text(b"RGB"),
            "image/width": whole(500),
            "image/height": whole(375),
        }
        return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()

    examples = [example(number % 1000) for number in range(20_000)]
    for file in range(files):
        with tf.io.TFRecordWriter(str(folder / f"train-{file:04d}.tfrecord")) as writer:
            for number in range(records // files):
                writer.write(examples[(number + 7 * file) % len(examples)])
    with tf.io.TFRecordWriter(str(folder / "val-0000.tfrecord")) as writer:
        for record in examples[:5000]:
            writer.write(record)


def memory(name: str) -> float:
    """Resident memory of this process in megabytes: VmRSS now, VmHWM at its largest."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        if line.startswith(name)
    )
    return int(line.split()[1]) / 1000


def load(folder: Path) -> dict[str, float]:
    """Load the data set in this process."""
    from tfmpq.data import load_dataset

    before, cpu, wall = memory("VmRSS"), os.times(), time.perf_counter()
    data = load_dataset(f"tfrecord:{folder}/*.tfrecord")
    after = os.times()
    return {
        "records": len(data.train) + len(data.test),
        "seconds": round(time.perf_counter() - wall, 2),
        "cpu_seconds": round(sum(after[:4]) - sum(cpu[:4]), 2),
        "megabytes": round(memory("VmRSS") - before),
        "megabytes_at_most": round(memory("VmHWM") - before),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_280_000)
    parser.add_argument("--files", type=int, default=64)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        print(json.dumps(load(arguments.folder)))
        return
    with tempfile.TemporaryDirectory(prefix="tfmpq-") as name:
        write(Path(name), arguments.records, arguments.files)
        environment = os.environ | {"XDG_CACHE_HOME": f"{name}/cache"}
        found = {"load_before": round(os.getloadavg()[0], 1)}
        for when in ("first", "again"):
            command = [sys.executable, __file__, "--folder", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
            found[when] = json.loads(done.stdout)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
