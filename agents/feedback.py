"""The feedback agent: batches in, one transaction a fold."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any, Final

from feedback_app.core.clock import Clock
from feedback_app.errors import Aborted
from feedback_app.folding import Fold, FoldRules
from feedback_app.health import Health
from feedback_app.measuring import Meter
from feedback_app.models import decode
from feedback_app.retry import retrying
from feedback_app.sinks import Sink
from feedback_app.topics import Topics
from feedback_app.transport.source import Batch
from tables.feedback_windows import FeedbackWindows
from tables.partition import OwnedPartition

logger = logging.getLogger(__name__)

#: Records decoded and folded before the event loop gets its turn: some milliseconds, so that probes and pages answer.
#: Also what fits into a core's cache: decoding a whole batch first, and folding it then, cost a sixth more.
SLICE: Final = 1_000


def register(app: Any, table: FeedbackWindows, topics: Topics) -> None:
    """Register the Faust agents: they hand each fetched batch to its partition, which folds it in its turn."""

    async def feedback(stream: Any) -> None:
        # Nothing is acknowledged through Faust: the offsets are in the fold's own transaction.
        async for event in stream.noack().events():
            table.accept(event.message.value)

    for name, topic in (("feedback", topics.feedback), ("repartition", topics.repartition)):
        source = app.topic(
            topic, key_serializer="raw", value_serializer="raw", partitions=topics.partitions, acks=False
        )
        app.agent(source, name=f"agents.{name}")(feedback)


@dataclass(frozen=True, slots=True)
class Folder:
    """Folds the batches of the partitions that it is given."""

    table: FeedbackWindows
    sink: Sink
    clock: Clock
    health: Health
    meter: Meter

    async def run(self, owned: OwnedPartition, rules: FoldRules) -> None:
        """Fold what arrives for *owned*, batch by batch, until cancelled."""
        while True:
            batch = await owned.inbox.get()
            owned.folding = True
            async with owned.turn:
                began = time.perf_counter()
                while not await self._fold(owned, rules, batch):
                    pass
                self.meter.fold_took(time.perf_counter() - began)
            owned.folding = False
            owned.silent_since_ms = self.clock.now_ms()

    async def _fold(self, owned: OwnedPartition, rules: FoldRules, batch: Batch) -> bool:
        """Decode, fold, persist; False says that the broker aborted: the same records are to be folded again."""
        fold = Fold(owned.state, rules, self.clock.now_ms())
        for start in range(0, len(batch.records), SLICE):
            records = batch.records[start : start + SLICE]
            fold.add(batch.topic, batch.partition, records, decode([record.value() for record in records]))
            await asyncio.sleep(0)
        # Not before: the next batch is there when this one is committed, and a partition that waits for its turn to
        # decode holds one batch, not two.
        self.table.ask_for_more(batch)
        if fold.items:
            await self._store(fold)
        try:
            await owned.commit(fold.transaction())
        except Aborted as error:
            logger.warning("%s; folding the same records again", error.message)
            return False
        self.meter.folded(len(batch.records), fold.tally)
        return True

    async def _store(self, fold: Fold) -> None:
        """Upsert the items before the transaction: once it is committed they would not be read again.

        Those that are refused for good are skipped; the sink says why.
        """
        with self.health.waiting_for_database():
            await retrying(lambda: self.sink.upsert_items(fold.items), on_retry=self.health.database_failed)
