"""The errors that simulated handlers fail with, and which policy of a step counts for each: by the words of `Retry.on`."""

from __future__ import annotations

from saga_choreo.model.retry import Retry

__all__ = ["ERRORS", "GatewayDown", "policy_for"]


class GatewayDown(ConnectionError):
    """One that only its ancestors may have a policy for."""


ERRORS: tuple[type[Exception], ...] = (ValueError, TimeoutError, ConnectionError, GatewayDown)
# The closest class first, as a reader of the promise would look for it.
_ANCESTORS: dict[str, tuple[type[Exception], ...]] = {
    "ValueError": (ValueError, Exception),
    "TimeoutError": (TimeoutError, OSError, Exception),
    "timed out": (TimeoutError, OSError, Exception),
    "ConnectionError": (ConnectionError, OSError, Exception),
    "GatewayDown": (GatewayDown, ConnectionError, OSError, Exception),
}


def policy_for(retry: Retry, error: str) -> Retry:
    """The policy for the error that a record shows: `Class: words`, or that the attempt timed out."""
    kinds = _ANCESTORS.get(error.partition(":")[0], ())
    return next((retry.on[kind] for kind in kinds if kind in retry.on), retry)
