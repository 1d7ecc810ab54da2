"""Which statements a user may not run inside a step's transaction: those that begin, end, nest or weaken it.

Only the first word counts, behind comments: the server itself refuses a second statement in the same text, because every statement
of a user goes through the extended protocol. Only of what sets something, the text must not name `synchronous_commit`.
"""

from __future__ import annotations

import re
from functools import lru_cache

from saga_choreo.errors import ConfigurationError

__all__ = ["SESSION_WORDS", "control_refused", "first_word", "refuse_control"]

_SPACE = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/|;)*", re.DOTALL)
_WORD = re.compile(r"[A-Za-z]+")
_CONTROL = frozenset({"begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release", "prepare"})
# What outlives the transaction on its connection: the connection is cleaned before somebody else gets it.
SESSION_WORDS = frozenset({"set", "reset", "listen", "discard", "load", "declare", "deallocate"})
_SHOWN = 60


@lru_cache(maxsize=1024)
def first_word(statement: str) -> str:
    space = _SPACE.match(statement)
    word = _WORD.match(statement, space.end() if space else 0)
    return word[0].lower() if word else ""


@lru_cache(maxsize=1024)
def _is_control(statement: str) -> bool:
    word = first_word(statement)
    if word in _CONTROL:
        return True
    text = statement.lower()
    return "synchronous_commit" in text and (word in SESSION_WORDS or word == "do" or "set_config" in text)


def refuse_control(statement: str) -> None:
    """Raises ConfigurationError for a statement that belongs to the toolkit."""
    if _is_control(statement):
        raise control_refused(statement)


def control_refused(statement: str) -> ConfigurationError:
    return ConfigurationError(
        f"the statement {statement.strip()[:_SHOWN]!r} would begin, end, nest or weaken the transaction that the step's record is "
        "written in, or is more than one statement; leave the transaction to the toolkit (return to commit, raise to roll back) "
        "and run one statement at a time"
    )
