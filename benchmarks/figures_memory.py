"""Memory that one `.tflite` takes in this process, which should be fresh: kB of RAM as JSON.

    python benchmarks/figures_memory.py FILE.tflite

Printed are what the process has more than before it opened the file: `resident_kb` after three inferences,
`peak_kb` at most. One thread; the runtime is imported before.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

INFERENCES = 3


def memory(name: str) -> int:
    """`VmRSS` or `VmHWM` of this process in kB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def main() -> None:
    """Run and print."""
    before = memory("VmRSS")
    interpreter = Interpreter(model_path=sys.argv[1], num_threads=1)
    interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    for _ in range(INFERENCES):
        interpreter.set_tensor(image["index"], np.zeros(image["shape"], image["dtype"]))
        interpreter.invoke()
    found = {"resident_kb": memory("VmRSS") - before, "peak_kb": memory("VmHWM") - before}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
