"""The names of aiokafka that the adapter uses, with the types that aiokafka does not ship: all of its imports are here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

__all__ = [
    "AIOKafkaAdminClient",
    "AIOKafkaConsumer",
    "AIOKafkaProducer",
    "AuthenticationFailedError",
    "AuthenticationMethodNotSupported",
    "ClusterAuthorizationFailedError",
    "ConfigResource",
    "ConfigResourceType",
    "ConsumerRebalanceListener",
    "DescribeGroupsRequest",
    "IllegalSaslStateError",
    "InvalidSessionTimeoutError",
    "InvalidTimestampError",
    "KafkaError",
    "LeaveGroupRequest",
    "MemberAssignment",
    "MessageSizeTooLargeError",
    "NewTopic",
    "OffsetAndMetadata",
    "RecordListTooLargeError",
    "SaslAuthenticationFailed",
    "TopicAlreadyExistsError",
    "TopicAuthorizationFailedError",
    "TopicPartition",
    "UnsupportedSaslMechanismError",
    "create_conn",
    "for_code",
    "murmur2",
]

if TYPE_CHECKING:

    class KafkaError(RuntimeError):
        errno: int
        retriable: bool

    class AuthenticationFailedError(KafkaError): ...

    class AuthenticationMethodNotSupported(KafkaError): ...

    class ClusterAuthorizationFailedError(KafkaError): ...

    class IllegalSaslStateError(KafkaError): ...

    class InvalidSessionTimeoutError(KafkaError): ...

    class InvalidTimestampError(KafkaError): ...

    class MessageSizeTooLargeError(KafkaError): ...

    class RecordListTooLargeError(KafkaError): ...

    class SaslAuthenticationFailed(KafkaError): ...

    class TopicAlreadyExistsError(KafkaError): ...

    class TopicAuthorizationFailedError(KafkaError): ...

    class UnsupportedSaslMechanismError(KafkaError): ...

    class TopicPartition(NamedTuple):
        topic: str
        partition: int

    class OffsetAndMetadata(NamedTuple):
        offset: int
        metadata: str

    class ConsumerRebalanceListener: ...

    AIOKafkaAdminClient: Any
    AIOKafkaConsumer: Any
    AIOKafkaProducer: Any
    ConfigResource: Any
    ConfigResourceType: Any
    DescribeGroupsRequest: Any
    LeaveGroupRequest: Any
    MemberAssignment: Any
    NewTopic: Any

    async def create_conn(host: str, port: int, **settings: Any) -> Any: ...
    def for_code(code: int) -> type[KafkaError]: ...
    def murmur2(key: bytes) -> int: ...

else:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
    from aiokafka.conn import create_conn
    from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment as MemberAssignment
    from aiokafka.errors import (
        AuthenticationFailedError,
        AuthenticationMethodNotSupported,
        ClusterAuthorizationFailedError,
        IllegalSaslStateError,
        InvalidSessionTimeoutError,
        InvalidTimestampError,
        KafkaError,
        MessageSizeTooLargeError,
        RecordListTooLargeError,
        SaslAuthenticationFailed,
        TopicAlreadyExistsError,
        TopicAuthorizationFailedError,
        UnsupportedSaslMechanismError,
        for_code,
    )
    from aiokafka.partitioner import murmur2
    from aiokafka.protocol.admin import DescribeGroupsRequest
    from aiokafka.protocol.group import LeaveGroupRequest
    from aiokafka.structs import OffsetAndMetadata, TopicPartition
