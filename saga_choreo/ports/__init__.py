"""Ports: what the toolkit needs of a broker, a store and a clock, as Protocols. Adapter authors import from here only.

Everything of `model` that an adapter touches is re-exported, so that an adapter needs `saga_choreo.ports` and
`saga_choreo.errors` and nothing else of ours.
"""

from saga_choreo.model.envelope import Channel, ChannelKind
from saga_choreo.model.record import ORIGIN, Failure, Record, RecordKey, Resolution, Row, pack_payloads, unpack_payloads
from saga_choreo.model.states import Cancel, Cause, Outcome, Parked, State
from saga_choreo.ports.broker import (
    Broker,
    BrokerFeatures,
    Connection,
    Delivery,
    Notice,
    Outgoing,
    TellsOfConnection,
    Topology,
)
from saga_choreo.ports.clock import Clock
from saga_choreo.ports.columns import COLUMNS, Column, from_columns, to_columns
from saga_choreo.ports.letters import (
    ITEM_COLUMNS,
    JOB_COLUMNS,
    LETTER_COLUMNS,
    ItemState,
    Job,
    JobItem,
    Jobs,
    JobState,
    LetterFilter,
    Letters,
)
from saga_choreo.ports.planning import Difference, Planned, Planning
from saga_choreo.ports.store import (
    AnnouncedMark,
    BusinessKey,
    Held,
    Quarantined,
    Reader,
    SagaFilter,
    SagaLock,
    Scans,
    Store,
    StoreFeatures,
    TellsOfCommit,
    Transaction,
    UserTx,
)
from saga_choreo.ports.upkeep import Epoch, StoreState, Upkeep

__all__ = [
    "Difference",
    "Planned",
    "Planning",
    "COLUMNS",
    "ITEM_COLUMNS",
    "JOB_COLUMNS",
    "LETTER_COLUMNS",
    "ORIGIN",
    "AnnouncedMark",
    "Broker",
    "BrokerFeatures",
    "BusinessKey",
    "Cancel",
    "Cause",
    "Channel",
    "ChannelKind",
    "Clock",
    "Column",
    "Connection",
    "Delivery",
    "Epoch",
    "Failure",
    "Held",
    "ItemState",
    "Job",
    "JobItem",
    "JobState",
    "Jobs",
    "LetterFilter",
    "Letters",
    "Notice",
    "Outcome",
    "Outgoing",
    "Parked",
    "Quarantined",
    "Reader",
    "Record",
    "RecordKey",
    "Resolution",
    "Row",
    "SagaFilter",
    "SagaLock",
    "Scans",
    "State",
    "Store",
    "StoreFeatures",
    "TellsOfCommit",
    "TellsOfConnection",
    "StoreState",
    "Topology",
    "Transaction",
    "Upkeep",
    "UserTx",
    "from_columns",
    "pack_payloads",
    "to_columns",
    "unpack_payloads",
]
