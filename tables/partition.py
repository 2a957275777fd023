"""One partition while this worker owns it: from take-over to release."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from feedback_app import compiled
from feedback_app.closing import Closing
from feedback_app.core.clock import Clock
from feedback_app.core.state import PARTITION_RECORD_KEY, PartitionRecord
from feedback_app.core.transaction import Transaction
from feedback_app.errors import Fenced, StateError
from feedback_app.liveness import Liveness
from feedback_app.measuring import Meter, measured_transaction
from feedback_app.provisioning import Identities
from feedback_app.settings import Settings
from feedback_app.topics import TABLE_NAME, Topics
from feedback_app.tracing import NO_SPAN, NO_TRACER, Span, Tracer
from feedback_app.transport.source import Batch
from feedback_app.transport.transactions import TransactionalProducer
from tables.restore import Restored, Restorer
from tables.schedule import Schedule
from tables.state import PartitionState
from tables.store import PartitionStore, Position

logger = logging.getLogger(__name__)

#: How long giving a partition up waits for the step under way, and then for its thread. Together they stay below the
#: time that members have to give up their partitions in a rebalance (``feedback_app.factory``).
_SETTLE_S: Final = 3.0
_RELEASE_S: Final = 1.0


class OwnedPartition:
    """One partition of one assignment. It is never used for a second assignment.

    Folds, closes and moves of the watermark hold :attr:`turn` from the first state that they read until
    :meth:`commit` returns: they exclude each other.

    Args:
        cached: how many windows the partition may keep in memory.
    """

    def __init__(
        self,
        settings: Settings,
        topics: Topics,
        partition: int,
        *,
        clock: Clock,
        identities: Identities,
        cached: int,
        liveness: Liveness,
        meter: Meter,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self.partition = partition
        self.identities = identities
        self.turn = asyncio.Lock()
        self.inbox: asyncio.Queue[Batch] = asyncio.Queue()
        #: Where the next batch of each source topic has to start.
        self.expected: dict[str, int] = {}
        #: Where reading began, for each source topic.
        self.starts: dict[str, int] = {}
        #: How far closing has come.
        self.schedule = Schedule()
        #: Wall time since which nothing has been folded.
        self.silent_since_ms = clock.now_ms()
        #: True while a batch that was taken from the inbox is not committed yet.
        self.folding = False
        #: A close pass that waits for its turn: the fold that ends before takes it along.
        self.closing: Closing | None = None
        #: Set when windows become due.
        self.became_due = asyncio.Event()
        #: The fold that was committed last, as a trace has it.
        self.last_fold: Span = NO_SPAN
        self._settings = settings
        self._topics = topics
        self._clock = clock
        self._cached = cached
        self._liveness = liveness
        self._meter = meter
        self._tracer = tracer
        self._released = False
        self._producer = TransactionalProducer(settings, partition, liveness=liveness, make_client=compiled.client())
        self._store: PartitionStore | None = None
        self._state: PartitionState | None = None

    @property
    def state(self) -> PartitionState:
        """The partition's committed state; there is none before :meth:`take_over`."""
        if self._state is None:
            raise StateError(f"partition {self.partition} is not restored yet")
        return self._state

    async def take_over(self) -> None:
        """Fence the former owner, restore, and find out where to start reading.

        Raises:
            Fenced: a later owner was faster, or the partition was released meanwhile.
            StateError: state and offsets contradict each other.
            BrokerError: the broker refused.
        """
        began = time.perf_counter()
        store, restored = await self._producer.run(self._fence_and_restore)
        self._state = PartitionState(store, self._cached)
        refuse_other_topics(self._state.record, self.identities)
        starts = start_offsets(self._settings, self._topics, self.partition, self._state, restored)
        logger.info(
            "partition %s is taken over: %s changelog records restored, reading from %s",
            self.partition,
            restored.records,
            starts,
        )
        self.expected, self.starts = dict(starts), starts
        self._meter.restored(restored.records, time.perf_counter() - began)

    def accept(self, batch: Batch) -> bool:
        """Take a batch if it continues what there is; else return False: it was fetched for a former assignment, or
        records before it were dropped."""
        if batch.start != self.expected.get(batch.topic):
            return False
        self.expected[batch.topic] = batch.end
        self.inbox.put_nowait(batch)
        return True

    def go_back(self) -> None:
        """Expect again what was not committed: it was accepted, and dropped."""
        while not self.inbox.empty():
            self.inbox.get_nowait()
        offsets = self.state.record.offsets
        self.expected = {topic: max(start, offsets.get(topic, start)) for topic, start in self.starts.items()}

    def _fence_and_restore(self) -> tuple[PartitionStore, Restored]:
        self._producer.fence()
        if self._released:
            raise Fenced(f"partition {self.partition} was given up before it was restored")
        with self._liveness.step(f"partition {self.partition}: RocksDB does not open"):
            store = self._store = PartitionStore(data_path(self._settings, self.partition))
        restorer = Restorer(self._settings, self._topics, self._clock, liveness=self._liveness)
        return store, restorer.restore(
            self.partition,
            store,
            self.identities.changelog,
            lambda: self._released,
            tombstones_kept_ms=self.identities.tombstones_kept_ms,
        )

    async def commit(self, transaction: Transaction) -> None:
        """Commit *transaction* to Kafka, then to the state. The caller holds :attr:`turn`.

        Raises:
            Aborted: nothing has changed; the same records can be folded again.
            Fenced, BrokerError, StateError: the partition must be given up.
        """
        step = self._tracer.span(
            "transaction",
            partition=self.partition,
            changelog_records=len(transaction.changes) + 1,  # the partition record
            sent_records=len(transaction.sends),
        )
        with step as span, measured_transaction(self._meter, span):
            await self._producer.run(lambda: self._commit(transaction))
        size, watermark = self._settings.batch_time_ms, self.state.record.watermark
        self.state.apply(transaction)
        if transaction.record.watermark // size > watermark // size:
            self.became_due.set()

    def _commit(self, transaction: Transaction) -> None:
        record = (PARTITION_RECORD_KEY, transaction.record.encode())
        last = self._producer.transact(transaction.sends, self._topics.changelog, transaction.changes, record)
        with self._liveness.step(f"partition {self.partition}: RocksDB does not take a write"):
            self.state.persist(transaction, Position(last + 1, self._clock.now_ms(), self.identities.changelog))

    async def count_open(self, after: bytes, until_end: int | None, limit: int) -> tuple[int, bytes]:
        """See :meth:`PartitionStore.count_open`.

        In the producer's thread: while a scan is under way the store must not be closed, or its folder would stay
        locked for the next assignment; and the release waits for that thread.
        """
        return await self._producer.run(lambda: self.state.count_open(after, until_end, limit))

    async def settle(self) -> bool:
        """Wait, within a deadline, until the step under way is committed, and let no other begin.

        Returns:
            False when the deadline has passed: the step goes on in its thread, and ends or is fenced.
        """
        try:
            async with asyncio.timeout(_SETTLE_S):
                await self.turn.acquire()
        except TimeoutError:
            logger.warning("partition %s is given up in the middle of a transaction", self.partition)
            return False
        return True

    async def release(self) -> None:
        """Give the partition up: drop its state, and close what it holds."""
        self._released = True
        with suppress(TimeoutError):
            async with asyncio.timeout(_RELEASE_S):
                await self._producer.run(lambda: None)
        self._producer.stop()
        if self._store is not None:
            self._store.close()


