"""Whether choreographies are worth running at all: a search or a simulation of one that is not well-formed only finds what
`verify` says in a moment."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from saga_choreo.cli.exits import CliError, ExitCode

if TYPE_CHECKING:
    from saga_choreo.model.choreography import Choreography

__all__ = ["require_sound"]


def require_sound(choreographies: Iterable[Choreography]) -> None:
    """Raises CliError (exit code 6) with the findings of the first that is not well-formed."""
    from saga_choreo.core.wellformed import findings

    for one in choreographies:
        found = [f"{finding.code}: {finding.message}" for finding in findings(one)]
        if found:
            raise CliError(
                ExitCode.FINDINGS,
                f"choreography {one.name!r} is not well-formed",
                hint="mend it (`saga-choreo verify` says the same), or add --anyway to see what goes wrong",
                details={"findings": found},
            )
