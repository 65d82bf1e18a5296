"""The `tfmpq` command: a group that imports a verb only when it is asked for.

Nothing heavy is imported here or at the head of a verb's file, so that `tfmpq --help` answers at once. Every
failure, a wrong call included, leaves as one line on stderr and an exit code (see `failures`).
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import traceback
from types import FrameType
from typing import Any, NoReturn

import click

from .failures import TERMINATED, describe

VERBS = (
    "compress",
    "run",
    "search",
    "finetune",
    "export",
    "specialize",
    "verify",
    "evaluate",
    "sharpness",
    "measure",
    "profile",
    "devices",
    "deploy",
    "report",
    "inspect",
    "probe",
)


class VerbGroup(click.Group):
    """Finds each verb as the command of the same name in the module of the same name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order of the work."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb; None for an unknown one."""
        if cmd_name not in VERBS:
            return None
        return getattr(importlib.import_module(f".{cmd_name}", __package__), cmd_name)

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command line and leave the process with the exit code that `describe` gives."""
        extra["standalone_mode"] = False
        termination = _Termination()
        try:
            with termination:
                code = super().main(*args, **extra)
        except (Exception, KeyboardInterrupt) as error:
            line, code = describe(error)
            code = TERMINATED if termination.came else code
            if os.environ.get("TFMPQ_TRACEBACK"):
                traceback.print_exc()
            click.echo(line, err=True)
        sys.exit(code if isinstance(code, int) else 0)


class _Termination:
    """Treats SIGTERM as Ctrl-C: a scheduler sends it before it takes a machine away.

    Attributes:
        came: Whether it came.
    """

    came = False

    def __enter__(self) -> None:
        # Python handles signals in its main thread only.
        self._in_main = threading.current_thread() is threading.main_thread()
        if self._in_main:
            self._previous = signal.signal(signal.SIGTERM, self._interrupt)

    def __exit__(self, *error: object) -> None:
        if self._in_main and self._previous is not None:  # None: what a C library had set
            signal.signal(signal.SIGTERM, self._previous)

    def _interrupt(self, number: int, frame: FrameType | None) -> NoReturn:
        self.came = True
        raise KeyboardInterrupt


@click.group(
    cls=VerbGroup,
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExample:\n  tfmpq compress flowers.keras --calibrate folder:photos --out flowers.tflite",
)
@click.version_option(package_name="tfmpq", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Take a Keras image classifier to a phone or Raspberry Pi at mixed precision.

    The bit-widths of every layer are searched on a small proxy data set under a budget, fine-tuned on the
    target data set, written as a packed .tflite, proved equal to what was trained, and measured.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


if __name__ == "__main__":
    main(prog_name="tfmpq")
