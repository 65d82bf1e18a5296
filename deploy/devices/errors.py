"""What can go wrong between this machine and a device, each with a class, a rule and what to do."""

from __future__ import annotations

from typing import ClassVar

from tfmpq.errors import TfmpqError, UsageError


class DeviceError(TfmpqError):
    """Something failed on a device or on the way to it.

    Args:
        target: The device, as `--on` names it.
        said: What the client, or the program on the device, said about it.

    Attributes:
        kind: Name of the failure for programs.
        target: The device.
        left_behind: Work folder on the device that could not be removed.
    """

    kind: ClassVar[str] = "device"
    rule: ClassVar[str] = "The device has to do its part"
    advice: ClassVar[str] = "Look at the device"

    def __init__(self, target: str, said: str) -> None:
        self.target, self.left_behind = target, ""
        said = " ".join(said.split())[:500].rstrip(". ") or "no message"
        host = target.partition(":")[2]
        advice = self.advice.format(target=target, host=host.partition("@")[2] or host, address=host)
        super().__init__(f"{self.rule}. Received: {target}: {said}. {advice}.")

    def __str__(self) -> str:
        left = f" Its work folder {self.left_behind} could not be removed." if self.left_behind else ""
        return super().__str__() + left


class ClientMissing(DeviceError):
    """The ssh or adb client is not installed here."""

    kind = "client_missing"
    rule = "Devices are reached through the ssh, scp or adb of this machine"
    advice = "Install openssh-client (for ssh:) or adb (for adb), or name it with --adb"


class Unreachable(DeviceError):
    """Nothing answers at the address."""

    kind = "unreachable"
    rule = "The device has to be reachable"
    advice = "Check that it is on, its name or address, and that it accepts ssh"


class HostKeyUnknown(DeviceError):
    """Nobody has confirmed yet that this is the right machine."""

    kind = "host_key_unknown"
    rule = "The device's host key has to be known"
    advice = "Run 'ssh {address}' once by hand and confirm the key"


class HostKeyChanged(DeviceError):
    """The machine at the address is another one than before, or was installed anew."""

    kind = "host_key_changed"
    rule = "The device's host key has to be the known one"
    advice = "Only if the device was installed anew, run 'ssh-keygen -R {host}' and 'ssh {address}' by hand"


class AuthFailed(DeviceError):
    """The device refuses the login."""

    kind = "auth_failed"
    rule = "The login has to work without a password"
    advice = "Run 'ssh-copy-id {address}', or load the key into the agent with ssh-add"


class NoDevice(DeviceError):
    """No device, or none of that serial number."""

    kind = "no_device"
    rule = "A device has to be attached"
    advice = "Plug it in with USB debugging on, or 'adb connect' to it, and check 'adb devices -l'"


class AmbiguousDevice(DeviceError, UsageError):
    """Several devices, and none was named."""

    kind = "ambiguous_device"
    rule = "One device is used"
    advice = "Name it: --on adb:SERIAL"


class Unauthorized(DeviceError):
    """The phone has not allowed this computer."""

    kind = "unauthorized"
    rule = "The phone has to allow USB debugging from this computer"
    advice = "Unlock it and confirm the question on its screen, then run the command again"


class Offline(DeviceError):
    """Adb sees the device, but it does not answer."""

    kind = "offline"
    rule = "The device has to answer to adb"
    advice = "Plug it in again, or run 'adb reconnect offline'"


class AdbServerUnreachable(DeviceError):
    """The adb client finds no server and cannot start one."""

    kind = "adb_server_unreachable"
    rule = "The adb server has to answer"
    advice = "Run 'adb start-server', and check ADB_SERVER_SOCKET if it is set"


class LinkLost(DeviceError):
    """The connection broke while something ran."""

    kind = "link_lost"
    rule = "The connection has to last as long as the work"
    advice = "Check cable, network and power, then run the command again"


class TimedOut(DeviceError):
    """The device took longer than the work can take."""

    kind = "timed_out"
    rule = "The work on the device has to end in time"
    advice = "Look what the device is busy with, then run the command again"


