"""What the pipeline's pixels do to a float network's accuracy, beside Pillow's.

    python benchmarks/decoded_pixels.py --data tfrecord:FILES --model mobilenet_v2 --weights FILE

All images of a data set, once fitted to 224 pixels as for measuring, once cut out at random as for training,
the same parts for both.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from tfmpq.data import Split, load_dataset
from tfmpq.data.augment import drawn_boxes
from tfmpq.data.decoding import Pixels, by_pillow
from tfmpq.data.preprocess import preprocess
from tfmpq.data.reading import executor
from tfmpq.models import load_model

SIDE, BATCH, SEED = 224, 64, 0


def pixels_of(split: Split, cropped: bool) -> tuple[np.ndarray, np.ndarray]:
    """All images as the pipeline and as Pillow decode them: uint8 (N, height, width, 3) each."""
    pixels = Pixels((SIDE, SIDE), 3, cropped)
    decode = executor(pixels).one
    boxes = drawn_boxes(np.random.default_rng(SEED), len(split))
    contents = [split.encoded.read(index) for index in range(len(split))]
    pairs = list(zip(contents, boxes, strict=True))
    return np.stack([decode(*pair) for pair in pairs]), np.stack([by_pillow(*pair, pixels) for pair in pairs])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--weights", required=True)
    arguments = parser.parse_args()
    data = load_dataset(arguments.data)
    loaded = load_model(
        arguments.model, input_shape=(SIDE, SIDE, 3), classes=data.classes, weights=arguments.weights
    )
    report: dict[str, object] = {"images": len(data.train) + len(data.test)}
    for name, cropped in (("fitted", False), ("random part", True)):
        both = [pixels_of(split, cropped) for split in (data.train, data.test)]
        pipeline, pillow = (np.concatenate([pair[which] for pair in both]) for which in (0, 1))
        labels = np.concatenate([data.train.labels, data.test.labels])
        distance = np.abs(pipeline.astype(np.int16) - pillow)
        found = {"mean_difference": round(float(distance.mean()), 3), "largest": int(distance.max())}
        for how, images in (("pipeline", pipeline), ("Pillow", pillow)):
            inputs = preprocess(images, loaded.preprocessing)
            logits = loaded.model.predict(inputs, batch_size=BATCH, verbose=0)
            hits = np.argsort(-logits, axis=1)[:, :5] == labels[:, None]
            found[how] = {
                "top1": round(float(hits[:, 0].mean()), 4),
                "top5": round(float(hits.any(1).mean()), 4),
            }
        report[name] = found
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
