"""Restoring a partition's store from its changelog."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from feedback_app.connections import ANSWER_S, answered, learn_leader, reader_config
from feedback_app.core.clock import Clock
from feedback_app.core.state import Changes
from feedback_app.errors import BrokerError, Fenced
from feedback_app.liveness import Liveness, watched
from feedback_app.settings import Settings
from feedback_app.topics import TOMBSTONES_KEPT_MS, Topics
from tables.store import PartitionStore, Position

logger = logging.getLogger(__name__)

_BATCH: Final = 10_000
#: ``consume`` waits this long for a full batch, so also before it tells that the end is reached.
_PATIENCE_S: Final = 0.05
_STALLED_S: Final = 60.0
#: Tombstones are dropped by the broker's clock, ages are measured by ours: stay on the safe side.
_CLOCKS_DIFFER_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did.

    Attributes:
        records: changelog records applied.
        offset: the next changelog offset: everything before it is in the store.
        wiped: why the store was started over; empty when it was not.
        committed: the group's committed source offsets, by topic; topics without one are left out.
        firsts: the first offset that each source topic still has.
    """

    records: int
    offset: int
    wiped: str
    committed: dict[str, int]
    firsts: dict[str, int]


class Restorer:
    """Reads one partition's changelog into its store. Blocking: it runs in the partition's own thread.

    The former owner must be fenced first: then the changelog's end stands still, and everything below it is decided.
    """

    def __init__(self, settings: Settings, topics: Topics, clock: Clock, *, liveness: Liveness | None = None) -> None:
        self._settings = settings
        self._topics = topics
        self._clock = clock
        self._liveness = liveness

    def restore(
        self,
        partition: int,
        store: PartitionStore,
        topic_id: str,
        stopped: Callable[[], bool] = lambda: False,
        *,
        tombstones_kept_ms: int = TOMBSTONES_KEPT_MS,
    ) -> Restored:
        """Bring *store* up to the changelog's end.

        Args:
            topic_id: the changelog's present id.
            stopped: asked between batches; when it says yes, the restore gives up.
            tombstones_kept_ms: how long the changelog keeps tombstones: it is of no use to a store that is older.

        Raises:
            BrokerError: the changelog can't be read.
            Fenced: *stopped* said yes.
        """
        # Ends are asked for with uncommitted records: the changelog has none once its former owner is fenced, and a
        # source topic is where it is, whatever is still undecided on it.
        with self._reader("read_committed") as reader, self._reader("read_uncommitted") as ends:
            # Asked for before the changelog's end: whatever the group knows by now lies below that end. The other way
            # round, a worker that was frozen in between finds its successor's offsets, ahead of what it has restored.
            committed = self._committed(reader, partition)
            changelog = TopicPartition(self._topics.changelog, partition)
            low, high = self._offsets(ends, changelog)
            position = store.position()
            wiped = self._unusable(position, topic_id, low, high, tombstones_kept_ms)
            if wiped:
                logger.warning("partition %s: %s; restoring in full", partition, wiped)
                store.wipe()
                position = None
            start = low if position is None else position.offset
            changelog.offset = start
            records, offset = self._read(reader, changelog, store, topic_id, stopped) if start < high else (0, start)
            if records == 0:  # the store is known to be up to date now, however old its last write is
                store.write({}, Position(offset, self._clock.now_ms(), topic_id))
            return Restored(
                records=records,
                offset=offset,
                wiped=wiped,
                committed=committed,
                firsts={
                    topic: self._offsets(ends, TopicPartition(topic, partition))[0] for topic in self._topics.sources
                },
            )

    def _unusable(self, position: Position | None, topic_id: str, low: int, high: int, tombstones_kept_ms: int) -> str:
        """Say why a store at *position* can't be brought up to date; empty when it can."""
        if position is None:
            return ""
        if position.topic_id != topic_id:
            return "the changelog was made anew"
        if position.offset > high:
            return f"the data dir is at offset {position.offset}, beyond the changelog's end {high}"
        if position.offset < low:
            return f"the data dir is at offset {position.offset}, before the changelog's beginning {low}"
        if self._clock.now_ms() - position.at_ms > tombstones_kept_ms - _CLOCKS_DIFFER_MS:
            return "the data dir is older than the changelog keeps tombstones"
        return ""

    def _read(
        self,
        reader: confluent_kafka.Consumer,
        changelog: TopicPartition,
        store: PartitionStore,
        topic_id: str,
        stopped: Callable[[], bool],
    ) -> tuple[int, int]:
        """Apply the changelog from *changelog*'s offset to its end; return the records applied and the end."""
        learn_leader(reader.list_topics, changelog.topic)
        reader.assign([changelog])
        count, answered = 0, time.monotonic()
        while True:
            if stopped():
                raise Fenced(f"partition {changelog.partition} was given up while it was restored")
            changes: Changes = {}
            end = None
            for message in reader.consume(_BATCH, _PATIENCE_S):
                answered = time.monotonic()
                error = message.error()
                if error is None:
                    changes[message.key() or b""] = message.value()
                    count += 1
                    next_offset = (message.offset() or 0) + 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    end = message.offset()
                elif not error.retriable():
                    raise BrokerError(f"{changelog.topic}[{changelog.partition}] can't be read: {error.str()}")
            if end is not None:
                # Where the reading ended: past the markers of transactions, which are never handed out.
                store.write(changes, Position(end, self._clock.now_ms(), topic_id))
                return count, end
            if changes:
                store.write(changes, Position(next_offset, self._clock.now_ms(), topic_id))
            if time.monotonic() - answered > _STALLED_S:
                raise BrokerError(f"{changelog.topic}[{changelog.partition}]: the broker has stopped answering")

    def _committed(self, reader: confluent_kafka.Consumer, partition: int) -> dict[str, int]:
        asked = [TopicPartition(topic, partition) for topic in self._topics.sources]
        try:
            answer = answered(reader.committed)(asked, ANSWER_S)
        except KafkaException as error:
            raise BrokerError(f"the group's offsets can't be read: {error.args[0].str()}") from error
        return {at.topic: at.offset for at in answer if at.offset >= 0}

    def _offsets(self, reader: confluent_kafka.Consumer, at: TopicPartition) -> tuple[int, int]:
        try:
            low, high = answered(reader.get_watermark_offsets)(at, ANSWER_S)
        except KafkaException as error:
            raise BrokerError(f"{at.topic}[{at.partition}]: {error.args[0].str()}") from error
        return low, high

    @contextmanager
    def _reader(self, isolation: str) -> Iterator[confluent_kafka.Consumer]:
        reader = confluent_kafka.Consumer(
            reader_config(self._settings)
            | {
                "isolation.level": isolation,
                "auto.offset.reset": "error",
                # All partitions are restored at once: what each has fetched ahead counts as often.
                "queued.max.messages.kbytes": 2_048,
                "queued.min.messages": _BATCH,
                "max.partition.fetch.bytes": 256 << 10,
                "fetch.wait.max.ms": 100,
                "fetch.queue.backoff.ms": 5,  # the default of a second starves a reader that empties its queue in less
            },
            logger=logging.getLogger("feedback_app.librdkafka"),
        )
        try:
            yield watched(reader, f"the restore ({isolation})", self._liveness)
        finally:
            reader.close()
