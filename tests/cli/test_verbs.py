"""What the command line passes on, prints, and refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import click
import pytest

from tfmpq.api.device_options import DeployOptions
from tfmpq.cli import options, training_options
from tfmpq.cli.main import VERBS, main
from tfmpq.graph.file_request import NO_FILE_WISHES
from tfmpq.graph.forms import NO_WISHES
from tfmpq.methods import METHODS, common_options
from tfmpq.methods.compress_options import CompressOptions
from tfmpq.methods.job_options import FinetuneOptions, RunOptions
from tfmpq.methods.options import KNOBS, SearchOptions
from tfmpq.options import Options
from tfmpq.progress import SilentReporter

COMMANDS = {
    "compress": "compress resnet8 --calibrate digits --out o.tflite",
    "run": "run --model resnet8 --proxy digits --target digits --out o",
    "search": "search --model resnet8 --proxy digits --out o",
    "finetune": "finetune r --target digits --out o",
    "export": "export r --tflite",
    "specialize": "specialize m.tflite --out o.tflite",
    "verify": "verify m.tflite --against r",
    "evaluate": "evaluate m.tflite --data digits",
    "sharpness": "sharpness r",
    "measure": "measure m.tflite",
    "profile": "profile --model resnet8",
    "devices": "devices",
    "deploy": "deploy r --data digits",
    "report": "report r --out o.html",
    "inspect": "inspect p.yaml",
    "probe": "probe",
}
SILENT = ("report", "inspect", "specialize")
"""Verbs that are done at once and report no progress."""

SEARCH_DEFAULTS = {
    "out": Path("o"),
    "data_dir": None,
    "weights": None,
    "budgets": (),
    "weight_bits": (2, 4, 8),
    "activation_bits": (8,),
    "method": "asga",
    "epochs": 10,
    "steps_per_epoch": None,
    "batch_size": 128,
    "learning_rate": None,
    "seed": 0,
    "optimizer": None,
    "jit": "auto",
    "float_epochs": None,
    "preprocessing": None,
    "pin": (),
    "at_least": (),
}
FINETUNE_DEFAULTS = {
    "out": Path("o"),
    "data_dir": None,
    "weights": None,
    "epochs": 10,
    "steps_per_epoch": None,
    "batch_size": 128,
    "learning_rate": None,
    "optimizer": None,
    "jit": "auto",
    "distill": True,
    "seed": 0,
    "preprocessing": None,
    "calibration_images": 1024,
    "views": 1,
}
DEFAULTS = {
    "compress": (
        ("resnet8", "digits"),
        {
            "out": Path("o.tflite"),
            "front": None,
            "budgets": (),
            "max_drop": None,
            "confidence": 0.95,
            "limit": 5000,
            "weight_bits": (2, 4, 8),
            "forms": NO_WISHES,
            "file": NO_FILE_WISHES,
            "weights": None,
            "preprocessing": None,
            "data_dir": None,
        },
    ),
    "run": (("resnet8", "digits", "digits"), SEARCH_DEFAULTS | FINETUNE_DEFAULTS),
    "search": (
        ("resnet8", "digits"),
        SEARCH_DEFAULTS
        | KNOBS
        | {"pareto": (), "target_input": None, "target_classes": None, "imitate": False}
        | {"latency_table": None, "on": None, "threads": None, "ssh_config": None},
    ),
    "finetune": (
        (Path("r"), "digits"),
        FINETUNE_DEFAULTS
        | {"reconstruct": True, "distill_weight": 0.5, "frozen_statistics_epochs": None}
        | {"precision": "float32", "method": "qat", "saq_case": None, "rho": None, "norm": "global"}
        | {"adaptive": False, "second_gradient_every": 1, "weight_decay": None}
        | {"ends": None},
    ),
    "export": (
        (Path("r"),),
        {"target": "litert", "out": None, "forms": NO_WISHES, "file": NO_FILE_WISHES, "data_dir": None},
    ),
    "verify": ((Path("m.tflite"), "r"), {"weights": None, "data": None, "data_dir": None, "limit": 1000}),
    "specialize": ((Path("m.tflite"),), {"target": "litert", "out": Path("o.tflite"), "forms": NO_WISHES}),
    "evaluate": (
        (Path("m.tflite"), "digits"),
        {"data_dir": None, "split": "test", "limit": None, "preprocessing": None},
    ),
    "sharpness": ((Path("r"),), {"radii": (0.01, 0.02, 0.05), "limit": 512, "data_dir": None}),
    "measure": (
        ((Path("m.tflite"),),),
        {
            "on": "local",
            "threads": 1,
            "runs": None,
            "affinity": None,
            "protocol": "quick",
            "python": None,
            "ssh_config": None,
            "adb": None,
            "benchmark_model": None,
            "ops": False,
            "out": None,
        },
    ),
    "profile": (
        ("resnet8",),
        {
            "on": "local",
            "input_shape": None,
            "classes": None,
            "target": "litert",
            "weight_bits": (2, 4, 8),
            "activation_bits": (8,),
            "threads": 1,
            "affinity": None,
            "repeats": 5,
            "alone": False,
            "python": None,
            "ssh_config": None,
            "adb": None,
            "benchmark_model": None,
            "out": None,
        },
    ),
    "devices": ((), {"on": (), "setup": False, "python": None, "ssh_config": None, "adb": None}),
    "deploy": (
        (Path("r"), "digits"),
        {
            "on": "local",
            "limit": 100,
            "threads": 1,
            "out": None,
            "data_dir": None,
            "python": None,
            "ssh_config": None,
            "adb": None,
            "benchmark_model": None,
        },
    ),
    "report": (((Path("r"),),), {"out": Path("o.html"), "figures": None}),
    "inspect": ((Path("p.yaml"),), {}),
    "probe": ((), {"out": None}),
}


@pytest.mark.parametrize("verb", VERBS)
def test_defaults_reach_the_function(verb, calls, tfmpq):
    assert tfmpq(COMMANDS[verb]).exit_code == 0
    call = calls[verb]
    reporter = call.kwargs.pop("progress", None) or call.kwargs.pop("reporter", None)
    assert (call.args, call.kwargs) == DEFAULTS[verb]
    assert isinstance(reporter, SilentReporter) or verb in SILENT


RECORDS: dict[str, type[Options]] = {
    "compress": CompressOptions,
    "search": SearchOptions,
    "finetune": FinetuneOptions,
    "run": RunOptions,
    "deploy": DeployOptions,
}
"""Verbs whose keyword arguments are the fields of a record."""


@pytest.mark.parametrize("verb", VERBS)
def test_the_functions_have_these_options_and_defaults(verb, signature, calls, tfmpq):
    tfmpq(COMMANDS[verb])
    call = calls[verb]
    signature.bind(*call.args, **call.kwargs)
    defaults = {name: parameter.default for name, parameter in signature.parameters.items()}
    if verb in RECORDS:
        defaults |= RECORDS[verb].defaults()
    for name, value in call.kwargs.items():
        if name not in ("out", "reporter", "progress") or value is None:
            assert defaults[name] == value


@pytest.mark.parametrize("verb", sorted(RECORDS))
def test_every_field_of_a_record_is_an_option_of_the_command_line(verb, calls, tfmpq):
    tfmpq(COMMANDS[verb])
    assert set(RECORDS[verb].specs()) <= set(calls[verb].kwargs)


def test_names_are_those_of_the_library():
    from tfmpq.data.preprocess import PREPROCESSINGS

    assert tuple(PREPROCESSINGS) == common_options.PREPROCESSINGS
    assert common_options.METHODS == METHODS


def test_the_strategies_are_those_of_the_library() -> None:
    from tfmpq.training.distribution import Strategy

    assert get_args(Strategy) == training_options.STRATEGIES


@pytest.mark.parametrize("verb", ["export", "profile", "specialize"])
def test_the_help_says_what_every_target_is(verb, tfmpq) -> None:
    from tfmpq.graph.containers import SPECIALIZED, TARGETS

    # Lines break within names, too.
    words = "".join(tfmpq(f"{verb} --help").stdout.split())
    for name in ("auto", *SPECIALIZED) if verb == "specialize" else TARGETS:
        assert f"{name}: {options.TARGETS[name]}".replace(" ", "") in words


@pytest.mark.parametrize("verb", ["search", "run"])
def test_the_help_says_of_every_method_what_kind_it_is(verb, tfmpq):
    told = " ".join(tfmpq(f"{verb} --help").stdout.split()).split("Search method: ")[1].split("[default")[0]
    assert set(re.findall(r"[a-z]+", told)) >= set(METHODS)


def test_every_option_of_search_arrives(calls, tfmpq):
    line = (
        "search --model keras.applications:ResNet50 --proxy cifar10 --data-dir r --weights none"
        " --budget size=0.5x --budget bops=3.2G --weight-bits 8,3,3 --activation-bits 4,8 --method sgd"
        " --perturb latent --learning-rate 1e-2 --epochs 0 --steps-per-epoch 7 --batch-size 32 --seed 5"
        " --float-epochs 2 --preprocess torch --target-input 224 --target-classes 1000 --imitate --out o"
        " --pin conv1=4 --pin block_*=8 --at-least logits=4 --optimizer adamw"
        " --latency-table p.yaml --on ssh:pi --threads 4 --ssh-config m.tflite"
    )
    assert tfmpq(line).exit_code == 0
    call = calls["search"]
    call.kwargs.pop("progress")
    assert call.args == ("keras.applications:ResNet50", "cifar10")
    assert call.kwargs == KNOBS | {
        "optimizer": "adamw",
        "pareto": (),
        "imitate": True,
        "out": Path("o"),
        "data_dir": Path("r"),
        "weights": "none",
        "budgets": ("size=0.5x", "bops=3.2G"),
        "weight_bits": (3, 8),
        "activation_bits": (4, 8),
        "pin": ("conv1=4", "block_*=8"),
        "at_least": ("logits=4",),
        "method": "sgd",
        "perturb": "latent",
        "epochs": 0,
        "steps_per_epoch": 7,
        "batch_size": 32,
        "learning_rate": 0.01,
        "seed": 5,
        "jit": "auto",
        "float_epochs": 2,
        "preprocessing": "torch",
        "target_input": 224,
        "target_classes": 1000,
        "latency_table": Path("p.yaml"),
        "on": "ssh:pi",
        "threads": 4,
        "ssh_config": Path("m.tflite"),
    }


def test_options_of_the_other_verbs_arrive(calls, tfmpq):
    tfmpq("finetune p.yaml --target cifar10 --model resnet20 --learning-rate 1e-3 --no-distill --out o")
    assert calls["finetune"].args == ("resnet20", Path("p.yaml"), "cifar10")
    assert calls["finetune"].kwargs["learning_rate"] == 1e-3
    assert calls["finetune"].kwargs["distill"] is False
    tfmpq(
        "finetune uniform:2/4 --target cifar10 --model resnet20 --ends same --method saq --saq-case 1"
        " --rho 0.1 --adaptive --norm layer --second-gradient-every 5 --optimizer adamw --weight-decay 0"
        " --out o"
    )
    assert calls["finetune"].args == ("resnet20", "uniform:2/4", "cifar10")
    wanted = {
        "ends": "same", "method": "saq", "saq_case": 1, "rho": 0.1, "adaptive": True, "norm": "layer",
        "second_gradient_every": 5, "optimizer": "adamw", "weight_decay": 0.0,
    }  # fmt: skip
    assert calls["finetune"].kwargs.items() >= wanted.items()
    tfmpq("export r --tflite --target storage --out x.tflite")
    assert calls["export"].kwargs["target"] == "storage"
    assert calls["export"].kwargs["out"] == Path("x.tflite")
    tfmpq("evaluate r --data npz:x.npz --split train --limit 3")
    assert calls["evaluate"].kwargs["split"] == "train"
    assert calls["evaluate"].kwargs["limit"] == 3
    tfmpq(
        "measure m.tflite p.yaml --threads 4 --runs 9 --out t.json --on ssh:pi --affinity 0,1"
        " --protocol mlperf-like --python py --ssh-config p.yaml --ops"
    )
    assert calls["measure"].args == ((Path("m.tflite"), Path("p.yaml")),)
    assert calls["measure"].kwargs["on"] == "ssh:pi"
    assert calls["measure"].kwargs["affinity"] == "0,1"
    assert calls["measure"].kwargs["protocol"] == "mlperf-like"
    assert calls["measure"].kwargs["python"] == "py"
    assert calls["measure"].kwargs["ssh_config"] == Path("p.yaml")
    assert calls["measure"].kwargs["threads"] == 4
    assert calls["measure"].kwargs["ops"] is True
    assert calls["measure"].kwargs["runs"] == 9
    assert calls["measure"].kwargs["out"] == Path("t.json")


@pytest.mark.parametrize(("text", "shape"), [("224", (224, 224, 3)), ("28x20x1", (28, 20, 1))])
def test_the_size_of_a_profile_is_a_side_or_a_shape(calls, tfmpq, text, shape):
    assert tfmpq(f"profile --model resnet8 --input {text} --classes 10").exit_code == 0
    assert calls["profile"].kwargs["input_shape"] == shape


@pytest.mark.parametrize("text", ["0", "28x28", "a", "28x28x0", "-3"])
def test_another_size_is_refused(calls, tfmpq, text):
    result = tfmpq(f"profile --model resnet8 --input {text} --classes 10")
    assert (result.exit_code, calls["profile"].args) == (2, ())


def test_every_option_of_sharpness_arrives(calls, tfmpq):
    tfmpq("sharpness r --radii 0.1,0.2 --limit 7 --data-dir r")
    calls["sharpness"].kwargs.pop("progress")
    assert calls["sharpness"].kwargs == {"radii": (0.1, 0.2), "limit": 7, "data_dir": Path("r")}


def test_data_dir_is_read_from_the_environment(calls, tfmpq, monkeypatch):
    monkeypatch.setenv("TFMPQ_DATA_DIR", "r")
    tfmpq(COMMANDS["search"])
    assert calls["search"].kwargs["data_dir"] == Path("r")


@pytest.mark.parametrize("verb", VERBS)
def test_json_is_all_that_stdout_gets(verb, calls, tfmpq):
    calls[verb].result = {"top1": 0.5, "loss": float("nan"), "bits": {"conv1": 8}}
    calls[verb].prints = None if verb in SILENT else "chatter"
    result = tfmpq(COMMANDS[verb] + " --json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"top1": 0.5, "loss": None, "bits": {"conv1": 8}}
    assert result.stderr.count("chatter") == (0 if verb in SILENT else 2)


def test_code_below_python_cannot_write_to_stdout_either():
    script = (
        "import os, sys, types; from tfmpq.cli.main import main\n"
        "def inspect(path):\n"
        "    os.write(1, b'from C++')\n"
        "    return types.SimpleNamespace(to_json=lambda: {'a': 1})\n"
        "sys.modules['tfmpq.api.inspect'] = types.SimpleNamespace(inspect=inspect)\n"
        "main(['inspect', '.', '--json'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"a": 1}
    assert "from C++" in done.stderr


def test_what_libraries_say_while_loading_is_shown_only_if_they_fail():
    script = (
        "import os; from tfmpq.cli.environment import hushed_stderr\n"
        "with hushed_stderr(): os.write(2, b'one')\n"
        "os.write(2, b'two')\n"
        "try:\n"
        "    with hushed_stderr(): os.write(2, b'three'); 1 / 0\n"
        "except ZeroDivisionError: pass"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "twothree"


@pytest.mark.parametrize("verb", VERBS)
def test_help_ends_with_an_example(verb, tfmpq):
    result = tfmpq(f"{verb} --help")
    assert result.exit_code == 0
    example = result.stdout[result.stdout.index("Example:") :]
    assert f"tfmpq {verb} " in example
    assert "Options:" not in example


@pytest.mark.parametrize("verb", VERBS)
def test_the_example_of_the_help_is_a_valid_call(verb, calls, tfmpq, tmp_path):
    text = tfmpq(f"{verb} --help").stdout.split("Example:")[1].replace("\\\n", " ")
    line = text.split("tfmpq ", 1)[1]
    named = Path(line.split()[1])
    if verb in ("sharpness", "export"):
        named.mkdir(parents=True)
    elif not line.split()[1].startswith("-"):
        named.parent.mkdir(parents=True, exist_ok=True)
        named.touch()
    result = tfmpq(line)
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_speaks_of_options_that_the_verb_has(verb):
    command = main.get_command(click.Context(main), verb)
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    texts = [parameter.help or "" for parameter in command.params if isinstance(parameter, click.Option)]
    for text in (command.help, *texts):
        # What another verb does is said in quotes, with its name.
        told = re.sub(r"'tfmpq [^']*'", "", text)
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", told)) - {"--json"} <= known


def test_help_and_version_import_nothing_heavy():
    script = (
        "import sys; from tfmpq.cli.main import main\n"
        "for line in (['--help'], ['--version'], ['search', '--help']):\n"
        "    try: main(line)\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "heavy = {'numpy', 'keras', 'tensorflow', 'pydantic', 'rich', 'scipy', 'sklearn', 'yaml'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    for verb in VERBS:
        assert f"  {verb} " in done.stdout


def test_no_command_shows_the_help(tfmpq):
    result = tfmpq("")
    assert result.exit_code == 0
    assert result.stdout == tfmpq("--help").stdout


@pytest.mark.parametrize(
    ("line", "received"),
    [
        ("serch", "serch"),
        ("search --proxy digits --out o", "--model"),
        (COMMANDS["search"] + " --epochs -1", "-1"),
        (COMMANDS["search"] + " --batch-size 0", "0"),
        (COMMANDS["search"] + " --weight-bits 1,4", "1,4"),
        (COMMANDS["search"] + " --weight-bits 4,9", "4,9"),
        (COMMANDS["search"] + " --weight-bits four", "four"),
        (COMMANDS["search"] + " --weight-bits ,", ","),
        (COMMANDS["search"] + " --data-dir absent", "absent"),
        (COMMANDS["finetune"] + " --learning-rate nan", "nan"),
        (COMMANDS["finetune"] + " --learning-rate 0", "0"),
        ("finetune absent --target digits --out o", "absent"),
        ("export r", "--tflite"),
        ("export r --tflite --target tpu", "tpu"),
        ("export r --tflite --out r", "'r'"),
        ("specialize m.tflite --target storage --out o.tflite", "storage"),
        ("specialize m.tflite --out r", "'r'"),
        (COMMANDS["evaluate"] + " --limit 0", "0"),
        ("sharpness r --radii 0.1,-1", "0.1,-1"),
        ("sharpness r --radii nan", "nan"),
        ("sharpness m.tflite", "m.tflite"),
        ("measure r", "r"),
        ("measure m.tflite --threads 0", "0"),
        ("measure m.tflite --affinity 0-1", "0-1"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(line, received, calls, tfmpq):
    result = tfmpq(line)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: ")
    assert received in result.stderr
