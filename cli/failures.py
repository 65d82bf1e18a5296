"""From an exception to the one line and the exit code that the user gets."""

from __future__ import annotations

import errno

import click

from tfmpq.errors import TfmpqError

FAILURE = 1
USAGE = 2
INTERRUPTED = 130
"""128 + SIGINT, as shells count it."""
TERMINATED = 143
"""128 + SIGTERM."""


def describe(error: BaseException) -> tuple[str, int]:
    """Say in one line what went wrong.

    Args:
        error: Whatever a command raised.

    Returns:
        The line and the exit code: 2 for a wrong call, 1 for a failure, 130 after Ctrl-C.
    """
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "Interrupted. Run the same command again to go on.", INTERRUPTED
    text, code = _explain(error)
    line = "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))
    return f"Error: {line}", code


def _explain(error: BaseException) -> tuple[str, int]:
    if isinstance(error, TfmpqError):
        return str(error), error.exit_code
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "tfmpq"
        return f"{error.format_message().rstrip('.')}. See '{path} --help'.", error.exit_code
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    if isinstance(error, OSError) and (explained := _explain_os(error)):
        return explained, FAILURE
    if isinstance(error, MemoryError):
        return "The work must fit into memory. Received: MemoryError. Choose a smaller --batch-size.", FAILURE
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return (
            f"A command needs its packages. Received: an environment without {package}. "
            f"Run: pip install {_PACKAGES.get(package, package)}",
            FAILURE,
        )
    what = f"{type(error).__name__}: {str(error) or 'no message'}"
    return (
        f"Internal error: {what}. Please report it with the command that you ran; "
        "set TFMPQ_TRACEBACK=1 to see where it happened.",
        FAILURE,
    )


# Where the name to install differs from the name to import.
_PACKAGES = {
    "PIL": "pillow",
    "ai_edge_litert": "ai-edge-litert",
    "sklearn": "scikit-learn",
    "tensorflow_datasets": "tensorflow-datasets",
    "yaml": "PyYAML",
}
_ROOM = ("The disk must have room for results", "Free some space and run the same command again")
_ACCESS = ("Files must be accessible to this user", "Change the permissions or name another path")
_OS_RULES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: ("A result must fit into the limit of file sizes", "Raise the limit (ulimit -f)"),
    errno.EACCES: _ACCESS,
    errno.EPERM: _ACCESS,
    errno.EROFS: ("Results need a writable file system", "Name another path"),
    errno.ENOENT: ("A file that is read must exist", "Check the path"),
    errno.EISDIR: ("A file is needed here, not a folder", "Check the path"),
    errno.ENOTDIR: ("A folder is needed here, not a file", "Check the path"),
    errno.EEXIST: ("A result must not collide with an existing file", "Name another path"),
}


def _explain_os(error: OSError) -> str | None:
    if error.errno is None or error.errno not in _OS_RULES:
        return None
    rule, advice = _OS_RULES[error.errno]
    path = error.filename2 or error.filename
    received = f"{error.strerror}: {path}" if path else f"{error.strerror}"
    return f"{rule}. Received: {received}. {advice}."
