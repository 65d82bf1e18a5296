"""The errors a user may see: the rule, what was received, what to do next."""

from __future__ import annotations


class TfmpqError(Exception):
    """Something failed that the user has to know about; the command line exits with 1.

    The message is one line: the rule that was broken, what was received, and what to do.
    """

    exit_code = 1


class UsageError(TfmpqError, ValueError):
    """The call itself is off (unknown name, value out of range, ...); the command line exits with 2."""

    exit_code = 2
