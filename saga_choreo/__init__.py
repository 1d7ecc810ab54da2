"""saga_choreo: sagas without a coordinator. The door for people who write services.

Names are imported when they are first used (PEP 562): `saga-choreo --help` and shell completion pass through here and must
not pay for pydantic. Type checkers read the imports below, the running program reads `_DOOR`; a test compares the two.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saga_choreo.errors import (
        AdapterNotInstalled,
        BrokerUnavailable,
        ConfigurationError,
        DefinitionError,
        KeyConflict,
        NotReady,
        Refused,
        Reject,
        SagaError,
        SagaNotFound,
        StoreUnavailable,
        WaitTimeout,
    )
    from saga_choreo.model.choreography import Choreography, ChoreographyStep, all_of, any_of, one_of
    from saga_choreo.model.event import Event, EventRef
    from saga_choreo.model.retry import Backoff, OnExhausted, Retry
    from saga_choreo.model.states import SagaState, StepState

__version__ = "0.1.0"

# Public name -> module it is defined in.
_DOOR = {
    "AdapterNotInstalled": "saga_choreo.errors",
    "Backoff": "saga_choreo.model.retry",
    "BrokerUnavailable": "saga_choreo.errors",
    "Choreography": "saga_choreo.model.choreography",
    "ChoreographyStep": "saga_choreo.model.choreography",
    "ConfigurationError": "saga_choreo.errors",
    "DefinitionError": "saga_choreo.errors",
    "Event": "saga_choreo.model.event",
    "EventRef": "saga_choreo.model.event",
    "KeyConflict": "saga_choreo.errors",
    "NotReady": "saga_choreo.errors",
    "OnExhausted": "saga_choreo.model.retry",
    "Refused": "saga_choreo.errors",
    "Reject": "saga_choreo.errors",
    "Retry": "saga_choreo.model.retry",
    "SagaError": "saga_choreo.errors",
    "SagaNotFound": "saga_choreo.errors",
    "SagaState": "saga_choreo.model.states",
    "StepState": "saga_choreo.model.states",
    "StoreUnavailable": "saga_choreo.errors",
    "WaitTimeout": "saga_choreo.errors",
    "all_of": "saga_choreo.model.choreography",
    "any_of": "saga_choreo.model.choreography",
    "one_of": "saga_choreo.model.choreography",
}

__all__ = [
    "AdapterNotInstalled",
    "Backoff",
    "BrokerUnavailable",
    "Choreography",
    "ChoreographyStep",
    "ConfigurationError",
    "DefinitionError",
    "Event",
    "EventRef",
    "KeyConflict",
    "NotReady",
    "OnExhausted",
    "Refused",
    "Reject",
    "Retry",
    "SagaError",
    "SagaNotFound",
    "SagaState",
    "StepState",
    "StoreUnavailable",
    "WaitTimeout",
    "__version__",
    "all_of",
    "any_of",
    "one_of",
]


def __getattr__(name: str) -> Any:
    module = _DOOR.get(name)
    if module is None:
        raise AttributeError(f"module 'saga_choreo' has no attribute {name!r}; see saga_choreo.__all__ for its names")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
