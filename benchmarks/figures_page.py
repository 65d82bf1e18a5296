"""docs/networks.md from docs/networks.json; used by figures_networks.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

FORMS = ("float32", "int8", "mixed", "4 bits", "4 bits, size", "2 bits", "2 bits, size")
QUANTIZED = FORMS[1:]
STORED = ("mixed", "4 bits", "2 bits")
PEER = "INT4 of ai-edge-quantizer"
MOST_LATENCY, MOST_BYTES = 1.05, 0.58
"""Goals: latency of `mixed` over int8; bytes of MobileNetV2 at 4 bits over int8."""

PACKED_BYTES = {"4 bits": 0.56, "2 bits": 0.33}
PACKED_LATENCY = {"resnet8": 1.05, "resnet20": 1.0, "resnet18": 1.0, "resnet50": 1.0, "vgg16": 1.0}
"""Goals of the balanced files: bytes and latency over int8."""

_HEAD = """\
# Six reference networks: bytes, latency, memory, export time

Written by `python benchmarks/figures_networks.py`, which says how; numbers in [networks.json](networks.json).

Weights are random, because none of these figures depends on what the weights are; accuracies are in
[results](results/README.md). All files are in the `litert` form but where `storage` is said. **int8** has
8 bits in all layers, **4 bits** and **2 bits** likewise; **mixed** is a random policy of at most half the
size of int8 (`--method random --budget size=0.5x`), so it says what the runtime does with mixed widths and
nothing about a search. These are what `--prefer balanced` chooses on this machine, which packs a convolution
where it costs at most 1.05 of the time that int8 takes; **size** is `--prefer size`. The last column is what
ai-edge-quantizer makes of the float32 file with 4 bits in CONV_2D and FULLY_CONNECTED, which LiteRT runs in
its own kernels.
"""


def page(found: dict[str, Any], lacking: Sequence[str]) -> str:
    """The tables as Markdown, and which networks were not measured yet."""
    parts = [
        _HEAD,
        *_circumstances(found),
        *(f"- {name}: not measured yet." for name in lacking),
        "\n## Bytes\n",
        *_bytes(found),
    ]
    for threads in ("1", "2"):
        parts += [
            f"\n## Latency, {threads} thread{'' if threads == '1' else 's'}\n",
            *_latency(found, threads),
        ]
    parts += [
        "\n## Memory\n",
        *_memory(found),
        "\n## Export\n",
        *_export(found),
        "\n## Goals\n",
        *_goals(found),
    ]
    return "\n".join(parts) + "\n"


def _circumstances(found: dict[str, Any]) -> list[str]:
    """One line for each day, machine and load."""
    lines: dict[str, list[str]] = {}
    for name, network in found.items():
        c = network["circumstances"]
        versions = ", ".join(f"{package} {number}" for package, number in c["versions"].items())
        busy = ""
        if c["load_5_minutes"] > 0.75 * c["cores"]:
            busy = f" **The machine was shared: load {c['load_5_minutes']}.**"
        text = (
            f"{c['date']}, commit {c['commit']}, {c['processor']}, {c['cores']} cores; {versions}; "
            f"kernels of {c['kernels']}; {c['processes']} processes "
            f"a file, {c['runs']} timed runs or more in each.{busy}"
        )
        lines.setdefault(text, []).append(name)
    return [f"- {', '.join(names)}: {text}" for text, names in lines.items()]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    line = [f"| {' | '.join(header)} |", f"|---{'|---:' * (len(header) - 1)}|"]
    return line + [f"| {' | '.join(row)} |" for row in rows]


def _each(
    found: dict[str, Any], forms: Sequence[str], cell: Callable[[dict[str, Any], str], str]
) -> list[list[str]]:
    return [[name, *(cell(network, form) for form in forms)] for name, network in found.items()]


def _bytes(found: dict[str, Any]) -> list[str]:
    def cell(network: dict[str, Any], form: str) -> str:
        size, base = network["forms"][form]["bytes"], network["forms"]["int8"]["bytes"]
        return f"{size:,}" if form == "int8" else f"{size:,} ({size / base:.3f})"

    def stored(network: dict[str, Any], form: str) -> str:
        size, base = network["forms"][form]["storage_bytes"], network["forms"]["int8"]["storage_bytes"]
        return f"{size:,} ({size / base:.3f})"

    storage = _each(found, STORED, stored)
    return [
        "Of the file; in brackets over int8.\n",
        *_table(["", *FORMS, PEER], _each(found, (*FORMS, PEER), cell)),
        "\nConvolutions that are unfolded into packed products:\n",
        *_table(["", *QUANTIZED[1:]], _each(found, QUANTIZED[1:], _unfolded)),
        "\nThe storage form, from which `tfmpq specialize` makes the others:\n",
        *_table(["", *STORED], storage),
    ]


def _unfolded(network: dict[str, Any], form: str) -> str:
    return str(network["forms"][form]["unfolded"])


def _latency(found: dict[str, Any], threads: str) -> list[str]:
    def cell(network: dict[str, Any], form: str) -> str:
        row = network["latency"][threads][form]
        if form == "int8":
            return f"{row['p10_ms']:.3g} ms"
        return f"{row['ratio']:.2f} ({row['lowest']:.2f} to {row['highest']:.2f})"

    forms = ("int8", *(form for form in (*FORMS, PEER) if form != "int8"))
    return [
        "10th percentile of the time of one image, which other load on the machine moves least; int8 in ms, "
        "the others as ratios to int8, measured in alternation with it: median over the processes (smallest "
        "to largest).\n",
        *_table(["", *forms], _each(found, forms, cell)),
    ]


def _memory(found: dict[str, Any]) -> list[str]:
    def cell(network: dict[str, Any], form: str) -> str:
        used = network["forms"][form]["memory"]
        return f"{used['resident_kb'] / 1024:.1f} / {used['peak_kb'] / 1024:.1f}"

    return [
        "MiB that a fresh process has more than before it opened the file: resident after three inferences / "
        "at most. One thread. The file is mapped, not read, so pages of it that were used count as well.\n",
        *_table(["", *FORMS], _each(found, FORMS, cell)),
    ]


def _export(found: dict[str, Any]) -> list[str]:
    def cell(network: dict[str, Any], form: str) -> str:
        return f"{network['forms'][form]['export_seconds']:.1f}"

    rows = _each(found, QUANTIZED, cell)
    for row, network in zip(rows, found.values(), strict=True):
        row.append(f"{network['forms']['mixed']['proved_export_seconds']:.1f}")
    return [
        "Seconds from integers to a `litert` file; the last column is `mixed` with its proof on one image, "
        "which every one of these files passed.\n",
        *_table(["", *QUANTIZED, "mixed, proved"], rows),
    ]


def _goals(found: dict[str, Any]) -> list[str]:
    lines = []
    for threads in ("1", "2"):
        rows = {name: network["latency"][threads]["mixed"] for name, network in found.items()}
        slow = [f"{name} {row['ratio']:.2f}" for name, row in rows.items() if row["ratio"] > MOST_LATENCY]
        verdict = "missed by " + ", ".join(slow) if slow else "met by all"
        count = "1 thread" if threads == "1" else f"{threads} threads"
        lines.append(f"- `mixed` takes at most {MOST_LATENCY} of the time of int8, {count}: **{verdict}**.")
    for name, most in PACKED_LATENCY.items():
        lines += _packed_goals(found[name], name, most) if name in found else []
    if "mobilenet_v2" in found:
        network = found["mobilenet_v2"]
        share = network["forms"]["4 bits"]["bytes"] / network["forms"]["int8"]["bytes"]
        row = network["latency"]["1"]["4 bits"]
        lines.append(
            f"- mobilenet_v2 at 4 bits has at most {MOST_BYTES} of the bytes of int8 at the same latency: "
            f"**{share:.3f} of the bytes, {row['ratio']:.2f} ({row['lowest']:.2f} to {row['highest']:.2f}) "
            "of the time**."
        )
    return lines


def _packed_goals(network: dict[str, Any], name: str, most: float) -> list[str]:
    lines = []
    for form, bytes_goal in PACKED_BYTES.items():
        share = network["forms"][form]["bytes"] / network["forms"]["int8"]["bytes"]
        times = [network["latency"][threads][form]["ratio"] for threads in ("1", "2")]
        met = share <= bytes_goal and (form != "4 bits" or max(times) <= most)
        told = f"{share:.3f} of the bytes, {times[0]:.2f} and {times[1]:.2f} of the time at 1 and 2 threads"
        lines.append(
            f"- {name} at {form}: at most {bytes_goal} of the bytes of int8, at most {most} of its time: "
            f"**{'met' if met else 'missed'}: {told}**."
        )
    return lines
