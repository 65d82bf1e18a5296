"""What an Android device is and how it is: read from its shell, changed never."""

from __future__ import annotations

import re
from typing import Any

from tfmpq.deploy.devices.transports.remote import CONTROL_SECONDS, RemoteTransport

_DEVICE = """getprop
echo TFMPQ_MACHINE=$(uname -m)
echo TFMPQ_KERNEL=$(uname -r)
echo TFMPQ_CORES=$(nproc)
grep MemTotal /proc/meminfo
grep -m 1 -E '^(Features|flags)' /proc/cpuinfo"""

# Unrooted phones often refuse the thermal files, but answer dumpsys.
_STATE = """for p in /sys/devices/system/cpu/cpufreq/policy*; do
  [ -e $p ] || continue
  for f in scaling_governor scaling_cur_freq scaling_max_freq cpuinfo_max_freq; do
    echo "TFMPQ_CPU ${p##*/} $f $(cat $p/$f 2>/dev/null)"
  done
done
for z in /sys/class/thermal/thermal_zone*; do
  [ -e $z ] && echo "TFMPQ_ZONE ${z##*/}:$(cat $z/type 2>/dev/null) $(cat $z/temp 2>/dev/null)"
done
echo "TFMPQ_LOAD $(cat /proc/loadavg 2>/dev/null)"
dumpsys thermalservice 2>/dev/null | grep 'Thermal Status'
dumpsys battery 2>/dev/null | grep temperature"""


def device_facts(device: RemoteTransport) -> dict[str, Any]:
    """What the device is, with the same keys as for Linux where there are such facts."""
    return parse_device(device.script(_DEVICE, CONTROL_SECONDS).stdout)


def device_state(device: RemoteTransport) -> dict[str, Any]:
    """Governor, clocks, temperatures, load and thermal status as they are now."""
    return parse_state(device.script(_STATE, CONTROL_SECONDS).stdout)


def parse_device(text: str) -> dict[str, Any]:
    """Read the answer to the questions about the device."""
    properties = dict(re.findall(r"^\[(.+?)\]: \[(.*)\]\s*$", text, re.MULTILINE))
    said = dict(re.findall(r"^TFMPQ_(\w+)=(.*?)\s*$", text, re.MULTILINE))
    memory = re.search(r"MemTotal:\s*(\d+)", text)
    features = re.search(r"^(?:Features|flags)\s*:\s*(.*?)\s*$", text, re.MULTILINE)
    maker, model = properties.get("ro.product.manufacturer"), properties.get("ro.product.model")
    hardware = properties.get("ro.soc.model") or properties.get("ro.hardware")
    release = properties.get("ro.build.version.release")
    return {
        "machine": said.get("MACHINE"),
        "cpu": hardware,
        "board": " ".join(part for part in (maker, model, properties.get("ro.hardware")) if part) or None,
        "features": features[1] if features else None,
        "abi": properties.get("ro.product.cpu.abi"),
        "cores": int(said["CORES"]) if said.get("CORES", "").isdigit() else None,
        "os": f"Android {release} (API {properties.get('ro.build.version.sdk')})" if release else None,
        "kernel": said.get("KERNEL"),
        "memory_kb": int(memory[1]) if memory else None,
    }


def parse_state(text: str) -> dict[str, Any]:
    """Read the answer to the questions about the state."""
    policies: dict[str, dict[str, str | None]] = {}
    for policy, name, value in re.findall(r"^TFMPQ_CPU (\S+) (\S+) ?(.*?)\s*$", text, re.MULTILINE):
        policies.setdefault(policy, {})[name] = value or None
    zones = re.findall(r"^TFMPQ_ZONE (.+) (-?\d+)\s*$", text, re.MULTILINE)
    celsius = {name: int(value) / 1000 for name, value in zones}
    if battery := re.search(r"temperature: (\d+)", text):
        celsius["battery"] = int(battery[1]) / 10
    load = re.search(r"^TFMPQ_LOAD ([\d.]+)", text, re.MULTILINE)
    status = re.search(r"Thermal Status: (\d+)", text)
    return {
        "cpufreq": policies,
        "celsius": celsius,
        "load_1min": float(load[1]) if load else None,
        "throttled": None,
        "thermal_status": int(status[1]) if status else None,
    }
