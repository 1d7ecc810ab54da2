"""Randomness: one root seed, many named streams, so that one more draw for one purpose disturbs no other."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

__all__ = ["Stream", "Streams"]

T = TypeVar("T")


class Stream(Random):
    """Only `random()` is used, whose sequence is the same on every version of Python."""

    def pick(self, choices: Sequence[T]) -> T:
        return choices[int(self.random() * len(choices))]

    def below(self, end: int) -> int:
        return int(self.random() * end)

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.random()

    def entropy(self, size: int) -> bytes:
        return bytes(int(self.random() * 256) for _ in range(size))


class Streams:
    """Streams by name; the same seed and name give the same sequence, whatever else is drawn."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._streams: dict[str, Stream] = {}

    def named(self, name: str) -> Stream:
        stream = self._streams.get(name)
        if stream is None:
            # A string seeds by its bytes, not by its hash, which differs from process to process.
            stream = self._streams[name] = Stream(f"{self._seed}/{name}")
        return stream
