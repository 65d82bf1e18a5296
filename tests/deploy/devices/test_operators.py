"""Times of operators and latency tables over a real ssh and the real adb."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tfmpq.cli.main import main
from tfmpq.deploy.devices.facts import present
from tfmpq.deploy.devices.protocol import Protocol
from tfmpq.deploy.devices.transports import transport
from tfmpq.deploy.latency.measure import measure
from tfmpq.deploy.latency.profilers import BenchmarkModelProfiler, NoProfiler
from tfmpq.deploy.profiling import session
from tfmpq.deploy.profiling.profile import profile
from tfmpq.policy.latency_table import check_device

pytestmark = pytest.mark.usefixtures("short")
PLAN = Protocol("test", runs=10, seconds=0.01)
CONV = "Convolution (NHWC, QC8) IGEMM"
ROWS = f"""echo 'INFO: Operator-wise Profiling Info for Regular Benchmark Runs:'
echo '============================== Run Order =============================='
echo '	[node type]	[first]	[avg ms]	[%]	[cdf%]	[mem KB]	[times called]	[Name]'
echo '	{CONV}	0.1	0.107	60.0%	60.0%	0.000	1	Delegate/{CONV}:0'
echo '============================== Top by Computation Time =============================='
"""


def test_operators_are_measured_over_ssh(pi, files) -> None:
    line = ["measure", str(files[0]), "--on", "ssh:pi", "--ssh-config", str(pi.config), "--ops", "--json"]
    done = CliRunner().invoke(main, line, prog_name="tfmpq")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["ops"]["source"] == "LiteRT profiler"
    assert all(row["kernel"] for row in result["ops"]["layers"])


def test_a_table_is_made_over_ssh_and_is_that_of_the_machine(pi, tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    monkeypatch.setattr(session, "PLAN", PLAN)
    table = profile(
        "user_networks:small", on="ssh:pi", ssh_config=pi.config, input_shape=(16, 16, 3), classes=10,
        repeats=1, out=tmp_path / "t.json",
    ).table  # fmt: skip
    assert table.target["kind"] == "ssh"
    runtime, device = present("ssh:pi", pi.config)
    assert runtime is not None
    check_device(table, runtime=runtime, device=device, threads=1)


def test_operators_are_measured_on_a_phone(phone, files, program) -> None:
    binary = program(f'case "$*" in *--enable_op_profiling=true*) {ROWS};; esac')
    with transport("adb") as device:
        found = BenchmarkModelProfiler(device, binary).profile(device.push(files[0]), 2, PLAN, "0")
    (event,) = found.events
    assert (event.tag, event.delegated, event.microseconds.tolist()) == (CONV, True, [107.0])


def test_a_benchmark_model_without_operators_leaves_the_totals(phone, files, program) -> None:
    (found,) = measure(files[0], on="adb", benchmark_model=program(), ops=True)
    assert "prints no times of operators" in found.operators.note
    binary = program("kill -SEGV $$")
    with transport("adb") as device, pytest.raises(NoProfiler, match="SIGSEGV"):
        BenchmarkModelProfiler(device, binary).profile(device.push(files[0]), 1, PLAN, None)


def test_a_phone_says_what_it_is(phone) -> None:
    runtime, device = present("adb")
    assert runtime is None
    assert device["machine"]
