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
        Overloaded,
        Refused,
        Reject,
        SagaError,
        SagaNotFound,
        StoreUnavailable,
        WaitTimeout,
    )
    from saga_choreo.model.breaker import Breaker, BreakerState
    from saga_choreo.model.choreography import Choreography, ChoreographyStep, all_of, any_of, one_of
    from saga_choreo.model.event import Event, EventRef
    from saga_choreo.model.retry import Backoff, OnExhausted, Retry
    from saga_choreo.model.states import SagaState, StepState
    from saga_choreo.runtime.agent import Agent
    from saga_choreo.runtime.context import StepContext
    from saga_choreo.runtime.deadletters.door import DeadLetters
    from saga_choreo.runtime.deadletters.find import WantedLetters
    from saga_choreo.runtime.deadletters.letter import DeadLetter
    from saga_choreo.runtime.deadletters.replay import ReplayOrder
    from saga_choreo.runtime.declare.decorators import OnEvent, PublishEvent, on_event, publish_event, with_compensation
    from saga_choreo.runtime.declare.inject import Depends
    from saga_choreo.runtime.declare.results import Chosen, Pending, choose
    from saga_choreo.runtime.parked import ParkedStep
    from saga_choreo.runtime.sagas import SagaHandle
    from saga_choreo.runtime.telling import SagaOutcome
    from saga_choreo.runtime.timing import Limits

__version__ = "0.1.0"

# Public name -> module it is defined in.
_DOOR = {
    "AdapterNotInstalled": "saga_choreo.errors",
    "Agent": "saga_choreo.runtime.agent",
    "Backoff": "saga_choreo.model.retry",
    "Breaker": "saga_choreo.model.breaker",
    "BreakerState": "saga_choreo.model.breaker",
    "BrokerUnavailable": "saga_choreo.errors",
    "Choreography": "saga_choreo.model.choreography",
    "ChoreographyStep": "saga_choreo.model.choreography",
    "Chosen": "saga_choreo.runtime.declare.results",
    "ConfigurationError": "saga_choreo.errors",
    "DeadLetter": "saga_choreo.runtime.deadletters.letter",
    "DeadLetters": "saga_choreo.runtime.deadletters.door",
    "DefinitionError": "saga_choreo.errors",
    "Depends": "saga_choreo.runtime.declare.inject",
    "Event": "saga_choreo.model.event",
    "EventRef": "saga_choreo.model.event",
    "KeyConflict": "saga_choreo.errors",
    "Limits": "saga_choreo.runtime.timing",
    "NotReady": "saga_choreo.errors",
    "Overloaded": "saga_choreo.errors",
    "OnEvent": "saga_choreo.runtime.declare.decorators",
    "OnExhausted": "saga_choreo.model.retry",
    "ParkedStep": "saga_choreo.runtime.parked",
    "Pending": "saga_choreo.runtime.declare.results",
    "PublishEvent": "saga_choreo.runtime.declare.decorators",
    "Refused": "saga_choreo.errors",
    "Reject": "saga_choreo.errors",
    "ReplayOrder": "saga_choreo.runtime.deadletters.replay",
    "Retry": "saga_choreo.model.retry",
    "SagaError": "saga_choreo.errors",
    "SagaHandle": "saga_choreo.runtime.sagas",
    "SagaNotFound": "saga_choreo.errors",
    "SagaOutcome": "saga_choreo.runtime.telling",
    "SagaState": "saga_choreo.model.states",
    "StepContext": "saga_choreo.runtime.context",
    "StepState": "saga_choreo.model.states",
    "StoreUnavailable": "saga_choreo.errors",
    "WaitTimeout": "saga_choreo.errors",
    "WantedLetters": "saga_choreo.runtime.deadletters.find",
    "all_of": "saga_choreo.model.choreography",
    "any_of": "saga_choreo.model.choreography",
    "choose": "saga_choreo.runtime.declare.results",
    "on_event": "saga_choreo.runtime.declare.decorators",
    "one_of": "saga_choreo.model.choreography",
    "publish_event": "saga_choreo.runtime.declare.decorators",
    "with_compensation": "saga_choreo.runtime.declare.decorators",
}

__all__ = [
    "AdapterNotInstalled",
    "Agent",
    "Backoff",
    "Breaker",
    "BreakerState",
    "BrokerUnavailable",
    "Choreography",
    "ChoreographyStep",
    "Chosen",
    "ConfigurationError",
    "DeadLetter",
    "DeadLetters",
    "DefinitionError",
    "Depends",
    "Event",
    "EventRef",
    "KeyConflict",
    "Limits",
    "NotReady",
    "Overloaded",
    "OnEvent",
    "OnExhausted",
    "ParkedStep",
    "Pending",
    "PublishEvent",
    "Refused",
    "Reject",
    "ReplayOrder",
    "Retry",
    "SagaError",
    "SagaHandle",
    "SagaNotFound",
    "SagaOutcome",
    "SagaState",
    "StepContext",
    "StepState",
    "StoreUnavailable",
    "WaitTimeout",
    "WantedLetters",
    "__version__",
    "all_of",
    "any_of",
    "choose",
    "on_event",
    "one_of",
    "publish_event",
    "with_compensation",
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
