"""Tables on stdout and progress on stderr."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest
from rich.console import Console

from tfmpq import tables as render
from tfmpq.bars import BarReporter, LineReporter, seconds_text
from tfmpq.cli.main import VERBS


def _text(verb, result):
    stream = io.StringIO()
    render.write_text(verb, result, stream)
    return stream.getvalue()


def test_the_table_of_a_run_has_a_row_per_file_with_units():
    row = {"model": "mixed", "top1": 0.9125, "bytes": 123456, "size": 2_000_000, "mean_weight_bits": 3.5}
    text = _text(
        "run", {"table": [row | {"bops": 3.2e9, "median_ms": 1.234}, {"model": "float32", "top1": None}]}
    )
    mixed = next(line for line in text.splitlines() if "mixed" in line)
    for part in ("91.25 %", "123.5 kB", "2 MB", "3.5", "3.2 G", "1.23 ms"):
        assert part in mixed
    assert "-" in next(line for line in text.splitlines() if "float32" in line)
    assert "\x1b" not in text


def test_shares_of_images_are_shown_alike_whatever_they_are_called():
    text = _text(
        "deploy", {"top1": 0.25, "top1_here": 0.251, "unspecialized_top1": 0.9961, "top1_agreement": 1.0}
    )
    for part in ("25.00 %", "25.10 %", "99.61 %", "100.00 %"):
        assert part in text


def test_every_shape_of_json_is_shown():
    text = _text(
        "search",
        {
            "policy": "r/policy.yaml",
            "seconds": 3.0,
            "bits": {"conv1": 8, "conv2": 2},
            "size": {"float": 4000, "int8": 1000},
            "budget": [{"key": "size", "reached": 5100}],
            "bops": {"int8": {"saq": 10}},
            "input_shape": [8, 8, 3],
            "passed": True,
            "warnings": [],
        },
    )
    for part in ("r/policy.yaml", "conv2", "4 kB", "5.1 kB", "saq", "10", "8, 8, 3", "yes"):
        assert part in text


def test_levels_of_a_mapping_have_tables_of_their_own():
    operators = [{"kind": "conv2d", "off_by_one": 1}, {"kind": "add", "off_by_one": 0}]
    text = _text(
        "export", {"verification": {"passed": True, "operators": operators, "versions": {"keras": "3"}}}
    )
    lines = [line.strip() for line in text.splitlines()]
    assert [line for line in lines if line.startswith("verification")] == [
        "verification",
        "verification operators",
        "verification versions",
    ]
    assert "│ conv2d │          1 │" in text


def test_a_run_folder_shows_states_and_policy():
    stages = {"search": {"state": "finished", "result": {"gap": 1}}, "finetune": {"state": "begun"}}
    text = _text("inspect", {"kind": "run", "stages": stages, "policy": {"seed": 3, "layers": {"conv1": 8}}})
    for part in ("search stage    finished", "finetune stage  begun", "seed", "conv1"):
        assert part in text
    assert "gap" not in text


OPS = {
    "source": "LiteRT profiler",
    "layers": [
        {"name": "conv1", "operator": "CONV_2D", "kernel": "IGEMM", "weight_bits": 4, "container": 8,
         "ms": 0.125, "share": 0.4321, "spread": 0.02},
    ],
    "unattributed": {"DWConv": 0.5},
    "resolution_ms": 0.001,
}  # fmt: skip


def test_the_operators_of_a_file_are_a_table_with_units():
    text = _text("measure", {"path": "m.tflite", "median_ms": 1.5, "ops": OPS, "ops_note": None})
    row = next(line for line in text.splitlines() if "conv1" in line)
    for part in ("CONV_2D", "IGEMM", "4", "8", "0.125 ms", "43.21 %"):
        assert part in row
    assert "operators by layer (LiteRT profiler)" in text
    assert "not told apart" in text
    assert "note" not in text
    text = _text("measure", {"path": "m.tflite", "ops": None, "ops_note": "This runtime tells totals only."})
    assert "This runtime tells totals only." in text
    assert "operators" not in _text("measure", {"path": "m.tflite", "median_ms": 1.5})


def test_a_time_below_the_resolution_is_not_shown_as_none():
    short = OPS["layers"][0] | {"ms": 0.0, "share": None}
    ops = OPS | {"layers": [short, short | {"name": "conv2", "ms": 0.001}]}
    text = _text("measure", {"path": "m.tflite", "ops": ops, "ops_note": "No shares are shown."})
    first, second = (line for line in text.splitlines() if "conv" in line)
    assert "< 0.001 ms" in first
    assert "0.001 ms" in second
    assert "<" not in second
    assert "%" not in first
    assert "No shares are shown." in text


def test_shares_of_answers_are_shown_alike():
    answers = {"images": 360, "agreement": 1.0, "exact": 0.9975, "off_by_one": 0.0025, "worst": 1}
    text = _text("verify", {"passed": True, "layers": [], "logits": answers})
    for part in ("100.00 %", "99.75 %", "0.25 %", "360"):
        assert part in text
    assert "0.0025" not in text
    _text("verify", {"passed": False, "layers": [], "logits": None})


def test_a_profile_shows_no_time_below_the_resolution_as_none():
    rows = [
        {"name": "conv1", "operator": "conv2d", "int8_ms": 0.0, "spread": 0.0},
        {"name": "dense", "operator": "dense", "int8_ms": 0.002, "int4_ms": 0.0005, "spread": 0.25},
    ]
    text = _text("profile", {"base_ms": 0.0005, "resolution_ms": 0.001, "layers": rows})
    first, second = (line for line in text.splitlines() if "conv1" in line or "dense" in line)
    assert first.count("< 0.001 ms") == 1
    assert "│ -" in first or " - │" in first
    assert "0.002 ms" in second
    assert second.count("< 0.001 ms") == 1
    assert "0.25" in second
    assert "0.0005 ms" in text  # what is left of a whole network is no time of a profiler
    # A clock of nanoseconds tells them.
    assert "0.0005 ms" in _text("profile", {"resolution_ms": None, "layers": rows[1:]})


def test_a_latency_has_its_unit():
    text = _text("search", {"latency": {"int8": 1.6543, "policy": 1.5}, "budget": [
        {"key": "latency", "asked": "latency=2ms", "limit": 2.0, "reached": 1.5}]})  # fmt: skip
    assert "1.65 ms" in text
    assert "2 ms" in next(line for line in text.splitlines() if "latency=2ms" in line)


def test_markup_in_names_is_text():
    assert "[bold]conv" in _text("inspect", {"layers": [{"name": "[bold]conv"}], "path": "[/x]"})


def test_json_has_no_number_that_json_lacks():
    stream = io.StringIO()
    render.write_json({"a": [float("nan"), {"b": float("inf")}], "c": 1.5}, stream)
    assert json.loads(stream.getvalue(), parse_constant=pytest.fail) == {"a": [None, {"b": None}], "c": 1.5}


@pytest.mark.parametrize(
    ("value", "text"), [(999, "999 B"), (1000, "1 kB"), (1.2e6, "1.2 MB"), (2.5e9, "2.5 GB")]
)
def test_bytes_are_decimal(value, text):
    assert render.bytes_text(value) == text


@pytest.mark.parametrize(("value", "text"), [(7.4, "7 s"), (185, "3:05 min"), (3760, "1:02:40 h")])
def test_seconds_are_readable(value, text):
    assert seconds_text(value) == text


def test_plain_progress_speaks_every_few_seconds_only(capsys):
    now = 0.0
    reporter = LineReporter(clock=lambda: now)
    reporter.start("search", 100)
    for step in range(100):
        # The first step compiles; it must not enter the estimate.
        now += 0.125 if step else 20.0
        reporter.advance(metrics={"expected_bits": 3.94, "gap": 0.1, "loss": 0.5})
    reporter.finish()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "search: 100 steps",
        "search: 1/100, loss 0.5  bits 3.94",
        "search: 41/100, loss 0.5  bits 3.94, 7 s left",
        "search: 81/100, loss 0.5  bits 3.94, 2 s left",
        "search: 100/100, loss 0.5  bits 3.94, done in 32 s",
    ]


def test_a_stage_of_unknown_length_counts(capsys):
    times = iter([0.0, 1.0, 20.0, 21.0])
    reporter = LineReporter(lambda: next(times))
    reporter.start("power iteration", 0)
    reporter.advance()
    reporter.advance()
    reporter.finish()
    assert capsys.readouterr().err.splitlines() == [
        "power iteration",
        "power iteration: 2",
        "power iteration: 2, done in 21 s",
    ]


def test_the_bar_shows_stage_count_and_metrics():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120, color_system=None)
    with BarReporter(console) as reporter:
        reporter.log("[plain] text")
        reporter.start("search", 4)
        reporter.advance(2, {"loss": 0.25})
        reporter.advance(2)
        reporter.finish()
    text = stream.getvalue()
    for part in ("[plain] text", "search", "4/4", "loss 0.25"):
        assert part in text


WITHOUT_UNICODE = """
import sys
from tfmpq.cli.main import VERBS, main

# The last one ends the process.
calls = [[verb, "--help"] for verb in VERBS] + [["inspect", "absent-\\u2192.yaml"], ["inspect", sys.argv[1]]]
for call in calls:
    try:
        main(call, prog_name="tfmpq")
    except SystemExit as end:
        print(call[0], "code", end.code)
"""


def test_everything_can_be_printed_in_the_encoding_of_windows(tmp_path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "format: tfmpq-policy/1\nmodel: resnet8\nlayers:\n  conv: {weight_bits: 4}\n", encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_UNICODE, str(policy)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"},
        timeout=120,
    )
    said = done.stdout.decode("cp1252")
    assert done.returncode == 0, done.stderr.decode("cp1252")
    codes = [line for line in said.splitlines() if " code " in line and len(line.split()) == 3]
    assert codes == [*(f"{verb} code 0" for verb in VERBS), "inspect code 2"]
    assert "| conv | 4     |" in said
