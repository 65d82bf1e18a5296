"""A report of what the verbs themselves wrote."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from tfmpq.reports.folders import read_run
from tfmpq.reports.provenance import commands

FILE = "small.litert.tflite"


@pytest.fixture(scope="module")
def results(workshop) -> dict[str, Any]:
    """What measure, verify, evaluate and export print about a file of the workshop, as files beside it."""
    lines = {
        "measure": f"measure {FILE} small.storage.tflite --runs 1 --ops --json",
        "verify": f"verify {FILE} --against run --limit 50 --json",
        "evaluate": f"evaluate {FILE} --data digits --json",
    }
    found = {name: workshop.json(line) for name, line in lines.items()}
    found |= {name: workshop.results[name] for name in ("litert", "storage")}
    for name, content in found.items():
        Path(workshop.folder, f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return found


def test_every_result_is_read(workshop, results: dict[str, Any]) -> None:
    names = " ".join(f"{name}.json" for name in results)
    found = workshop.json(f"report run {names} --out report.html --figures figures --json")
    tuned, searched = workshop.results["finetune"], workshop.results["search"]
    assert found["runs"][0]["missing"] == []
    assert found["measured"] == 2
    by_name = {row["name"]: row for row in found["networks"]}
    assert by_name["run"]["size"] == tuned["size"] == searched["size"]["policy"]
    assert by_name["run"]["top1"] == results["evaluate"]["top1"]
    assert by_name["run"]["family"] == "searched"
    (latency,) = by_name["run"]["median_ms"].values()
    assert latency == results["measure"]["files"][0]["median_ms"]
    page = Path(workshop.folder, "report.html").read_text(encoding="utf-8")
    for name, bits in searched["bits"].items():
        assert f'<th scope="row">{name}</th><td><span class="chip bits{bits}">{bits}</span>' in page
    assert f"{results['verify']['integers']:,} weight integers" in page
    assert f"{results['measure']['files'][0]['runs']:,}" in page
    assert searched["budget"][1]["asked"] in page
    for file in results["measure"]["files"]:
        # Without a profiler the reason is said.
        assert (f"Time by layer of {file['path']}" if file["ops"] else file["ops_note"]) in page
    assert len(found["figures"]) >= 9


def test_an_export_leaves_its_proof_in_the_run_folder(workshop) -> None:
    workshop.json("report run --out proofs.html --json")
    page = Path(workshop.folder, "proofs.html").read_text(encoding="utf-8")
    assert "No proof is at hand" not in page
    for target in ("litert", "storage"):
        kept = json.loads(
            Path(workshop.folder, "run", f"export.small.{target}.json").read_text(encoding="utf-8")
        )
        assert kept == workshop.results[target]
        file = Path(workshop.folder, kept["path"])
        assert hashlib.sha256(file.read_bytes()).hexdigest() == kept["sha256"]
        assert kept["sha256"] in page


def test_a_run_folder_that_can_only_be_read_is_exported(workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, value: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("tfmpq.api.export.write_json", refuse)
    done = workshop.invoke("export run --tflite --out elsewhere.tflite --json")
    assert done.exit_code == 0
    assert "The proof could not be kept in run/export.elsewhere.json (Permission denied)" in done.stderr
    assert Path(workshop.folder, json.loads(done.stdout)["path"]).exists()


def printed(workshop, run: str) -> str:
    """The command line of the fine-tuning that a report of a run prints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workshop.folder)
        line = commands(read_run(Path(run), run))[-1].replace("\\\n", " ")
    return shlex.join(shlex.split(line)[1:])


def test_the_command_of_a_finished_fine_tuning_shows_its_result(workshop) -> None:
    assert workshop.json(f"{printed(workshop, 'run')} --json") == workshop.results["finetune"]


def test_so_does_that_of_one_in_a_folder_of_its_own(workshop) -> None:
    tuned = workshop.json("finetune run --target digits --epochs 0 --no-reconstruct --out tuned --json")
    assert tuned["started_from"] == "search"
    assert printed(workshop, "tuned").startswith("finetune run ")
    assert workshop.json(f"{printed(workshop, 'tuned')} --json") == tuned


def test_a_run_of_an_older_version_is_resumed(workshop) -> None:
    path = Path(workshop.folder, "run", "finetune.result.json")
    kept = path.read_text(encoding="utf-8")
    old = json.loads(kept)
    del old["source"]
    try:
        path.write_text(json.dumps(old), encoding="utf-8")
        assert workshop.json(f"{printed(workshop, 'run')} --json") == old | {"source": None}
    finally:
        path.write_text(kept, encoding="utf-8")
