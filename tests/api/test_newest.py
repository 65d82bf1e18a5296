"""A command without an argument takes the newest finished run, says so, and refuses to guess."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tfmpq.api.newest import newest_file, newest_run
from tfmpq.errors import UsageError
from tfmpq.progress import SilentReporter


class Lines(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, message: str) -> None:
        self.lines.append(message)


def made(path: Path, second: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}", encoding="utf-8")
    os.utime(path, (second, second))
    return path


def test_the_run_that_was_finished_last_is_taken_and_said(tmp_path: Path) -> None:
    made(tmp_path / "old" / "search.result.json", 100)
    made(tmp_path / "new" / "search.result.json", 200)
    made(tmp_path / "unfinished" / "search.json", 300)
    reporter = Lines()
    assert newest_run(("search",), "a finished search", reporter, tmp_path) == tmp_path / "new"
    assert reporter.lines == [f"Taking {tmp_path / 'new'}, a finished search, the newest in {tmp_path}/."]
    made(tmp_path / "old" / "finetune.result.json", 400)
    assert newest_run(("search", "finetune"), "a run", reporter, tmp_path) == tmp_path / "old"


def test_without_any_the_message_says_what_is_there(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match="Received: nothing"):
            newest_run(("search",), "a finished search", Lines(), folder)
    made(tmp_path / "begun" / "search.json", 100)
    with pytest.raises(UsageError, match=r"a finished search .* Received: begun"):
        newest_run(("search",), "a finished search", Lines(), tmp_path)


def test_of_two_that_are_as_new_none_is_taken(tmp_path: Path) -> None:
    for name in ("one", "two"):
        made(tmp_path / name / "search.result.json", 100)
    with pytest.raises(UsageError, match="Several are as new as each other") as caught:
        newest_run(("search",), "a finished search", Lines(), tmp_path)
    assert "one" in str(caught.value)
    assert "two" in str(caught.value)


def test_the_file_that_was_written_last_is_taken_with_its_run(tmp_path: Path) -> None:
    made(tmp_path / "run" / "a.tflite", 100)
    newest = made(tmp_path / "run" / "b.tflite", 200)
    assert newest_file(Lines(), tmp_path) == (newest, tmp_path / "run")
