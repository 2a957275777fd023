"""The feedback agent: batches in, one transaction a fold.

A fold takes one batch after the other for as long as they follow closely. The more events a transaction has, the more
of them fall into the same windows, and the less each costs: with 25,000 records instead of 5,000, a quarter less
processor time. The records themselves are let go batch by batch; when the broker aborts, they are read again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from agents.pace import Pace
from feedback_app.core.clock import Clock
from feedback_app.core.transaction import Transaction
from feedback_app.errors import Aborted
from feedback_app.folding import Fold, FoldRules
from feedback_app.health import Health
from feedback_app.measuring import Meter
from feedback_app.models import decode
from feedback_app.retry import retrying
from feedback_app.sinks import Sink, SinkUnavailable
from feedback_app.topics import Topics
from feedback_app.tracing import NO_TRACER, Span, Tracer
from feedback_app.transport.source import Batch
from tables.feedback_windows import FeedbackWindows
from tables.partition import OwnedPartition

logger = logging.getLogger(__name__)

#: Records decoded and folded in one slice: some milliseconds. It is also what fits into a core's cache: decoding a
#: whole batch first, and folding it then, cost a sixth more.
SLICE: Final = 1_000
#: A fold that has taken so many records is committed: anything between these, so that partitions that have begun
#: together do not all fold at once, and then all wait for the broker.
_FOLD_RECORDS: Final = (6_000, 25_000)
#: And so is one that holds so many windows, items and records that are set aside, even in the middle of a batch: these
#: take memory until then.
_FOLD_HOLDS: Final = 5_000
#: After that it waits for no further batch. Until then it does, where there is one: it is being fetched, while other
#: partitions are folded.
_FOLD_S: Final = 2.0


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
    pace: Pace
    meter: Meter
    tracer: Tracer = NO_TRACER
    #: How many records the next fold takes at most, give or take a batch.
    fold_records: Callable[[], int] = field(default=partial(random.randint, *_FOLD_RECORDS))

    async def run(self, owned: OwnedPartition, rules: FoldRules) -> None:
        """Fold what arrives for *owned*, batch by batch, until cancelled."""
        left: Batch | None = None
        while True:
            batch = left or await owned.inbox.get()
            owned.folding = True
            async with owned.turn:
                began = time.perf_counter()
                with self.tracer.span("fold", partition=rules.partition) as span:
                    left = await self._fold(owned, rules, batch, span)
                self.meter.fold_took(time.perf_counter() - began)
            owned.folding = left is not None
            owned.silent_since_ms = self.clock.now_ms()

    async def _fold(self, owned: OwnedPartition, rules: FoldRules, batch: Batch, span: Span) -> Batch | None:
        """Decode, fold, persist *batch* and what follows it closely; return a batch of which some is left to fold."""
        fold = Fold(owned.state, rules, self.clock.now_ms())
        until, most = asyncio.get_running_loop().time() + _FOLD_S, self.fold_records()
        following: Batch | None = batch
        while following is not None:
            batch = following
            await self._add(fold, batch)
            piling_up = owned.closing is not None and owned.closing.full
            full = piling_up or fold.records >= most or fold.holds >= _FOLD_HOLDS
            following = None if full else await self._following(owned, batch, until)
        if fold.items:
            await self._store(fold)
        async with self.pace.slice():
            transaction, tally = fold.transaction(), fold.tally
        span.set(records=fold.records, windows=len(transaction.changes))
        span.set(late=tally.late, invalid=tally.invalid, forwarded=tally.forwarded)
        try:
            await self._commit(owned, transaction)
        except Aborted as error:
            logger.warning("%s; reading the same records again", error.message)
            self.table.read_again(owned)
            return None
        owned.last_fold = span
        self.meter.folded(fold.records, tally)
        return batch if batch.records else None

    async def _commit(self, owned: OwnedPartition, transaction: Transaction) -> None:
        """Commit *transaction*, and with it the close pass that waits for its turn, if there is one."""
        closing = owned.closing
        if closing is None:
            await owned.commit(transaction)
            return
        async with self.pace.slice():
            closed = closing.settle(owned.state, transaction)
        await owned.commit(transaction.with_changes_of(closed) if closed else transaction)
        closing.committed = closed

    async def _add(self, fold: Fold, batch: Batch) -> None:
        """Fold *batch*, or as much of it as there is room for."""
        while batch.records and fold.holds < _FOLD_HOLDS:
            async with self.pace.slice():
                # Many partitions are in the middle of a batch at once: none holds what it is done with.
                fold.add(batch.topic, batch.partition, batch.records.take(SLICE), decode)
        if not batch.records:  # not before: a partition that waits for its turn to decode holds one batch, not two
            self.table.ask_for_more(batch)

    async def _following(self, owned: OwnedPartition, last: Batch, until: float) -> Batch | None:
        """Return the batch to go on with, waiting for it *until* then; None when there is none, and it is time to
        commit."""
        if not owned.inbox.empty():
            return owned.inbox.get_nowait()
        if last.behind < SLICE:
            return None  # traffic that comes in drops, and a fold that waits would only be late
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                return await owned.inbox.get()
        return None

    async def _store(self, fold: Fold) -> None:
        """Upsert the items before the transaction: once it is committed they would not be read again.

        Those that are refused for good are skipped; the sink says why.
        """
        with self.tracer.span("items", items=len(fold.items)) as span, self.health.waiting_for_database():

            def failed(error: SinkUnavailable) -> None:
                span.event("retry")
                self.health.database_failed(error)

            await retrying(lambda: self.sink.upsert_items(fold.items), on_retry=failed)
