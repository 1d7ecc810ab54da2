"""The token of a pending step: what a provider gives back with its answer, so that the answer finds its step.

Opaque to everybody else and no secret: it names saga, definition, step and key number, with a checksum against cut or mixed-up
ones. Who may complete a step is for the application to check (the provider's signature on its webhook, say).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import NamedTuple
from uuid import UUID

__all__ = ["Token", "read_token", "write_token"]

_PREFIX = "st1."
_BYTES = 16 + 16 + 2 + 4 + 4
_NO_TOKEN = "this is no token of a pending step, or not all of one; pass ctx.token as the step's handler got it"  # noqa: S105  (words)


class Token(NamedTuple):
    """`key_no` is the number of the call under which the outside was asked: an answer to an earlier call does not count."""

    saga_id: UUID
    definition: str
    step: int
    key_no: int


def write_token(token: Token) -> str:
    """Letters, digits, '-', '_' and '.' only, so that it may stand in a URL."""
    body = token.saga_id.bytes + bytes.fromhex(token.definition) + token.step.to_bytes(2, "big") + token.key_no.to_bytes(4, "big")
    return _PREFIX + base64.urlsafe_b64encode(body + _check(body)).decode().rstrip("=")


def read_token(text: str) -> Token:
    """The inverse. Raises ValueError on anything else than a whole token."""
    if not text.startswith(_PREFIX) or not text.isascii():
        raise ValueError(_NO_TOKEN)
    try:
        coded = text.removeprefix(_PREFIX)
        blob = base64.b64decode(coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True)
    except binascii.Error as exc:
        raise ValueError(_NO_TOKEN) from exc
    body, check = blob[:-4], blob[-4:]
    if len(blob) != _BYTES or check != _check(body):
        raise ValueError(_NO_TOKEN)
    return Token(UUID(bytes=body[:16]), body[16:32].hex(), int.from_bytes(body[32:34], "big"), int.from_bytes(body[34:38], "big"))


def _check(body: bytes) -> bytes:
    return hashlib.sha256(_PREFIX.encode() + body).digest()[:4]
