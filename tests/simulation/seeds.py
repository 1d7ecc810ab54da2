"""Seeds that once broke a promise, each with its story. They stay for good."""

from __future__ import annotations

__all__ = ["REGRESSIONS"]

# (seed, options of Settings, what it found). A seed means another run after the simulator itself changed; it is kept as one more.
REGRESSIONS: list[tuple[int, dict[str, object], str]] = [
    (9, {}, "a transaction that did not see a record inserted meanwhile took the outcome for a contradiction"),
    (47, {}, "simulator: what a person did by hand counts before the word about it"),
    (96, {}, "simulator: an undo that was passed by is a debt for good, also while it is tried once more"),
    (16363, {}, "simulator: an undo passed by lets its predecessor in the same service be undone in the very same commit"),
    (7000096, {}, "simulator: an undo waived lets its predecessor in the same service be undone in the very same commit"),
    (9002422, {"loss": 0.4}, "a step whose words only its own service reads asked nobody for the end it had missed"),
    (7, {"layer": "c"}, "the memory store kept a lock that it had handed to a process killed before it woke up"),
    (523, {"layer": "c"}, "a plain step that ran once more after a conflict did so without a permit, beside another run"),
    (
        74,
        {"layer": "c"},
        "simulator: a person was still about to try an undo again that had been passed by when all was thought quiet",
    ),
    (6008, {}, "a message that disagreed with the record was presumed to be the first of its saga, and lost from view"),
    (2003142, {"reannounce": False}, "the same, of a step's own event"),
    (2000363, {"layer": "c", "reannounce": False}, "the same, in real agents"),
    (68, {}, "a word was not taken when the step that follows from it held up its transaction for too long, and so never"),
    (1191, {}, "an undo that held up its transaction did so for ever where a call that need not be made came before it"),
    (1579, {"layer": "c"}, "an agent renewed the attempt of another that had the number of its own, after a person's retry"),
    (2002541, {"layer": "c", "reannounce": False}, "the same"),
    (
        2008794,
        {"reannounce": False},
        "simulator: what kept one agent from noting a step that is too slow excuses the other one too",
    ),
    (2006908, {"reannounce": False}, "simulator: the same number again is not the same attempt"),
    (900194, {"layer": "c"}, "simulator: an agent has one code for two definitions with the same step"),
    (1142, {}, "simulator: a step that only reads has nothing to undo"),
]
