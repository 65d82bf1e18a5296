"""Quantization without training, through the command line, from the float network of a search."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MODEL = "run/search.float.keras"
FORM = "export {} --tflite --calibrate digits --out without-training.tflite --json"


@pytest.mark.parametrize(
    ("what", "bits"),
    [("--weight-bits 4", {4}), ("--policy run/policy.yaml --target storage", {2, 4, 8})],
    ids=["one width", "policy"],
)
def test_the_file_is_written_proved_and_close_to_the_float_network(
    workshop, what: str, bits: set[int]
) -> None:
    found = workshop.json(f"{FORM.format(MODEL)} {what}")
    assert found["calibration"] == "digits"
    assert found["verification"]["passed"]
    assert {layer["weight_bits"] for layer in found["layers"]} <= bits
    assert found["quantized"]["reconstructed"]
    # One counts what was written, the other what budgets count.
    sizes = {found["size_form"]: found["size"], found["quantized"]["size_form"]: found["quantized"]["size"]}
    assert set(sizes) == {found["target"], "storage"}
    assert sizes["storage"] <= sizes[found["target"]] == sum(layer["bytes"] for layer in found["layers"])
    measured = workshop.json("evaluate without-training.tflite --data digits --json")
    trained = workshop.json(f"evaluate {MODEL} --data digits --preprocess unit --json")
    assert measured["top1"] == pytest.approx(found["quantized"]["top1"], abs=0.02)
    assert measured["top1"] > trained["top1"] - 0.15


def test_rounding_to_the_nearest_can_be_asked_for(workshop) -> None:
    found = workshop.json(f"{FORM.format(MODEL)} --weight-bits 8 --no-reconstruct")
    assert not found["quantized"]["reconstructed"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"export {MODEL} --tflite", "--calibrate"),
        (f"export {MODEL} --tflite --calibrate digits", "--weight-bits"),
        (f"export {MODEL} --tflite --calibrate digits --weight-bits 4 --policy run/policy.yaml", "both"),
        ("export resnet8 --tflite --calibrate digits --weight-bits 4", "--weights"),
        ("export run --tflite --weight-bits 4", "--weight-bits"),
        ("export nothing_there --tflite --calibrate digits --weight-bits 4 --weights none", "trained"),
    ],
)
def test_what_cannot_be_done_is_said(workshop, line: str, said: str) -> None:
    before = workshop.contents()
    result = workshop.invoke(line)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert workshop.contents() == before
