"""Takes away what other systems lack, then does the whole job: the program of tests/test_platforms.py.

    python as_on_windows.py FOLDER

There is no `fcntl`, no `resource`, no scheduler of processors, no /proc to read; and a file that is open or
mapped into memory can be neither replaced nor removed, as on Windows.
"""

import builtins
import os
import pathlib
import signal
import sys

for name in ("fcntl", "resource"):
    sys.modules[name] = None
for name in ("sched_getaffinity", "sched_setaffinity", "getloadavg", "fork", "killpg", "setsid"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGUSR1", "SIGHUP", "SIGALRM"):
    delattr(signal, name)
_open, _scan, _readlink = builtins.open, os.listdir, os.readlink


def _in_use(path) -> bool:
    path = os.path.abspath(os.fspath(path))
    for entry in _scan("/proc/self/fd"):
        try:
            if _readlink(f"/proc/self/fd/{entry}") == path:
                return True
        except OSError:
            continue
    with _open("/proc/self/maps", encoding="utf-8") as maps:
        return any(line.rstrip("\n").endswith(f" {path}") for line in maps)


def _guarded(function, which):
    def call(*paths, **options):
        for path in paths[:which]:
            if isinstance(path, (str, os.PathLike)) and _in_use(path):
                raise PermissionError(13, "The process cannot access the file: it is being used", str(path))
        return function(*paths, **options)

    return call


for name, which in (("replace", 2), ("rename", 2), ("unlink", 1), ("remove", 1)):
    setattr(os, name, _guarded(getattr(os, name), which))


def _without_proc(file, *arguments, **options):
    if str(file).startswith("/proc/"):
        raise FileNotFoundError(2, "No such file or directory", str(file))
    return _open(file, *arguments, **options)


builtins.open = _without_proc


def main(folder: pathlib.Path) -> None:
    """Search, fine-tuning, file, proof, score, latency."""
    import keras
    import numpy as np

    import tfmpq

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(4),
        ]
    )
    generator = np.random.default_rng(0)
    images = generator.uniform(0, 1, (64, 8, 8, 1)).astype(np.float32)
    data = images, generator.integers(0, 4, 64)
    run = folder / "run"
    for _ in range(2):  # the second time everything is found finished
        found = tfmpq.search(model, data, method="sensitivity", out=run)
    tuned = tfmpq.finetune(found, data, epochs=1, batch_size=32, out=run)
    for _ in range(2):  # the second file replaces the first
        written = tfmpq.export(tuned, out=folder / "mine.tflite")
    assert tfmpq.verify(written, tuned).passed
    assert tfmpq.evaluate(written, data).top1 >= 0
    assert tfmpq.measure(written, runs=5)[0].median_ms >= 0
    small = tfmpq.export(tuned, out=folder / "small.tflite", target="storage")
    assert tfmpq.specialize(small, folder / "fast.tflite", "litert").target == "litert"
    tfmpq.report(run, out=folder / "report.html")
    print("done", sorted(path.name for path in folder.iterdir()))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
