"""Every error the toolkit raises, as one tree.

Each class says whether trying again can help (`retryable`); the pipeline asks only that. A message has three parts:
what happened, to which one, what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "AdapterNotInstalled",
    "BrokerUnavailable",
    "ConfigurationError",
    "DecodeError",
    "DefinitionError",
    "DefinitionMismatch",
    "DurabilityRefused",
    "KeyConflict",
    "LetterNotFound",
    "NotReady",
    "Overloaded",
    "PublishRefused",
    "Refused",
    "Reject",
    "ResultTooLarge",
    "SagaError",
    "SagaNotFound",
    "StopCutShort",
    "StoreConflict",
    "StoreUnavailable",
    "StoreVersionError",
    "TransactionTooLong",
    "WaitTimeout",
]


class SagaError(Exception):
    """Base of all errors of saga_choreo."""

    retryable: bool = False


class Reject(SagaError):
    """Raised by a step's handler to say a business no: the step refuses, and the saga is undone.

    Any other exception is a technical failure and is retried.
    """

    def __init__(self, reason: str = "refused") -> None:
        super().__init__(reason)
        self.reason = reason


class ConfigurationError(SagaError):
    """A setting, URL or argument is missing or wrong."""


class AdapterNotInstalled(ConfigurationError):
    """No adapter for a URL scheme, or the client library it needs is missing."""


class DurabilityRefused(ConfigurationError):
    """The store or broker would not keep what it has confirmed."""


class DefinitionError(ConfigurationError):
    """A choreography, or what an agent declares of it, is not well-formed. Carries every fault found."""

    def __init__(self, message: str, findings: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.findings = tuple(findings)


class DefinitionMismatch(DefinitionError):
    """Two agents hold different definitions of the same choreography and version."""


class DecodeError(SagaError):
    """Bytes that are not a message of this protocol. `code` is one of a small, stable set of words."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ResultTooLarge(SagaError):
    """A step's result exceeds the limit that every broker accepts; nothing was committed."""


class KeyConflict(SagaError):
    """The business key already names a saga that was started with another payload."""


class NotReady(SagaError):
    """A saga cannot be started yet: some owner has not announced that it holds the definition."""

    retryable = True


class Overloaded(NotReady):
    """A saga cannot be started yet: too many are open, or too much waits to be published. Nothing was written."""


class SagaNotFound(SagaError):
    """No saga with this id or key is known to this participant's store."""


class LetterNotFound(SagaError):
    """No dead letter, or no replay job, with this id is in this store."""


class Refused(SagaError):
    """A command was understood and refused; the message says why (for example: already completed)."""


class WaitTimeout(SagaError):
    """The saga had not ended when the time to wait was over. It goes on."""

    retryable = True


class StopCutShort(SagaError):
    """An agent was told to stop, and something of it did not end in time. It was left behind; what it had not committed is done
    again, here or elsewhere."""


class BrokerUnavailable(SagaError):
    """The broker cannot be reached or does not answer."""

    retryable = True


class PublishRefused(SagaError):
    """The broker refused one message (too large, unroutable, channel full)."""

    retryable = True


class StoreUnavailable(SagaError):
    """The store cannot be reached, or a commit's outcome is unknown. Nothing may be concluded from it."""

    retryable = True


class StoreConflict(SagaError):
    """Another transaction changed the same rows, or the store was busy: the same work may be tried again."""

    retryable = True


class TransactionTooLong(SagaError):
    """A step held its transaction longer than the store allows, and it was rolled back. Declare the step external."""


class StoreVersionError(ConfigurationError):
    """The store's schema belongs to another version of the toolkit."""
