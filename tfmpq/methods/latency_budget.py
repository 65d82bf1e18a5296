"""A latency table in a search: read, held against the network and the device, and made part of the costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfmpq.errors import UsageError
from tfmpq.graph.network import Network
from tfmpq.methods.options import SearchOptions
from tfmpq.policy.cost import CostModel
from tfmpq.policy.latency_table import LatencyTable, check_device, check_network, load_table
from tfmpq.progress import Reporter
from tfmpq.provenance import fingerprint

Present = Callable[[str, str | Path | None], tuple[dict[str, Any] | None, dict[str, Any]]]
"""From a device (`local`, `ssh:HOST`, `adb[:SERIAL]`) and an ssh configuration to its runtime and facts."""


def with_latency(
    costs: CostModel,
    network: Network,
    model: str,
    classes: int,
    options: SearchOptions,
    present: Present,
    reporter: Reporter,
) -> CostModel:
    """The costs of a network with the times of the table that the options name, if any.

    Args:
        costs: Counts of the network as it will be deployed.
        network: Its fused nodes.
        model: Its name.
        classes: Its number of logits.
        options: Name the table, the device and the threads that the latency is for.
        present: Tells runtime and facts of a device (`tfmpq.deploy.devices.facts.present`).
        reporter: Told what the latency is that of.

    Raises:
        UsageError: The table is none, or one of another network, size, device, runtime or number of threads;
            there is a device without a table; or a budget of latency with a table that cannot tell widths
            apart.
        DeviceError: The device cannot be reached.
    """
    if options.latency_table is None:
        if options.on is not None or options.threads is not None:
            raise UsageError(
                "A device is named for a latency. Received: --on or --threads without --latency-table. Give "
                "the file of tfmpq profile, or leave them out."
            )
        return costs
    table = load_table(options.latency_table)
    check_network(table, model, network.input_shape, classes, costs)
    _check_resolution(table, options, reporter)
    _check_device(table, options, present, reporter)
    device = table.device.get("board") or table.device.get("cpu") or table.device.get("machine")
    runtime = " ".join(str(part) for part in (table.runtime["name"], table.runtime["version"]) if part)
    reporter.log(
        f"Latency is that of the {table.form} form on {device}, {runtime}, {table.threads} thread(s), "
        f"measured {table.created[:10]}."
    )
    return replace(costs, latency=table.costs())


def _check_resolution(table: LatencyTable, options: SearchOptions, reporter: Reporter) -> None:
    """Refuse a budget that the table cannot answer; without one, say what its predictions are worth."""
    if not table.too_short:
        return
    if any(text.partition("=")[0].strip() == "latency" for text in options.budgets):
        raise UsageError(
            "A budget of latency needs a table that tells widths apart. Received: "
            f"{options.latency_table}, where most layers take less than 1 us, which its profiler cannot "
            "time. Run tfmpq profile with --alone, or leave the budget out."
        )
    reporter.log("Most layers are too short for the latency table: it cannot tell their widths apart.")


def _check_device(table: LatencyTable, options: SearchOptions, present: Present, reporter: Reporter) -> None:
    """Ask the device that is named, and this machine for a table that was measured without a way to one."""
    kind, address = table.target.get("kind"), table.target.get("address")
    on = options.on or ("local" if kind == "local" else None)
    if on is None:
        reporter.log(
            f"The latency table is that of {kind}:{address}; with --on its processor and runtime are asked."
        )
        return check_device(table, threads=options.threads)
    runtime, device = present(on, options.ssh_config)
    return check_device(table, runtime=runtime, device=device, threads=options.threads)


def latency_record(options: SearchOptions) -> dict[str, Any]:
    """What of the latency decides the result of a search; nothing without a table."""
    if options.latency_table is None:
        return {}
    return {"latency_table": fingerprint(str(options.latency_table))}


def latencies(
    costs: CostModel, weight_bits: Mapping[str, int], activation_bits: Mapping[str, int]
) -> dict[str, float]:
    """Predicted milliseconds of the uniform 8-bit network and of a policy; empty without a table."""
    if costs.latency is None:
        return {}
    policy = costs.value("latency", weight_bits, activation_bits)
    return {"int8": costs.reference("latency"), "policy": policy}
