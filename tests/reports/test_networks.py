"""Which networks are compared, under which name, with which numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tfmpq.reports.comparison import compare
from tfmpq.reports.folders import read_run
from tfmpq.reports.networks import measurements, networks, timings
from tfmpq.reports.reading import read_given


@pytest.fixture
def given(tmp_path: Path):
    """`given(result)` is a result as it is read from a file."""

    def read(content: dict[str, Any]) -> Any:
        path = tmp_path / "result.json"
        path.write_text(json.dumps(content))
        return read_given(path)

    return read


def test_a_whole_job_gives_its_three_networks(whole_run: Path) -> None:
    run = read_run(whole_run, "a")
    found = networks([run], [])
    assert [(n.name, n.family, n.top1, n.size) for n in found] == [
        ("a, float32", "float", 0.8712, 310_000),
        ("a, int8", "uniform", 0.8698, 81_000),
        ("a, mixed", "searched", 0.8654, 40_500),
    ]
    (times,) = timings(found, measurements([run], [])).values()
    assert [(t.network.name, t.measured.median_ms) for t in times] == [
        ("a, float32", 3),
        ("a, int8", 1.5),
        ("a, mixed", 1.25),
    ]
    (comparison,) = compare(found, {})
    assert [found[index].name for index in comparison.best] == ["a, mixed", "a, int8", "a, float32"]


def test_a_search_alone_is_preliminary(make_run, samples) -> None:
    found = networks([read_run(make_run(search=samples.search_result()), "a")], [])
    assert [(n.name, n.top1, n.preliminary) for n in found] == [
        ("resnet8, float32", 0.8712, True),
        ("a, size=0.5x", 0.7345, True),
    ]
    # The float network is larger and more accurate.
    assert [found[index].name for index in compare(found, {})[0].best] == ["a, size=0.5x", "resnet8, float32"]


def test_networks_before_fine_tuning_have_a_front_of_their_own(make_run, samples) -> None:
    rows = [
        {"asked": asked, "policy": "p", "reached": size, "mean_weight_bits": 4, "accuracy": top1}
        for asked, size, top1 in (("small", 20_000, 0.5), ("beaten", 30_000, 0.4), ("large", 40_000, 0.6))
    ]
    searched = read_run(make_run("s", search=samples.search_result(pareto=rows)), "s")
    tuned = read_run(make_run("t", finetune=samples.finetune_result(size=10_000, top1=0.9)), "t")
    (comparison,) = compare(networks([searched, tuned], []), {})
    shown = {row["name"]: row["on_front"] for row in comparison.rows()}
    assert shown == {
        "resnet8, float32": True,
        "s, small": True,
        "s, beaten": False,
        "s, large": True,
        "t": True,
    }


def test_a_front_of_budgets_gives_a_network_each(make_run, samples) -> None:
    rows = [
        {"asked": f"size={x}x", "policy": "p", "reached": 1000 * x, "mean_weight_bits": 8 * x, "accuracy": x}
        for x in (0.3, 0.5)
    ]
    run = read_run(make_run(search=samples.search_result(pareto=rows)), "a")
    found = networks([run], [])
    assert [(n.name, n.size) for n in found[1:]] == [("a, size=0.3x", 300), ("a, size=0.5x", 500)]


def test_the_accuracy_of_the_file_counts(make_run, samples, given) -> None:
    folder = make_run(finetune=samples.finetune_result())
    (folder / "resnet8.litert.tflite").touch()
    result = given(samples.evaluated("elsewhere/a/resnet8.litert.tflite", 0.5))
    (only,) = networks([read_run(folder, "a")], [result])
    assert (only.top1, only.images, only.preliminary) == (0.5, 360, False)


def test_a_file_elsewhere_belongs_to_the_run_that_it_was_proved_against(make_run, samples, given) -> None:
    folder = make_run(finetune=samples.finetune_result())
    proof = given(samples.verified("files/small.tflite", against="a"))
    result = given(samples.evaluated("files/small.tflite", 0.5))
    (only,) = networks([read_run(folder, "a")], [proof, result])
    assert (only.name, only.top1) == ("a", 0.5)


def test_an_evaluation_on_other_data_stands_apart(make_run, samples, given) -> None:
    folder = make_run(finetune=samples.finetune_result())
    result = given(samples.evaluated("a/resnet8.litert.tflite", 0.5, data="cifar10"))
    found = networks([read_run(folder, "a")], [result])
    assert [(n.data, n.top1) for n in found] == [("digits", 0.8654), ("cifar10", 0.5)]
    assert [c.data for c in compare(found, {})] == ["digits", "cifar10"]


def test_training_images_are_other_data(make_run, samples, given) -> None:
    folder = make_run(finetune=samples.finetune_result())
    result = given(samples.evaluated("a/resnet8.litert.tflite", 0.99, split="train"))
    found = networks([read_run(folder, "a")], [result])
    assert [(n.data, n.top1) for n in found] == [("digits", 0.8654), ("digits, train split", 0.99)]


@pytest.mark.parametrize(
    ("bits", "method", "family"),
    [
        (4, "asga", "uniform"),
        (None, "asga, rho_max 0.1", "searched"),
        (None, "random", "other"),
        (None, "", "other"),
    ],
)
def test_families(bits, method, family, make_run, samples) -> None:
    layers = samples.bits if bits is None else dict.fromkeys(samples.bits, bits)
    text = samples.policy_text(layers, method or "''")
    (only,) = networks([read_run(make_run(finetune=samples.finetune_result(), policy=text), "a")], [])
    assert only.family == family


def untrained(samples, path: str, bits: dict[str, int], mean: float) -> dict[str, Any]:
    return samples.exported(
        path,
        layers=[{"name": name, "weight_bits": width} for name, width in bits.items()],
        calibration="digits",
        quantized={"top1": 0.75, "count": 360, "size": 40_000, "mean_weight_bits": mean},
    )


def test_a_file_elsewhere_belongs_to_the_run_that_it_was_exported_from(make_run, samples, given) -> None:
    folder = make_run(finetune=samples.finetune_result())
    (folder / "export.small.json").write_text(json.dumps(samples.exported("files/small.tflite")))
    result = given(samples.evaluated("files/small.tflite", 0.5))
    (only,) = networks([read_run(folder, "a")], [result])
    assert (only.name, only.top1) == ("a", 0.5)


def test_a_network_without_training_has_the_family_of_its_policy(make_run, samples, given) -> None:
    run = read_run(make_run(search=samples.search_result()), "a")
    shortcut = {"shortcut": 8}
    mixed = given(untrained(samples, "mixed.tflite", samples.bits | shortcut, 3.84))
    uniform = given(untrained(samples, "u4.tflite", dict.fromkeys(samples.bits, 4) | shortcut, 4.0))
    better = given(samples.evaluated("u4.tflite", 0.8))
    found = [n for n in networks([run], [mixed, uniform, better]) if not n.preliminary]
    assert [(n.name, n.family, n.top1, n.model) for n in found] == [
        ("mixed, untrained", "searched", 0.75, "resnet8"),
        ("u4, untrained", "uniform", 0.8, ""),
    ]


def test_a_file_without_a_score_is_no_network_until_it_is_evaluated(samples, given) -> None:
    """Calibrated on noise, for example: there were no labels."""
    export = untrained(samples, "u4.tflite", samples.bits, 3.84)
    export["quantized"] |= {"top1": None, "count": 0}
    assert networks([], [given(export)]) == []
    (only,) = networks([], [given(export), given(samples.evaluated("u4.tflite", 0.8))])
    assert (only.name, only.top1) == ("u4, untrained", 0.8)


def test_a_file_that_was_only_evaluated_has_no_size(samples, given) -> None:
    (only,) = networks([], [given(samples.evaluated("x/other.tflite", 0.4))])
    assert (only.name, only.size) == ("x/other.tflite", None)
    assert compare([only], {})[0].best == ()


HERE = "AMD EPYC, local, ai-edge-litert 2.3.0, 1 thread"
PREDICTED = {"latency": {"int8": 2.0, "policy": 1.5}, "latency_conditions": HERE}


def test_predicted_latencies_are_those_of_the_very_network(make_run, samples, given) -> None:
    searched = read_run(make_run("s", search=samples.search_result(**PREDICTED)), "s")
    eight = dict.fromkeys(samples.bits, 8)
    tuned = {
        "same": (samples.bits, {}),
        "edited": (samples.bits | {"dense": 4}, {"bops": 122_000_000}),
        "larger images": (samples.bits, {"bops": 999_000_000}),
        "int8": (eight, {"bops": 200_000_000}),
    }
    runs = [
        read_run(
            make_run(name, finetune=samples.finetune_result(**changes), policy=samples.policy_text(bits)),
            name,
        )
        for name, (bits, changes) in tuned.items()
    ]
    quantized = {"top1": 0.7, "count": 9, "size": 40_500, "mean_weight_bits": 3.84, "bops": 123_000_000}
    export = given(samples.exported("x/untrained.tflite", calibration="digits", quantized=quantized))
    found = {n.name: n.predicted_ms for n in networks([searched, *runs], [export]) if n.predicted_ms}
    assert found == {
        "s, size=0.5x": {HERE: 1.5},
        "same": {HERE: 1.5},
        "int8": {HERE: 2.0},
        "untrained, untrained": {HERE: 1.5},
    }


def test_each_policy_of_a_front_has_its_predicted_latency(make_run, samples) -> None:
    rows = [
        {"asked": asked, "policy": "p", "reached": size, "mean_weight_bits": 4, "accuracy": 0.5} | latency
        for asked, size, latency in (("a", 1, {"latency": 1.25}), ("b", 2, {}))
    ]
    run = read_run(make_run(search=samples.search_result(pareto=rows) | PREDICTED), "a")
    assert [n.predicted_ms for n in networks([run], [])[1:]] == [{HERE: 1.25}, {}]


def test_emulations_are_never_compared(whole_run, samples, given) -> None:
    run = read_run(whole_run, "a")
    found = networks([run], [])
    arm = given(samples.emulated("runs/a/mixed.tflite"))
    liar = given(samples.measured("runs/a/mixed.tflite", 0.001, emulated=True))
    assert timings(found, [arm, liar]) == {}


def test_only_files_measured_under_the_same_conditions_are_together(whole_run, samples, given) -> None:
    run = read_run(whole_run, "a")
    found = networks([run], [])
    two = given(samples.measured("runs/a/int8.tflite", 9, threads=2))
    again = given(samples.measured("runs/a/mixed.tflite", 1.1))
    grouped = timings(found, [*measurements([run], []), two, again])
    assert [len(times) for times in grouped.values()] == [3, 1]
    assert [t.measured.median_ms for t in next(iter(grouped.values()))] == [3, 1.5, 1.1]


def test_weights_are_counted_from_the_checkpoint(make_run, samples) -> None:
    run = read_run(make_run(finetune=samples.finetune_result()), "a")
    assert run.weights == {"conv1": 432, "block_conv": 4608, "block_conv2": 18432, "dense": 640}
    damaged = make_run("b", finetune=samples.finetune_result())
    (damaged / "finetune.npz").write_bytes(b"PK nothing")
    assert read_run(damaged, "b").weights == {}
