"""Closing due windows: upsert their documents, then commit what follows from that."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from agents.pace import Pace
from feedback_app.closing import CloseRules, Closing, DueWindow, bulks, plan
from feedback_app.core.aggregate import summary_of
from feedback_app.core.clock import Clock
from feedback_app.core.documents import Document
from feedback_app.core.state import window_of
from feedback_app.core.transaction import Transaction
from feedback_app.core.watermark import Lateness
from feedback_app.errors import Aborted
from feedback_app.health import Health
from feedback_app.measuring import Meter
from feedback_app.retry import retrying
from feedback_app.sinks import Outcome, Sink, SinkUnavailable
from feedback_app.tracing import NO_TRACER, Span, Tracer
from tables.feedback_windows import FeedbackWindows
from tables.partition import OwnedPartition

logger = logging.getLogger(__name__)

#: How often a partition looks for due windows, besides whenever some become due: one seek in RocksDB.
_LOOK_S: Final = 0.2
#: Windows whose documents are built in one slice: some milliseconds.
_SLICE: Final = 250
#: A document that is refused, or ahead, is tried again after this, doubled each time.
_FIRST_HOLD_S: Final = 1.0
_LONGEST_HOLD_S: Final = 300.0
#: Bulk writes of one pass that may be under way at once (mode ``agent`` has one for each chat agent).
_PARALLEL_BULKS: Final = 8
#: A pass has at most so many windows, or a bulk write's worth, if that is more. Each transaction costs the broker a
#: dozen requests and writes; and documents take memory, some kilobytes each.
_PASS_WINDOWS: Final = 2_500


@dataclass(frozen=True, slots=True)
class _Hold:
    """A window that waits by itself, and holds up no other."""

    until: float
    delay: float


@dataclass(frozen=True, slots=True)
class Closer:
    """Closes the due windows of the partitions that it is given."""

    table: FeedbackWindows
    sink: Sink
    clock: Clock
    health: Health
    lateness: Lateness
    idle_ms: int
    pace: Pace
    meter: Meter
    tracer: Tracer = NO_TRACER

    async def run(self, owned: OwnedPartition, rules: CloseRules) -> None:
        """Close what becomes due in *owned* until cancelled."""
        held = Holds()
        try:
            while True:
                owned.became_due.clear()  # before the look: what becomes due during it is looked for once more
                await self._follow_the_clock(owned)
                owned.state.put_back(held.over())
                found = await self._pass(owned, rules, held)
                owned.schedule.passed(held=len(held), caught_up=not found)
                if not found:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK_S):
                            await owned.became_due.wait()
        finally:
            self.health.given_up(window_of(key).document_id for key in held)

    async def _follow_the_clock(self, owned: OwnedPartition) -> None:
        """Let the wall clock move the watermark of a partition that has been read to its end and is silent."""
        silent_since = owned.silent_since_ms
        if self.clock.now_ms() - silent_since < self.idle_ms:
            return
        newest = owned.state.newest_end()
        if newest is None or newest <= owned.state.record.watermark:
            return  # nothing that the clock could close
        if not await self.table.read_to_the_end(owned):
            return
        async with owned.turn:
            if owned.silent_since_ms != silent_since:
                return
            moved = self.lateness.silent(owned.state.record, self.clock.now_ms(), owned.state.newest_end())
            if moved != owned.state.record:
                await self._commit(owned, Transaction(changes={}, record=moved))

    async def _pass(self, owned: OwnedPartition, rules: CloseRules, held: Holds) -> bool:
        """Close one batch of due windows; return whether there was anything to do."""
        most = max(_PASS_WINDOWS, rules.batch_size)
        taken = owned.state.take_due(most)
        full = len(taken) == most
        owned.schedule.taken(sum(key not in held for key, _ in taken) if held else len(taken), more=full)
        due = [(key, value) for key, value in taken if not held.holds(key)] if held else taken
        # Each partition looks several times a second: where nothing is due there is nothing to trace.
        tracer: Tracer = self.tracer if due else NO_TRACER
        with tracer.span("close", follows=owned.last_fold, partition=rules.partition, windows=len(due)) as span:
            stored = await self._store(rules, held, due)
            closing = Closing(stored, owned.state.take_expired(most), rules, full)
            return await self._close(owned, closing, span) or bool(taken)

    async def _store(self, rules: CloseRules, held: Holds, due: Sequence[tuple[bytes, bytes]]) -> Sequence[DueWindow]:
        """Upsert the documents of windows that are due; return those windows whose documents are in the database."""
        windows: list[DueWindow] = []
        documents: list[Document] = []
        for start in range(0, len(due), _SLICE):
            async with self.pace.slice():
                some, theirs = plan(due[start : start + _SLICE], rules.describe)
            windows += some
            documents += theirs
        outcome = await self._upsert(documents, rules)
        if not (outcome.ahead or outcome.refused or held):
            return windows
        return [window for window in windows if self._is_stored(window, outcome, held)]

    async def _close(self, owned: OwnedPartition, closing: Closing, span: Span) -> bool:
        """Commit what follows from a pass whose documents are stored; return whether anything did."""
        stored = closing.stored
        if not stored and not closing.expired:
            return False
        owned.closing = closing
        async with owned.turn:
            owned.closing = None
            if closing.committed is None:
                async with self.pace.slice():
                    transaction = closing.settle(owned.state)
                if transaction is None:
                    return False
                await self._commit(owned, transaction)
                closing.committed = transaction
        changes = closing.committed.changes
        closed = [due for due in stored if due.key in changes]
        if len(closed) < len(stored):  # what has changed since its document was built stays due
            owned.state.put_back(due.key for due in stored if due.key not in changes)
        if closed:
            logger.debug("partition %s: %s windows closed", owned.partition, len(closed))
            owned.schedule.closed(len(closed))
            span.set(closed=len(closed), events=len(closing.committed.sends))
            self.meter.flushed(closed, len(closing.committed.sends), self.clock.now_ms())
        return True

    async def _upsert(self, documents: Sequence[Document], rules: CloseRules) -> Outcome:
        """Upsert *documents*, trying again for as long as the database does not answer."""
        ahead: dict[str, int] = {}
        refused: dict[str, str] = {}
        limit = asyncio.Semaphore(_PARALLEL_BULKS)
        writes = bulks(documents, rules)
        if not writes:
            return Outcome()

        async def write(some: list[Document]) -> None:
            async with limit:
                with self.health.waiting_for_database():
                    outcome = await retrying(lambda: self.sink.upsert_windows(some), on_retry=failed)
            ahead.update(outcome.ahead)
            refused.update(outcome.refused)

        # One step for all of them: in mode ``agent`` there are nearly as many as windows.
        with self.tracer.span("upsert", documents=len(documents), bulk_writes=len(writes)) as span:

            def failed(error: SinkUnavailable) -> None:
                span.event("retry")
                self.health.database_failed(error)

            await asyncio.gather(*(write(some) for some in writes))
            span.set(ahead=len(ahead), refused=len(refused))
        return Outcome(ahead, refused)

    def _is_stored(self, due: DueWindow, outcome: Outcome, held: Holds) -> bool:
        """Say whether the window's document is in the database; hold the window back when it is not."""
        window = window_of(due.key)
        document_id = window.document_id
        if document_id in outcome.ahead:
            _, count, _ = summary_of(due.value)
            logger.error(
                "agent %r, window %s: its document has count %s, ours is %s: not overwritten, not emitted",
                window.agent_id,
                window.start,
                outcome.ahead[document_id],
                count,
            )
            self.health.stale(document_id)
        elif document_id in outcome.refused:
            logger.error(
                "agent %r, window %s: the database refuses its document: %s",
                window.agent_id,
                window.start,
                outcome.refused[document_id],
            )
            self.health.refused(document_id)
        else:
            held.forget(due.key)
            self.health.closed(document_id)
            return True
        held.hold(due.key)
        return False

    async def _commit(self, owned: OwnedPartition, transaction: Transaction) -> None:
        """Commit; an aborted transaction has changed nothing, so the same one is valid still."""
        while True:
            try:
                return await owned.commit(transaction)
            except Aborted as error:
                logger.warning("%s; committing the same again", error.message)


@dataclass(slots=True)
class Holds:
    """The windows of a partition that wait by themselves."""

    _holds: dict[bytes, _Hold] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._holds)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._holds)

    def __contains__(self, key: bytes) -> bool:
        return key in self._holds

    def hold(self, key: bytes) -> None:
        """Keep a window back, twice as long as the last time."""
        last = self._holds.get(key)
        delay = _FIRST_HOLD_S if last is None else min(2 * last.delay, _LONGEST_HOLD_S)
        self._holds[key] = _Hold(time.monotonic() + delay, delay)

    def holds(self, key: bytes) -> bool:
        """Say whether a window is to be kept back now."""
        hold = self._holds.get(key)
        return hold is not None and hold.until > time.monotonic()

    def over(self) -> list[bytes]:
        """Return the windows that need not wait any longer."""
        now = time.monotonic()
        return [key for key, hold in self._holds.items() if hold.until <= now]

    def forget(self, key: bytes) -> None:
        """Forget a window that is stored."""
        self._holds.pop(key, None)
