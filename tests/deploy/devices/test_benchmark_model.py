"""Reading what benchmark_model prints and writes, against published logs and the protobuf library."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from tfmpq.deploy.devices.android import parse_device, parse_state
from tfmpq.deploy.devices.benchmark_model import cpu_mask, merge, parse_result, parse_text
from tfmpq.deploy.devices.state import emulated

NEW = """INFO: Graph: [m.tflite]
INFO: Replacing 65 out of 66 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 2 partitions.
INFO: Initialized session in 5.579ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds
INFO: count=3 first=1357602 curr=1100 min=1100 max=1357602 avg=1.3e+06 std=10 p5=1100 median=1200 p95=1357602

INFO: Running benchmark for at least 50 iterations and at least 1 seconds
INFO: count=50 first=1240 curr=1250 min=1200 max=1300 avg=1245.5 std=25 p5=1205 median=1240 p95=1295

INFO: Inference timings in us: Init: 5579, First inference: 1357602, Warmup (avg): 1.3e+06, Inference (avg): \
1245.5
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE.
INFO: Memory footprint delta from the start of the tool (MB): init=6.36328 overall=109.832
"""
OLD = """Initialized session in 1.2ms.
count=50 first=7 curr=7 min=6 max=9 avg=7.1 std=0.5

Inference timings in us: Init: 1200, First inference: 7, Warmup (avg): 7, Inference (avg): 7.1
"""


def test_a_log_of_a_new_build() -> None:
    found = parse_text(NEW)
    assert found["latency_ms"] == {
        "count": 50,
        "min": 1.2,
        "p5": 1.205,
        "p50": 1.24,
        "p95": 1.295,
        "max": 1.3,
        "mean": 1.2455,
        "stddev": 0.025,
    }
    assert found["warmup_ms"]["count"] == 3
    assert (found["load_ms"], found["first_inference_ms"]) == (5.579, 1357.602)
    assert found["memory_kb"] == {"delta": round(109.832 * 1024)}
    assert found["delegate_partitions"] == 2


def test_a_log_of_an_old_build_has_no_percentiles() -> None:
    found = parse_text(OLD)
    assert found["latency_ms"]["p50"] is None
    assert found["latency_ms"]["mean"] == pytest.approx(0.0071)
    assert (found["warmup_ms"], found["memory_kb"], found["delegate_partitions"]) == (None, None, None)


@pytest.mark.parametrize(
    ("line", "count"),
    [("count=1 curr=1500 p5=1500 median=1500 p95=1500", 1), ("count=3 curr=1500(all same)", 3)],
)
def test_runs_that_all_took_as_long(line, count) -> None:
    summary = "Inference timings in us: Init: 5, First inference: 7, Warmup (avg): 7, Inference (avg): 1500"
    latency = parse_text(f"INFO: {line}\nINFO: {summary}")["latency_ms"]
    assert (latency["count"], latency["p50"], latency["mean"], latency["stddev"]) == (count, 1.5, 1.5, 0.0)


@pytest.mark.parametrize("text", ["", "ERROR: Failed to load model", NEW[: NEW.index("INFO: Inference")]])
def test_a_log_without_a_result(text) -> None:
    assert parse_text(text) is None


@pytest.fixture(scope="module")
def message():
    """The message as LiteRT's benchmark_result.proto declares it, as far as it is read here."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="result.proto", package="t", syntax="proto3")
    latency = file.message_type.add(name="Latency")
    for number in range(1, 11):
        latency.field.add(name=f"f{number}", number=number, type=kinds.TYPE_FLOAT, label=1)
    memory = file.message_type.add(name="Memory")
    memory.field.add(name="init", number=1, type=kinds.TYPE_INT64, label=1)
    result = file.message_type.add(name="Result")
    result.field.add(name="name", number=1, type=kinds.TYPE_STRING, label=1)
    result.field.add(name="latency", number=2, type=kinds.TYPE_MESSAGE, type_name=".t.Latency", label=1)
    result.field.add(name="memory", number=3, type=kinds.TYPE_MESSAGE, type_name=".t.Memory", label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Result"))


def test_the_result_file_is_read_as_protobuf_reads_it(message) -> None:
    @given(
        st.lists(st.floats(width=32, min_value=0.125, max_value=2**20), min_size=10, max_size=10),
        st.integers(1, 2**40),
        st.text(max_size=300),
    )
    def check(values, kilobytes, name) -> None:
        written = message(name=name)
        for number, value in enumerate(values, 1):
            setattr(written.latency, f"f{number}", value)
        written.memory.init = kilobytes
        found = parse_result(written.SerializeToString())
        assert found["latency"] == dict(enumerate(values, 1))
        assert found["memory"] == {1: kilobytes}

    check()


@given(st.binary(max_size=200))
def test_a_damaged_result_file_is_left_out(content) -> None:
    assert isinstance(parse_result(content), dict)


def test_the_result_file_is_more_exact_than_the_log() -> None:
    merged = merge(parse_text(OLD), {"latency": {1: 0.00712, 5: 0.007, 8: 1.25}})
    assert merged["latency_ms"]["mean"] == 0.00712
    assert merged["latency_ms"]["p50"] == 0.007
    assert merged["latency_ms"]["min"] == 0.006
    assert (merged["load_ms"], merged["first_inference_ms"]) == (1.25, 0.007)


def test_masks_are_hexadecimal() -> None:
    assert (cpu_mask("0"), cpu_mask("4,5,6,7"), cpu_mask("0,0,9")) == ("1", "f0", "201")


def test_facts_of_a_phone() -> None:
    text = (
        "[ro.product.manufacturer]: [Google]\r\n[ro.product.model]: [Pixel 8]\r\n"
        "[ro.soc.model]: [Tensor G3]\r\n"
        "[ro.hardware]: [shiba]\r\n[ro.product.cpu.abi]: [arm64-v8a]\r\n[ro.build.version.release]: [14]\r\n"
        "[ro.build.version.sdk]: [34]\r\nTFMPQ_MACHINE=aarch64\r\nTFMPQ_CORES=9\r\nMemTotal:  7654321 kB\r\n"
    )
    facts = parse_device(text)
    assert facts["board"] == "Google Pixel 8 shiba"
    assert (facts["cpu"], facts["abi"], facts["cores"]) == ("Tensor G3", "arm64-v8a", 9)
    assert (facts["os"], facts["memory_kb"]) == ("Android 14 (API 34)", 7654321)
    assert not emulated(facts)
    assert parse_device("")["board"] is None


def test_state_of_a_phone() -> None:
    text = (
        "TFMPQ_CPU policy0 scaling_governor sched_pixel\r\nTFMPQ_CPU policy0 scaling_cur_freq 1704000\r\n"
        "TFMPQ_CPU policy4 scaling_governor \r\nTFMPQ_ZONE thermal_zone0:BIG CORE 45123\r\n"
        "TFMPQ_ZONE thermal_zone1: \r\nTFMPQ_LOAD 1.25 0.5 0.1 1/900 1\r\nThermal Status: 2\r\n"
        "  temperature: 312\r\n"
    )
    state = parse_state(text)
    assert state["cpufreq"]["policy0"] == {"scaling_governor": "sched_pixel", "scaling_cur_freq": "1704000"}
    assert state["cpufreq"]["policy4"] == {"scaling_governor": None}
    assert state["celsius"] == {"thermal_zone0:BIG CORE": 45.123, "battery": 31.2}
    assert (state["load_1min"], state["thermal_status"]) == (1.25, 2)
