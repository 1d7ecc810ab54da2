"""Definitions that an agent learns: from its store at start, from DEFINE while it runs.

A definition with a step of this service (or one that this service may be the origin of) goes into the catalog, with the
handlers that fit, so that its messages are always applied; a step without a fitting handler waits for an agent that has one.
Any other definition is foreign: its messages, which come along on a shared event, are facts for others.
"""

from __future__ import annotations

import logging
from enum import Enum

from saga_choreo.core.graph import plan_of
from saga_choreo.core.wellformed import findings
from saga_choreo.errors import DefinitionError
from saga_choreo.model.choreography import Choreography
from saga_choreo.ports.store import Reader
from saga_choreo.runtime.catalog import Catalog
from saga_choreo.runtime.part import Part

__all__ = ["Learned", "Learning"]

_log = logging.getLogger("saga_choreo.learning")
# A definition is a few kilobytes, and there is a new one only when a release changes some step.
_KNOWN_MAX = 1_000


class Learned(Enum):
    """`WHOLE`: every step of this service has a fitting handler here. `PARTLY`: some lack one. `FOREIGN`: it has none there."""

    WHOLE = "whole"
    PARTLY = "partly"
    FOREIGN = "foreign"
    REFUSED = "refused"


class Learning:
    def __init__(self, part: Part, catalog: Catalog, reader: Reader) -> None:
        self._part = part
        self._catalog = catalog
        self._reader = reader
        self._refused: set[str] = set()

    async def recall(self) -> None:
        """The definitions in the store that concern this service: sagas of an earlier release go on with theirs."""
        for definition, blob in (await self._reader.definitions()).items():
            if self._catalog.get(definition) is not None:
                continue
            try:
                form = Choreography.from_canonical(blob)
                if self._part.concerns(form):
                    self._add(form)
            except DefinitionError as error:
                _log.error("stored definition %s cannot be used: %s", definition, error)

    async def learn(self, form: Choreography) -> Learned:
        """Keep a definition in catalog and store. Raises DefinitionError when it is not well-formed."""
        known = self._catalog.get(form.definition)
        if known is not None:
            return Learned.WHOLE if len(known.handlers) == len(known.own) else Learned.PARTLY
        if not self._part.concerns(form):
            self._catalog.set_foreign(form.definition)
            return Learned.FOREIGN
        if found := [str(finding) for finding in findings(form)]:
            raise DefinitionError(f"definition {form.definition} of {form.name!r} is not well-formed: {'; '.join(found)}", found)
        if len(self._catalog.all()) >= _KNOWN_MAX:
            self._refuse(form)
            return Learned.REFUSED
        await self._reader.remember(form.definition, form.canonical_bytes, ())
        return self._add(form)

    def _add(self, form: Choreography) -> Learned:
        fit = self._part.fit(form)
        self._catalog.add(plan_of(self._part.adopted(form)), fit.handlers)
        if fit.is_whole:
            _log.info("learnt definition %s of choreography %r version %d", form.definition, form.name, form.version)
            return Learned.WHOLE
        _log.error(
            "definition %s of choreography %r version %d does not fit the code of this agent of %r, which therefore does not "
            "announce that it holds it; steps of its sagas wait here for an agent with the code they need: %s",
            form.definition,
            form.name,
            form.version,
            self._part.service,
            "; ".join(fit.misfits),
        )
        return Learned.PARTLY

    def _refuse(self, form: Choreography) -> None:
        if form.definition not in self._refused and len(self._refused) < _KNOWN_MAX:
            self._refused.add(form.definition)
            _log.error(
                "definition %s of choreography %r is not learnt: %d definitions are known already, and that is the limit; "
                "its messages are held; use another prefix for what is so different",
                form.definition,
                form.name,
                _KNOWN_MAX,
            )
