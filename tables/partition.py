"""One partition while this worker owns it: committed state, the changes made to it, and the records waiting for it."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from feedback_app.core.aggregate import Aggregate
from feedback_app.core.clock import Clock
from feedback_app.core.events import SourceRecord
from feedback_app.core.state import CLOSED, OPEN, PARTITION_RECORD_KEY, PartitionRecord, end_of
from feedback_app.core.transaction import Send, Transaction
from feedback_app.errors import Fenced, StateError
from feedback_app.settings import Settings
from feedback_app.topics import TABLE_NAME, Topics
from feedback_app.transport.transactions import TransactionalProducer
from tables.restore import Restored, Restorer
from tables.store import PartitionStore, Position

logger = logging.getLogger(__name__)

#: How long giving a partition up waits for a transaction in flight. Below the shortest session timeout.
_RELEASE_S: Final = 4.0

Batch = Sequence[SourceRecord]


class OwnedPartition:
    """One partition of one assignment, from take-over to release. It is never used for a second assignment.

    Folds, closes and moves of the watermark hold :attr:`turn` from the first state that they read until
    :meth:`commit` returns: they exclude each other. State and cache only ever hold what is committed.

    Args:
        cached: how many windows the partition may keep in memory.
    """

    def __init__(
        self, settings: Settings, topics: Topics, partition: int, *, clock: Clock, topic_id: str, cached: int
    ) -> None:
        self.partition = partition
        self.turn = asyncio.Lock()
        self.inbox: asyncio.Queue[Batch] = asyncio.Queue()
        #: Wall time since which nothing has been folded.
        self.silent_since_ms = clock.now_ms()
        #: True while a batch that was taken from the inbox is not committed yet.
        self.folding = False
        self._settings = settings
        self._topics = topics
        self._clock = clock
        self._topic_id = topic_id
        self._cached = cached
        self._record = PartitionRecord()
        self._cache: OrderedDict[bytes, Aggregate] = OrderedDict()
        self._cursor = OPEN
        self._closed_cursor = CLOSED
        self._released = False
        self._producer = TransactionalProducer(settings, partition)
        self._opened: PartitionStore | None = None

    # -- taking over and giving up ---------------------------------------------------------------------------------

    async def take_over(self) -> Mapping[str, int]:
        """Fence the former owner, restore, and return the offset to start reading at, for each source topic.

        Raises:
            Fenced: a later owner was faster, or the partition was released meanwhile.
            StateError: state and offsets contradict each other.
            BrokerError: the broker refused.
        """
        restored = await self._producer.run(self._take_over)
        self._record = self._store.record() or PartitionRecord()
        return self._start_offsets(restored)

    def _take_over(self) -> Restored:
        self._producer.fence()
        if self._released:
            raise Fenced(f"partition {self.partition} was given up before it was restored")
        self._opened = PartitionStore(data_path(self._settings, self.partition))
        return Restorer(self._settings, self._topics, self._clock).restore(
            self.partition, self._opened, self._topic_id, lambda: self._released
        )

    def _start_offsets(self, restored: Restored) -> dict[str, int]:
        known = self._store.record() is not None
        starts = {}
        for topic, (low, high) in restored.bounds.items():
            stored = self._record.offsets.get(topic)
            committed = restored.committed.get(topic)
            if committed is not None and committed != stored:
                raise StateError(
                    f"{topic}[{self.partition}]: the group {self._settings.app_id!r} has committed offset {committed}, "
                    f"but the state says {stored if known else 'nothing'}: the changelog {self._topics.changelog!r} is "
                    "not the one that belongs to the group. Restore it, or start afresh with a new FEEDBACK_APP_ID."
                )
            if stored is not None and stored > high:
                raise StateError(
                    f"{topic}[{self.partition}]: the state has counted up to offset {stored}, but the topic ends at "
                    f"{high}: the topic was made anew. Start afresh with a new FEEDBACK_APP_ID."
                )
            if stored is not None and stored < low and topic == self._topics.feedback:
                logger.error(
                    "%s[%s]: records %s to %s expired before they were read", topic, self.partition, stored, low - 1
                )
            starts[topic] = max(low, stored or 0)
        logger.info(
            "partition %s is taken over: %s changelog records restored, reading from %s",
            self.partition,
            restored.records,
            starts,
        )
        return starts

    async def release(self) -> None:
        """Give the partition up: let the transaction in flight finish, within a deadline, and drop all state."""
        self._released = True
        try:
            async with asyncio.timeout(_RELEASE_S):
                await self._producer.run(lambda: None)
        except TimeoutError:
            logger.warning("partition %s is given up in the middle of a transaction", self.partition)
        self._producer.stop()
        self._cache.clear()
        if self._opened is not None:
            self._opened.close()

    @property
    def _store(self) -> PartitionStore:
        if self._opened is None:
            raise StateError(f"partition {self.partition} is not restored yet")
        return self._opened

    # -- committed state -------------------------------------------------------------------------------------------

    @property
    def record(self) -> PartitionRecord:
        return self._record

    def stored(self, key: bytes) -> bytes | None:
        return self._store.get(key)

    def aggregate(self, key: bytes) -> Aggregate | None:
        cached = self._cache.get(key)
        if cached is not None:
            self._cache.move_to_end(key)
            return cached
        value = self._store.get(key)
        return None if value is None else Aggregate.decode(value)

    def open_windows_of(self, agent_id: str) -> list[tuple[bytes, bytes]]:
        """Return the open windows of one agent, oldest first."""
        return self._store.open_windows_of(agent_id)

    def newest_end(self) -> int | None:
        """Return the end of the newest open window; None when none is open."""
        key = self._store.newest_open()
        return None if key is None else end_of(key)

    # -- the close schedule ----------------------------------------------------------------------------------------

    def take_due(self, limit: int) -> list[tuple[bytes, bytes]]:
        """Take at most *limit* due windows, in key order; they are not given out again until :meth:`put_back`, or
        until they change.

        A scan starts where the last one ended, and not from the front: what was closed leaves tombstones in RocksDB,
        and a scan over them gets slower for ever.
        """
        found = self._store.open_windows(self._cursor, self._record.watermark, limit)
        if found:
            self._cursor = found[-1][0] + b"\x00"
        return found

    def put_back(self, keys: Iterable[bytes]) -> None:
        """Give windows out again that were taken and not closed."""
        self._cursor = min((self._cursor, *keys))

    def take_expired(self, limit: int) -> list[bytes]:
        """Take the keys of at most *limit* closed records that end at or below the floor; each is given out once."""
        found = self._store.closed_keys(self._closed_cursor, self._record.floor, limit)
        if found:
            self._closed_cursor = found[-1] + b"\x00"
        return found

    # -- changes ---------------------------------------------------------------------------------------------------

    async def commit(self, transaction: Transaction) -> None:
        """Commit *transaction* to Kafka, then to RocksDB and the cache. The caller holds :attr:`turn`.

        Raises:
            Aborted: nothing has changed; the same records can be folded again.
            Fenced, BrokerError, StateError: the partition must be given up.
        """
        await self._producer.run(lambda: self._commit(transaction))
        self._record = transaction.record
        for key, value in transaction.changes.items():
            aggregate = transaction.aggregates.get(key)
            if aggregate is None:
                self._cache.pop(key, None)
            else:
                self._cache[key] = aggregate
                self._cache.move_to_end(key)
            if value is not None and key < self._cursor and key.startswith(OPEN):
                self._cursor = key
        while len(self._cache) > self._cached:
            self._cache.popitem(last=False)

    def _commit(self, transaction: Transaction) -> None:
        changes = {**transaction.changes, PARTITION_RECORD_KEY: transaction.record.encode()}
        changelog = (Send(self._topics.changelog, self.partition, key, value) for key, value in changes.items())
        last = self._producer.transact(changelog, transaction.sends, transaction.offsets)
        self._store.write(changes, Position(last + 1, self._clock.now_ms(), self._topic_id))


def data_path(settings: Settings, partition: int) -> Path:
    """Return the folder of a partition's RocksDB, as Faust lays tables out."""
    return settings.data_dir / settings.app_id / "v1" / "tables" / f"{TABLE_NAME}-{partition}.db"