class NoSpace(DeviceError):
    """The device is full."""

    kind = "no_space"
    rule = "The device has to have room for the files"
    advice = "Free some space there, or set TMPDIR there to a larger place"


class CopyFailed(DeviceError):
    """A file did not arrive, or not as it was."""

    kind = "copy_failed"
    rule = "Files have to arrive as they are"
    advice = "Run the command again; if it fails again, check the storage of the device"


class NoPython(DeviceError):
    """No Python on the device."""

    kind = "no_python"
    rule = "The device has to have Python 3.7 or newer"
    advice = "Run 'sudo apt-get install python3' there, or name one with --python"


class NoNumpy(DeviceError):
    """Python there has no NumPy."""

    kind = "no_numpy"
    rule = "Python on the device has to have numpy"
    advice = "Run 'pip install numpy ai-edge-litert' there, or here 'tfmpq devices --on {target} --setup'"


class NoRuntime(DeviceError):
    """Python there has no LiteRT."""

    kind = "no_runtime"
    rule = "Python on the device has to have ai-edge-litert or tflite-runtime"
    advice = (
        "Run 'python3 -m pip install ai-edge-litert' there, or here 'tfmpq devices --on {target} --setup'"
    )


class WrongArchitecture(DeviceError):
    """What is installed there is for another processor."""

    kind = "wrong_architecture"
    rule = "Packages on the device have to be those for its processor"
    advice = "Run 'python3 -m pip install --force-reinstall numpy ai-edge-litert' there"


class NoPip(DeviceError):
    """No way to install packages on the device."""

    kind = "no_pip"
    rule = "Setting the device up needs pip and venv there"
    advice = "Run 'sudo apt-get install python3-pip python3-venv' there"


class SetupFailed(DeviceError):
    """Packages could not be installed on the device."""

    kind = "setup_failed"
    rule = "The packages have to be installable on the device"
    advice = "Check its internet access and its Python version, or install them by hand"


class ModelInvalid(DeviceError):
    """The runtime refuses the file."""

    kind = "model_invalid"
    rule = "The runtime has to execute the file"
    advice = "Run tfmpq inspect on the file, or export it again"


class InvokeFailed(ModelInvalid):
    """The runtime accepts the file and fails to run it."""

    kind = "invoke_failed"


class Crashed(ModelInvalid):
    """The program on the device was ended by a signal, or ended without a word."""

    kind = "crashed"


class OutputsDiffer(DeviceError):
    """The device classifies images otherwise than this machine."""

    kind = "outputs_differ"
    rule = "Images have to get the same class on the device and here, but for rounding"
    advice = "Update the runtime there, and measure that device only after its outputs agree"


class BadAffinity(DeviceError, UsageError):
    """There are no such CPUs."""

    kind = "bad_affinity"
    rule = "--affinity names CPUs of the device"
    advice = "Name others, for example --affinity 0,1"


class WrongBinary(DeviceError):
    """benchmark_model does not start on the device."""

    kind = "wrong_architecture"
    rule = "benchmark_model has to be one for the device's processor"
    advice = "Download the one for it (android_aarch64 or android_arm) and name it with --benchmark-model"


class BenchmarkModelMissing(DeviceError):
    """On Android, nothing is there to measure with."""

    kind = "benchmark_model_missing"
    rule = "Measuring on Android needs LiteRT's benchmark_model"
    advice = (
        "Download https://storage.googleapis.com/tensorflow-nightly-public/prod/tensorflow/release/lite/tools/"
        "nightly/latest/android_aarch64_benchmark_model and name it with --benchmark-model"
    )


RUNNER_ERRORS: dict[str, type[DeviceError]] = {
    error.kind: error
    for error in (NoNumpy, NoRuntime, WrongArchitecture, ModelInvalid, InvokeFailed, BadAffinity)
}
"""By the kind that `deploy/devices/pushed_runner.py` reports."""
