"""What can be known here about systems that are not at hand: the whole job with what they lack taken away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parent / "platforms" / "as_on_windows.py"


def test_the_whole_job_needs_neither_posix_nor_files_that_are_replaced_while_open(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM, str(tmp_path)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == (
        "done ['fast.tflite', 'mine.tflite', 'report.html', 'run', 'small.tflite']"
    )
