"""The feedback agent: batches in, one transaction a fold."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from feedback_app.core.clock import Clock
from feedback_app.core.events import Decoded, SourceRecord
from feedback_app.errors import Aborted
from feedback_app.folding import Fold, FoldRules
from feedback_app.health import Health
from feedback_app.models import decode
from feedback_app.retry import retrying
from feedback_app.sinks import Sink
from tables.feedback_windows import FeedbackWindows
from tables.partition import OwnedPartition

logger = logging.getLogger(__name__)

_Records = Sequence[SourceRecord]
_Decoded = list[tuple[_Records, Sequence[Decoded]]]

#: Records decoded and folded without letting go of the event loop: about 10 ms, so that probes and pages answer.
SLICE: Final = 2_000


def register(app: Any, table: FeedbackWindows, sources: tuple[str, ...], partitions: int) -> None:
    """Register the Faust agent: it hands each fetched batch to its partition, which folds it in its turn."""
    topic = app.topic(
        *sources, key_serializer="raw", value_serializer="raw", partitions=partitions, acks=False, internal=False
    )

    async def feedback(stream: Any) -> None:
        # Nothing is acknowledged through Faust: the offsets are committed by the fold's own transaction.
        async for event in stream.noack().events():
            await table.accept(event.message.value)

    app.agent(topic, name="agents.feedback")(feedback)


@dataclass(frozen=True, slots=True)
class Folder:
    """Folds the batches of the partitions that it is given."""

    table: FeedbackWindows
    sink: Sink
    clock: Clock
    health: Health

    async def run(self, owned: OwnedPartition, rules: FoldRules) -> None:
        """Fold what arrives for *owned*, batch by batch, until cancelled."""
        while True:
            batch = await owned.inbox.get()
            owned.folding = True
            self.table.ask_for_more(batch)
            decoded = [(part, decode([record.value for record in part])) async for part in _slices(batch.records)]
            async with owned.turn:
                await self._fold(owned, rules, decoded)
            owned.folding = False
            owned.silent_since_ms = self.clock.now_ms()

    async def _fold(self, owned: OwnedPartition, rules: FoldRules, decoded: _Decoded) -> None:
        """Fold, persist; fold the same records again for as long as the broker aborts the transaction."""
        while True:
            fold = Fold(owned.state, rules, self.clock.now_ms())
            for part, events in decoded:
                fold.add(part, events)
                await asyncio.sleep(0)
            if fold.items:
                await self._store(fold)
            try:
                return await owned.commit(fold.transaction())
            except Aborted as error:
                logger.warning("%s; folding the same records again", error.message)

    async def _store(self, fold: Fold) -> None:
        """Upsert the items before the transaction: once it is committed they would not be read again."""
        with self.health.waiting_for_database():
            refused = await retrying(
                lambda: self.sink.upsert_items(fold.items), on_retry=self.health.database_failed
            )
        if refused:
            logger.error("%s items were refused by the database and are skipped", refused)


async def _slices(records: _Records) -> AsyncIterator[_Records]:
    """Yield *records* in slices, and the event loop between them."""
    for start in range(0, len(records), SLICE):
        yield records[start : start + SLICE]
        await asyncio.sleep(0)
