"""Forms of layers through the command line: wishes, reasons, latency tables, refusals."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RUN = "export run --tflite --out packed.tflite --processor x86-avx2 --prefer size --json"


def test_a_small_file_is_proved_and_says_why_its_layers_are_as_they_are(workshop) -> None:
    found = workshop.json(RUN)
    assert found["verification"]["passed"]
    assert found["verification"]["delegate_partitions"] == 1
    assert (found["forms"]["prefer"], found["forms"]["processor"]) == ("size", "x86-avx2")
    packed = [layer for layer in found["layers"] if layer["operator"] == "conv2d" and layer["container"] < 8]
    assert packed
    assert all(layer["scratch"] > 0 and "of the int8 time" in layer["reason"] for layer in packed)
    facts = workshop.json("inspect packed.tflite --json")
    told = {layer["name"]: layer for layer in facts["layers"]}
    for layer in packed:
        row = told[layer["name"]]
        assert (row["operator"], row["container"], row["scratch"]) == (
            "conv2d",
            layer["container"],
            layer["scratch"],
        )
        assert "preferring size" in row["form"]
    proof = workshop.json("verify packed.tflite --against run --limit 64 --json")
    assert proof["passed"]
    assert {row["name"] for row in proof["layers"]} >= {layer["name"] for layer in packed}


def test_a_file_is_rewritten_for_another_processor_and_back(workshop) -> None:
    workshop.json(RUN)
    first = (workshop.folder / "packed.tflite").read_bytes()
    kept = workshop.json("specialize packed.tflite --out same.tflite --json")
    assert (kept["rewritten"], (workshop.folder / "same.tflite").read_bytes()) == (0, first)
    fast = workshop.json(
        "specialize packed.tflite --out fast.tflite --prefer speed --processor x86-vnni --json"
    )
    assert fast["rewritten"] > 0
    workshop.json("specialize fast.tflite --out back.tflite --prefer size --processor x86-avx2 --json")
    assert len((workshop.folder / "back.tflite").read_bytes()) == len(first)
    bounded = workshop.json("specialize packed.tflite --out tight.tflite --max-scratch 0 --json")
    assert bounded["rewritten"] > 0
    assert all(not layer["scratch"] for layer in workshop.json("inspect tight.tflite --json")["layers"])


def test_a_latency_table_decides_instead_of_the_model(workshop) -> None:
    """Times of a table that says that packed products take no time, then that they take ten times as much."""
    workshop.json(RUN)
    table = workshop.json("profile --model run/search.float.keras --repeats 1 --out table.json --json")
    assert table["form"] == "litert"
    for factor, packed in ((0.1, True), (10.0, False)):
        record = json.loads((workshop.folder / "table.json").read_text())
        for layer in record["layers"]:
            for time in layer["times"]:
                time["ms"] = 1.0 if time["bits"] == 8 else factor
        (workshop.folder / "other.json").write_text(json.dumps(record))
        found = workshop.json("export run --tflite --out t.tflite --latency-table other.json --json")
        rows = [
            layer for layer in found["layers"] if layer["operator"] == "conv2d" and layer["weight_bits"] < 8
        ]
        chosen = {layer["name"]: layer["container"] < 8 for layer in rows if "as measured" in layer["reason"]}
        assert chosen
        assert set(chosen.values()) == {packed}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("export run --tflite --target storage --prefer size", "Leave out --prefer"),
        (
            "specialize small.storage.tflite --out x.tflite --target tflm --max-scratch 1",
            "Leave out --prefer",
        ),
        (
            "export run --tflite --latency-table run/policy.yaml",
            "A latency table is written by tfmpq profile",
        ),
        ("export run --tflite --prefer fast", "'fast' is not one of"),
        ("export run --tflite --max-scratch nan", "nan"),
    ],
)
def test_wishes_that_mean_nothing_are_refused(workshop, line: str, said: str) -> None:
    result = workshop.invoke(line)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
