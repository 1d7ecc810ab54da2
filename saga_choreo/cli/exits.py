"""How a command ends: exit codes, and errors as people and programs see them.

The table of exit codes is documented, so it never changes; a test covers each row. An error's code (`SAGA-E0301`) starts
with the exit code it leads to, so that the one can be guessed from the other. Imports nothing heavy: `--help` comes here.
"""

from __future__ import annotations

import json
from enum import IntEnum
from typing import Any

from saga_choreo import errors

__all__ = ["CliError", "ExitCode", "as_json", "as_text", "describe"]


class ExitCode(IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2
    CONFIGURATION = 3
    UNREACHABLE = 4
    NOT_FOUND = 5
    FINDINGS = 6
    PARTIAL = 7
    NOT_PERMITTED = 8
    CONFIRMATION_NEEDED = 9
    TIMED_OUT = 10
    ENDED_OTHERWISE = 11
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


class CliError(Exception):
    """A command's own failure. `hint` is the command to run, or the option to give, next."""

    def __init__(
        self, exit_code: ExitCode, message: str, *, hint: str = "", code: str = "", details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.hint = hint
        self.code = code or f"SAGA-E{exit_code:02d}00"
        self.details: dict[str, Any] = details or {}


# The most special class first: the first match names the error.
_CODES: tuple[tuple[type[BaseException], ExitCode, int], ...] = (
    (errors.AdapterNotInstalled, ExitCode.CONFIGURATION, 1),
    (errors.DurabilityRefused, ExitCode.CONFIGURATION, 2),
    (errors.DefinitionMismatch, ExitCode.CONFIGURATION, 4),
    (errors.DefinitionError, ExitCode.CONFIGURATION, 3),
    (errors.StoreVersionError, ExitCode.CONFIGURATION, 5),
    (errors.ConfigurationError, ExitCode.CONFIGURATION, 0),
    (errors.BrokerUnavailable, ExitCode.UNREACHABLE, 1),
    (errors.StoreUnavailable, ExitCode.UNREACHABLE, 2),
    (errors.SagaNotFound, ExitCode.NOT_FOUND, 1),
    (errors.LetterNotFound, ExitCode.NOT_FOUND, 2),
    (errors.WaitTimeout, ExitCode.TIMED_OUT, 1),
    (errors.Refused, ExitCode.FAILED, 1),
    (errors.StoreConflict, ExitCode.FAILED, 2),
    (errors.NotReady, ExitCode.FAILED, 3),
    (errors.KeyConflict, ExitCode.FAILED, 4),
    (errors.SagaError, ExitCode.FAILED, 0),
)


def describe(error: BaseException) -> CliError:
    """Any failure as a CliError: what the toolkit raises keeps its message; anything else is called our bug."""
    if isinstance(error, CliError):
        return error
    for kind, exit_code, number in _CODES:
        if isinstance(error, kind):
            code = f"SAGA-E{exit_code:02d}{number:02d}"
            # The tree's messages end with what to do next, so there is no separate hint.
            findings = error.findings if isinstance(error, errors.DefinitionError) else ()
            return CliError(exit_code, str(error), code=code, details={"findings": list(findings)} if findings else None)
    return CliError(
        ExitCode.FAILED,
        f"unexpected {type(error).__name__}: {error}",
        hint="this is probably a bug of saga-choreo; please report it with the traceback and `saga-choreo version --json`",
        code="SAGA-E0199",
    )


def as_text(error: CliError) -> str:
    lines = [f"Error: {error} ({error.code})"]
    lines += [f"  - {finding}" for finding in error.details.get("findings", ()) if finding not in str(error)]
    if error.hint:
        lines.append(f"Hint: {error.hint}")
    return "\n".join(lines)


def as_json(error: CliError) -> str:
    """One JSON document on one line. `docs` is kept for the page of the code."""
    body = {"code": error.code, "message": str(error), "hint": error.hint, "docs": "", "details": error.details}
    return json.dumps({"error": body}, ensure_ascii=False, default=str)