def refuse_other_topics(record: PartitionRecord, identities: Identities) -> None:
    """Refuse source topics that are not those which the offsets in *record* are of.

    Raises:
        StateError: a topic was deleted and made anew. Its offsets mean other records now, however many it has.
    """
    for topic, topic_id in identities.sources.items():
        if record.topic_ids.get(topic, topic_id) != topic_id:
            raise StateError(
                f"{topic} was made anew since it was last read: the state belongs to the topic that it was before. "
                "Start afresh with a new FEEDBACK_APP_ID and a new FEEDBACK_MONGODB_DATABASE."
            )


def start_offsets(
    settings: Settings, topics: Topics, partition: int, state: PartitionState, restored: Restored
) -> dict[str, int]:
    """Return the offset to start reading at, for each source topic: the one in the partition's own record.

    The group's offsets are for lag tools: they follow the state, and can expire. One that is ahead of the state says
    that the state was lost.

    Raises:
        StateError: state, offsets and input don't belong together.
    """
    starts = {}
    for topic, low in restored.firsts.items():
        stored = state.record.offsets.get(topic)
        committed = restored.committed.get(topic)
        if committed is not None and committed > (stored or 0):
            raise StateError(
                f"{topic}[{partition}]: the group {settings.app_id!r} has committed offset {committed}, but the state "
                f"says {'nothing' if state.is_new else stored}: the changelog {topics.changelog!r} is not the one that "
                "belongs to the group. Restore it, or start afresh with a new FEEDBACK_APP_ID."
            )
        if stored is not None and stored < low and topic == topics.feedback:
            logger.error("%s[%s]: records %s to %s expired before they were read", topic, partition, stored, low - 1)
        starts[topic] = max(low, stored or 0)
    return starts


def data_path(settings: Settings, partition: int) -> Path:
    """Return the folder of a partition's RocksDB, as Faust lays tables out."""
    return settings.data_dir / settings.app_id / "v1" / "tables" / f"{TABLE_NAME}-{partition}.db"
