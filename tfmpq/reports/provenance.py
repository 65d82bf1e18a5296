"""The commands that made a run, written anew from the options that it recorded."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfmpq.methods.options import KNOBS
from tfmpq.reports.folders import Run
from tfmpq.reports.results import Finetune, Search

_NO_OPTIONS = ("format", "stage", "model_file", "data", "float_is_trained", "policy")
"""What a stage records beside its options."""

_NAMES = {"preprocessing": "preprocess", "budgets": "budget"}
"""Options that are called otherwise where they are typed."""

_FILES = {"weights": "FILE", "latency_table": "TABLE"}
"""Options of which the file's digest is recorded, and what stands for the file."""

_SWITCHES = ("distill", "reconstruct")
"""What is on unless it is turned off."""

_OF_FINETUNE = ("target", "learning_rate", "distill")
"""What `tfmpq run` hands on to the fine-tuning alone."""

_OF_SEARCH_ALONE = ("target_input", "target_classes", "learning_rate")
"""What `tfmpq run` finds out by itself."""

UNRECORDED = "RUN"
"""Stands for the run folder of a search that a fine-tuning began with and did not record."""

FOLDER = "DIR"
"""Stands for the data folder: a page is given to others, and its path is of one machine."""

_OF_A_SEARCH = ("float", "search")
"""What a fine-tuning calls weights that are those of a search."""

_COLUMNS = 72


def commands(run: Run) -> list[str]:
    """What to type to make a run again.

    `FILE` and `TABLE` stand for files whose digest alone is recorded, `DIR` for the data folder.
    """
    searched, tuned = run.search_options, run.finetune_options
    if searched.get("pareto"):
        # The front's own budgets are recorded as well, and `--pareto` takes no other one of size.
        others = [text for text in _listed(searched.get("budgets")) if not str(text).startswith("size")]
        searched = {**searched, "budgets": others}
    out = {"out": str(run.folder)}
    proxy, target = _folder(run.search, searched.get("proxy")), _folder(run.finetune, tuned.get("target"))
    if run.job and searched and tuned:
        handed = {key: value for key, value in searched.items() if key not in _OF_SEARCH_ALONE}
        handed |= {key: tuned[key] for key in _OF_FINETUNE if key in tuned}
        return [_line("run", handed | proxy | target | out)]
    lines = [_line("search", searched | proxy | out)] if searched else []
    if tuned:
        lines.append(_line("finetune", tuned | target | out, source(run)))
    return lines


def _folder(stage: Search | Finetune | None, data: str | None) -> dict[str, str]:
    """The option that names the data folder, if data were looked up in one by their name."""
    named = data not in (None, "digits") and ":" not in str(data)
    return {"data_dir": FOLDER} if named and stage and stage.data_dir else {}


def source(run: Run) -> str:
    """What a fine-tuning is given: a policy file, or the run folder of the search whose weights it takes."""
    tuned = run.finetune
    of_search = run.search is not None if tuned is None else tuned.started_from in _OF_A_SEARCH
    if run.finetune_options.get("weights") is not None or not of_search:
        return str(run.folder / "policy.yaml")
    if tuned is None or (tuned.source is None and run.search is not None):
        return str(run.folder)
    if tuned.source is None:
        return UNRECORDED
    # The folder may have been moved since.
    return str(run.folder) if Path(tuned.source) == Path(tuned.run) else tuned.source


def digests(run: Run) -> list[tuple[str, str]]:
    """The files that were read, as the commands call them, and their digests."""
    recorded = (run.search_options, run.finetune_options)
    known = [(name, options.get(key)) for key, name in _FILES.items() for options in recorded]
    return list(dict.fromkeys((name, str(digest)) for name, digest in known if digest and digest != "none"))


def _line(verb: str, options: Mapping[str, Any], *arguments: str) -> str:
    lines = [shlex.join(["tfmpq", verb, *arguments])]
    for key, value in options.items():
        if key in _NO_OPTIONS or (key in KNOBS and value == KNOBS[key]) or not (words := _option(key, value)):
            continue
        text = shlex.join(words)
        if len(lines[-1]) + len(text) > _COLUMNS:
            lines.append(f"    {text}")
        else:
            lines[-1] += f" {text}"
    return " \\\n".join(lines)


def _option(key: str, value: Any) -> list[str]:
    """One option as it is typed; nothing where it was not given."""
    flag = "--" + _NAMES.get(key, key).replace("_", "-")
    if value is None or value == []:
        return []
    if key in _FILES and value != "none":
        return [flag, _FILES[key]]
    if key in _SWITCHES:
        return [] if value else ["--no-" + flag.removeprefix("--")]
    if isinstance(value, bool):
        return [flag] if value else []
    if key == "budgets":
        return [word for budget in _listed(value) for word in (flag, str(budget))]
    return [flag, ",".join(map(str, _listed(value)))]


def _listed(value: Any) -> list[Any]:
    """The values of an option that may have several."""
    return value if isinstance(value, list) else [value]
