"""Images on which a file on a device has to agree with the same file here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tfmpq.data import ImageBatches
from tfmpq.data.objects import open_test
from tfmpq.deploy.tflite.contract import read_contract
from tfmpq.deploy.tflite.flatbuffer import read_file, read_model
from tfmpq.errors import UsageError
from tfmpq.progress import Reporter
from tfmpq.tasks.fitting import fitted, refuse_unknown_scaling
from tfmpq.tasks.sampling import drawn


def images_for(
    path: Path, data: Any, limit: int, data_dir: str | Path | None, reporter: Reporter
) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the input tensor, int8 (N, height, width, channels), and labels of a sample of test images."""
    content = read_file(path)
    contract = read_contract(read_model(content, path), content, path)
    preprocessing = contract.preprocessing
    if preprocessing is None:
        raise UsageError(
            f"Pixels become inputs as in training. Received: {path}, which has no record. Give a file of "
            "tfmpq export."
        )
    _, height, width, channels = contract.inputs[0].shape
    dataset = fitted(open_test(data, data_dir=data_dir, reporter=reporter), (height, width, channels))
    refuse_unknown_scaling(dataset, preprocessing)
    split = dataset.test.take(drawn(dataset.test, limit))
    batches = ImageBatches(
        split,
        len(split),
        image_shape=(height, width, channels),
        preprocessing=preprocessing if dataset.seen is None else "none",
        shuffle=False,
        drop_remainder=False,
    )
    images, labels = batches[0]
    return contract.codes(np.asarray(images)), np.asarray(labels)
