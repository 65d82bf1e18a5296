"""The whole chain through the command line: a network of the user's, real digits, files that are run."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

# Keras 3 converts TensorFlow's variables by a call that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LAYERS = {
    "stem": "conv2d",
    "depthwise": "depthwise_conv2d",
    "pointwise": "pointwise",
    "down": "conv2d",
    "logits": "dense",
}
WEIGHTS = {"stem": 27 * 16, "depthwise": 9 * 16, "pointwise": 16 * 32, "down": 9 * 32 * 32, "logits": 32 * 10}
CHANNELS = {"stem": 16, "depthwise": 16, "pointwise": 32, "down": 32, "logits": 10}
EDITED = {"stem": 8, "depthwise": 4, "pointwise": 2, "down": 3, "logits": 4}
IMAGES = 360


def storage_size(container_bits: dict[str, int]) -> int:
    """Packed weights, a float32 scale and an int32 bias for each channel, counted by hand."""
    return sum(WEIGHTS[name] * bits // 8 + 8 * CHANNELS[name] for name, bits in container_bits.items())


def top1(workshop, path: str) -> float:
    result = workshop.json(f"evaluate {path} --data digits --json")
    assert result["count"] == IMAGES
    assert result["top1"] <= result["top5"] <= 1
    return result["top1"]


def test_search_reports_what_it_found(workshop) -> None:
    found = workshop.results["search"]
    assert Path(found["policy"]) == Path("run/policy.yaml")
    assert list(found["bits"]) == list(LAYERS)
    assert set(found["bits"].values()) <= {2, 4, 8}
    assert [(b["key"], b["asked"]) for b in found["budget"]] == [
        ("size", "size=0.4x"),
        ("bops", "bops=0.7x"),
    ]
    assert found["size"]["int8"] == storage_size(dict.fromkeys(LAYERS, 8))
    assert found["size"]["policy"] == storage_size(found["bits"]) <= 0.4 * found["size"]["int8"]
    assert found["bops"]["policy"] <= 0.7 * found["bops"]["int8"] < found["bops"]["float"]
    for budget in found["budget"]:
        assert budget["reached"] == found[budget["key"]]["policy"] <= budget["limit"]
    assert found["search_seconds"] > 0
    written = yaml.safe_load((workshop.folder / "run" / "policy.yaml").read_text())
    assert {name: layer["weight_bits"] for name, layer in written["layers"].items()} == found["bits"]
    # What the search would have chosen after each epoch; the last line is what it chose.
    with (workshop.folder / "run" / "search.choices.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert {name: int(last[f"weight:{name}"]) for name in LAYERS} == found["bits"]


def test_files_have_the_size_that_was_searched_and_pass_the_proof(workshop) -> None:
    found, tuned = workshop.results["search"], workshop.results["finetune"]
    for target in ("storage", "litert"):
        report = workshop.results[target]
        assert report["size_form"] == target
        path = workshop.folder / report["path"]
        assert report["bytes"] == path.stat().st_size
        assert report["verification"]["passed"] is True
        rows = {row["name"]: row for row in report["layers"]}
        assert {name: row["operator"] for name, row in rows.items()} == LAYERS
        assert {name: row["weight_bits"] for name, row in rows.items()} == found["bits"]
        assert sum(row["bytes"] for row in rows.values()) == report["size"]
        assert all(row["container"] >= row["weight_bits"] for row in rows.values())
    assert workshop.results["storage"]["size"] == tuned["size"] == found["size"]["policy"]
    assert workshop.results["litert"]["size"] >= tuned["size"]


def test_run_and_files_classify_alike(workshop) -> None:
    trained = top1(workshop, "run")
    assert trained == workshop.results["finetune"]["top1"] > 0.7
    assert workshop.results["finetune"]["count"] == IMAGES
    storage, litert = top1(workshop, "small.storage.tflite"), top1(workshop, "small.litert.tflite")
    # Convolutions with 2 bits run in LiteRT's own kernels in the storage form, which round twice.
    assert abs(storage - litert) <= 2 / IMAGES
    # Ties on the 8-bit grid of the logits may fall the other way for a few images.
    assert abs(storage - trained) <= 4 / IMAGES


def test_evaluate_tells_float_from_quantized(workshop) -> None:
    line = "evaluate {} --data digits --split {} --limit 50 --json"
    float_model = workshop.json(line.format("run/search.float.keras", "train"))
    assert (float_model["float"], float_model["quantized"], float_model["count"]) == (True, False, 50)
    quantized = workshop.json(line.format("small.litert.tflite", "test"))
    assert (quantized["float"], quantized["quantized"], quantized["count"]) == (False, True, 50)


def test_another_interpreter_classifies_as_evaluate_does(workshop) -> None:
    """Plain LiteRT on pixels from 0 to 1, with scale and zero point of the input written out here."""
    from ai_edge_litert.interpreter import Interpreter

    from tfmpq.data import load_dataset

    interpreter = Interpreter(str(workshop.folder / "small.litert.tflite"))
    interpreter.allocate_tensors()
    (entry,), (leaving,) = interpreter.get_input_details(), interpreter.get_output_details()
    test = load_dataset("digits").test
    correct = 0
    for image, label in zip(test.array / np.float32(255), test.labels, strict=True):
        if entry["dtype"] == np.int8:
            scale, zero = entry["quantization"]
            image = np.clip(np.round(image / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(entry["index"], image[None])
        interpreter.invoke()
        correct += int(interpreter.get_tensor(leaving["index"]).argmax() == label)
    assert top1(workshop, "small.litert.tflite") == pytest.approx(correct / IMAGES, abs=1 / IMAGES)


def test_measure_times_the_file(workshop) -> None:
    result = workshop.json("measure small.litert.tflite --threads 1 --runs 20 --out latency.json --json")
    assert 0 < result["p10_ms"] <= result["median_ms"] <= result["p90_ms"]
    assert result["runs"] >= 20
    assert (result["threads"], result["delegate_partitions"]) == (1, 1)
    assert result["runtime"]
    assert result["device"]["cores"] == os.cpu_count()
    assert json.loads((workshop.folder / "latency.json").read_text()) == result


def test_inspect_agrees_with_what_was_written(workshop) -> None:
    found, tuned = workshop.results["search"], workshop.results["finetune"]
    policy = workshop.json("inspect run/policy.yaml --json")
    assert (policy["kind"], policy["layers"]) == ("policy", found["bits"])
    run = workshop.json("inspect run --json")
    assert run["kind"] == "run"
    assert run["stages"]["search"]["result"] == found
    assert run["stages"]["finetune"]["result"] == tuned
    for target in ("storage", "litert"):
        report, file = workshop.results[target], workshop.json(f"inspect small.{target}.tflite --json")
        assert (file["kind"], file["bytes"], file["size"]) == ("tflite", report["bytes"], report["size"])
        assert [
            (row["name"], row["weight_bits"], row["container"], row["bytes"]) for row in file["layers"]
        ] == [(row["name"], row["weight_bits"], row["container"], row["bytes"]) for row in report["layers"]]
        assert file["mean_weight_bits"] == pytest.approx(found["mean_weight_bits"])


def test_text_is_for_people(workshop) -> None:
    result = workshop.invoke("inspect run")
    assert result.exit_code == 0
    assert "small" in result.stdout
    with pytest.raises(json.JSONDecodeError):
        json.loads(result.stdout)


def test_the_same_command_returns_the_stored_result(workshop) -> None:
    before = workshop.contents()
    for verb in ("search", "finetune"):
        assert workshop.json(workshop.commands[verb]) == workshop.results[verb]
    assert workshop.contents() == before


def test_exports_are_reproducible(workshop) -> None:
    workshop.json("export run --tflite --target storage --out again.tflite --json")
    again, first = (workshop.folder / name for name in ("again.tflite", "small.storage.tflite"))
    assert again.read_bytes() == first.read_bytes()


def test_interrupted_finetuning_goes_on_to_the_same_file(workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    from tfmpq.training.run_folder import Stage

    shutil.copytree(workshop.folder / "run", workshop.folder / "halted")
    for file in (workshop.folder / "halted").glob("finetune*"):
        file.unlink()
    line = workshop.commands["finetune"].replace(" run ", " halted ")
    save = Stage.save_checkpoint

    def save_and_interrupt(*arguments: Any) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Stage, "save_checkpoint", save_and_interrupt)
        result = workshop.invoke(line)
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr.splitlines()[-1] == "Interrupted. Run the same command again to go on."
    state = workshop.json("inspect halted --json")["stages"]
    assert (state["search"]["state"], state["finetune"]["state"]) == ("finished", "begun")

    resumed = workshop.invoke(line)
    assert "Resuming" in resumed.stderr
    differing = {"run", "policy", "source"}
    expected = {key: value for key, value in workshop.results["finetune"].items() if key not in differing}
    assert {k: v for k, v in json.loads(resumed.stdout).items() if k not in differing} == expected
    workshop.json("export halted --tflite --target storage --out halted.tflite --json")
    files = (workshop.folder / name for name in ("halted.tflite", "small.storage.tflite"))
    assert len({file.read_bytes() for file in files}) == 1


def test_edited_policy_is_trained_from_a_file_of_weights(workshop) -> None:
    content = yaml.safe_load((workshop.folder / "run" / "policy.yaml").read_text())
    content["layers"] = {name: {"weight_bits": bits} for name, bits in EDITED.items()}
    edited = {key: content[key] for key in ("format", "model", "layers")}
    (workshop.folder / "edited.yaml").write_text(yaml.safe_dump(edited))
    tuned = workshop.json(
        "finetune edited.yaml --target digits --model user_networks:small --weights run/search.float.keras "
        "--epochs 5 --batch-size 64 --out edited --json"
    )
    assert tuned["top1"] > 0.6
    report = workshop.json("export edited --tflite --target storage --out edited.tflite --json")
    rows = {row["name"]: row for row in report["layers"]}
    assert {name: row["weight_bits"] for name, row in rows.items()} == EDITED
    containers = {"stem": 8, "depthwise": 4, "pointwise": 2, "down": 4, "logits": 4}
    assert {name: row["container"] for name, row in rows.items()} == containers
    assert report["size"] == tuned["size"] == storage_size(containers)
    assert abs(top1(workshop, "edited.tflite") - tuned["top1"]) <= 4 / IMAGES


def test_the_smallest_budget_that_is_named_can_be_met(workshop) -> None:
    line = (
        "search --model user_networks:small --proxy digits --epochs 0 --budget size={} --out smallest --json"
    )
    refused = workshop.invoke(line.format("0.01x"))
    assert refused.exit_code == 2
    named = refused.stderr.split("The smallest that can be met: size=")[1].split()[0]
    found = workshop.json(line.format(named))
    (budget,) = found["budget"]
    assert budget["reached"] == storage_size({name: 8 if name == "stem" else 2 for name in LAYERS})
    assert budget["reached"] <= budget["limit"] < budget["reached"] * 1.01


@pytest.mark.slow
def test_the_whole_job_in_one_command(workshop) -> None:
    result = workshop.json(
        "run --model user_networks:small --proxy digits --target digits --budget size=0.4x --epochs 4 "
        "--batch-size 64 --out job --json"
    )
    rows = {row["model"]: row for row in result["table"]}
    assert result["size_form"] == "storage"
    assert list(rows) == ["float32", "int8", "mixed"]
    for row in rows.values():
        assert row["bytes"] == Path(workshop.folder / row["path"]).stat().st_size
        assert row["top1"] == top1(workshop, row["path"])
        assert row["median_ms"] > 0
    assert rows["mixed"]["size"] <= 0.4 * rows["int8"]["size"]
    assert rows["mixed"]["storage_bytes"] < rows["int8"]["storage_bytes"] < rows["float32"]["bytes"]
    assert (rows["float32"]["mean_weight_bits"], rows["int8"]["mean_weight_bits"]) == (32, 8)


def test_a_search_by_imitation_keeps_the_classes_of_the_network(workshop) -> None:
    """Digits of other classes than the network's: labels are not used, outputs stay ten."""
    folder = workshop.folder
    with np.load(_digits_of_four_classes(folder)) as arrays:
        assert set(arrays["y"]) == {0, 1, 2, 3}
    line = (
        "search --model run/search.float.keras --proxy npz:four.npz --preprocess unit --imitate"
        " --target-classes 10 --epochs 1 --batch-size 64 --out imitated --json"
    )
    found = workshop.json(line)
    assert list(found["bits"]) == list(LAYERS)
    assert "float" not in found["accuracy"]
    assert 0 < found["accuracy"]["policy_without_finetuning"] <= 1
    result = workshop.invoke(line.replace("imitated", "other") + " --float-epochs 1")
    assert result.exit_code == 2
    assert "imitate" in result.stderr


def _digits_of_four_classes(folder: Path) -> Path:
    from tfmpq.data import load_dataset

    train = load_dataset("digits").train
    keep = train.labels < 4
    assert train.array is not None
    np.savez(folder / "four.npz", x=train.array[keep], y=train.labels[keep])
    return folder / "four.npz"
