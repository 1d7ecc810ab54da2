"""UUIDv7 saga ids (RFC 9562, section 5.7). The start time of a saga is read from its id, never from a clock at arrival."""

from __future__ import annotations

from uuid import UUID

__all__ = ["saga_id_at", "started_ms"]


def saga_id_at(unix_ms: int, entropy: bytes) -> UUID:
    """A UUIDv7 from a Unix time in milliseconds and at least 10 random bytes, both given by the caller."""
    if len(entropy) < 10:
        raise ValueError(f"a saga id needs 10 random bytes, got {len(entropy)}; pass os.urandom(10)")
    if not 0 <= unix_ms < 1 << 48:
        raise ValueError(f"the time {unix_ms!r} ms does not fit a UUIDv7; pass milliseconds since 1970")
    noise = int.from_bytes(entropy[:10], "big")
    high = noise & 0xFFF
    low = (noise >> 12) & ((1 << 62) - 1)
    return UUID(int=(unix_ms << 80) | (0x7 << 76) | (high << 64) | (0b10 << 62) | low)


def started_ms(saga_id: UUID) -> int:
    """Unix time in milliseconds at which the saga was started (t0 of the protocol)."""
    return saga_id.int >> 80
