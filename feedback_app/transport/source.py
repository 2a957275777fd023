"""Reading the source topics of one partition, with librdkafka.

Membership of the group is Faust's; the records come this way, because librdkafka fetches and decompresses in threads
that leave the interpreter to the fold. Measured, that saves a quarter of an event's cost against aiokafka.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException

from feedback_app.connections import ANSWER_S, learn_leader, passes, reader_config
from feedback_app.errors import BrokerError, StateError
from feedback_app.liveness import Liveness, watched
from feedback_app.measuring import Progress
from feedback_app.settings import Settings
from feedback_app.transport.readers import ConfluentReader, Fetched, MakeReader, Notice

logger = logging.getLogger(__name__)

#: Records of one batch, at most: with what follows, it bounds memory. Each batch costs some 0.6 ms of processor time,
#: however many records it has.
BATCH_RECORDS: Final = 8_000
#: How long a batch waits to be full, where the topics have enough for it: what is fetched comes in answers of some
#: 1,500 small records, each a few milliseconds after the other.
_FILL_S: Final = 0.05
#: And when it is full, however few records it has.
_FILL_BYTES: Final = 2 << 20
#: More is fetched for a partition as long as no more than this waits to be taken up; one answer may bring thousands.
#: Each record costs librdkafka some 300 bytes more than it holds: with its own limits, 4 MB of small records took 13 MB
#: for every partition; and waiting for fewer than 5,000 instead of 1,000 took 6 MB for each.
_AHEAD_RECORDS: Final = 1_000
_AHEAD_KB: Final = 2_048
#: How long a reader rests once that much is there: librdkafka's second starves one that takes it in less. Each rest
#: ends with a look at the queue. The more partitions a worker reads, the less often each has its turn, and the longer
#: it may rest: with 64 of them, looking every 5 ms took a third of all processor time.
_REST_MS: Final = 5
_PARTITIONS_AT_THAT: Final = 8
#: Asked for at once, compressed; a larger batch comes by itself. librdkafka decompresses all of an answer before it
#: looks at the bound above, so this one is what a flood of records that compress to nothing is up against.
_ANSWER_BYTES: Final = 256 << 10

#: How old the known end of a topic may be before the broker is asked; and how long it may take to answer.
_HEARD_LATELY_S: Final = 5.0
_END_S: Final = 1.0


class Batch(NamedTuple):
    """Consecutive records of one source topic and partition.

    Attributes:
        start: where the batch before it ended, or where reading was started.
        end: where it ends: the offset after its last record.
        records: at least one, until they are taken.
        behind: how much further the topic went, in offsets, as far as was known when it was fetched.
    """

    topic: str
    partition: int
    start: int
    end: int
    records: Fetched
    behind: int = 0


class PartitionSource:
    """Reads one partition of every source topic, committed records only, from given offsets on.

    All methods block, and are called from one thread at a time.

    Args:
        partitions: how many the worker reads, this one included.
        make_reader: makes what gets the records from librdkafka.
    """

    def __init__(
        self,
        settings: Settings,
        partition: int,
        offsets: Mapping[str, int],
        *,
        partitions: int = 1,
        liveness: Liveness | None = None,
        make_reader: MakeReader = ConfluentReader,
    ) -> None:
        self.partition = partition
        #: Where the next batch of each topic starts; and how far it has been read, which is further where only markers
        #: of transactions follow: they are never handed out.
        self._starts = dict(offsets)
        self._read_to = dict(offsets)
        #: Where the end of a topic was last met.
        self._ends: dict[str, int] = {}
        #: Where each topic ends, as far as is known.
        self._known_ends: dict[str, int] = {}
        self._heard_at = 0.0
        #: How far each topic is read. It is replaced as a whole, and may be looked at in any thread.
        self.progress: Mapping[str, Progress] = {}
        reader = make_reader(
            reader_config(settings)
            | {
                "isolation.level": "read_committed",
                # An offset that is not there any more must not be skipped silently.
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 250,
                "fetch.queue.backoff.ms": max(_REST_MS, _REST_MS * partitions // _PARTITIONS_AT_THAT),
                "queued.max.messages.kbytes": _AHEAD_KB,
                "queued.min.messages": _AHEAD_RECORDS,
                "max.partition.fetch.bytes": _ANSWER_BYTES,
            },
            partition,
        )
        self._reader = watched(reader, f"the source of partition {partition}", liveness)
        for topic in offsets:
            learn_leader(self._reader.learn_leader, topic)
        self._reader.assign(list(offsets.items()))

    def fetch(self, timeout: float) -> list[Batch]:
        """Wait at most *timeout* seconds for records, and return what is there: at most a batch a topic.

        Raises:
            StateError: the records to read are gone.
            BrokerError: the broker refuses, or has no such topic any more.
        """
        fill_s = _FILL_S if self._is_far_behind() else 0.0
        fetched, notices = self._reader.consume(BATCH_RECORDS, timeout, fill_s, _FILL_BYTES)
        for error in self._reader.errors():
            self._hear(error)
        for notice in notices:
            self._look_at(notice)
        self._hear_ends()
        batches = [self._batch(topic, records) for topic, records in fetched]
        self._note_progress()
        return batches

    def _is_far_behind(self) -> bool:
        """Say whether what is left to read fills a batch, as far as is known."""
        return sum(self._behind(topic, read_to) for topic, read_to in self._read_to.items()) >= BATCH_RECORDS

    def _behind(self, topic: str, offset: int) -> int:
        """Return how much further than *offset* a topic goes, as far as is known."""
        return max(0, self._known_ends.get(topic, 0) - offset)

    def at_the_end(self) -> bool:
        """Ask the broker whether there is nothing left to read; False also when it does not answer."""
        for topic, read_to in self._read_to.items():
            try:
                _, end = self._reader.watermarks(topic, ANSWER_S)
            except KafkaException as error:
                logger.warning("%s[%s]: its end is not known: %s", topic, self.partition, error.args[0].str())
                return False
            if read_to < end or self._ends.get(topic) != read_to:
                return False
        return True

    def ask_for_ends(self) -> None:
        """Ask the broker where the topics end, unless it has told so lately. It may not answer: then nothing changes.

        Every fetch tells (:meth:`_hear_ends`); this is for a source that nothing is fetched from, because what it has
        fetched is not taken up: its lag would stand still just when it grows.
        """
        if time.monotonic() - self._heard_at < _HEARD_LATELY_S:
            return
        for topic in self._starts:
            try:
                _, end = self._reader.watermarks(topic, _END_S)
            except KafkaException as error:
                logger.debug("%s[%s]: its end is not known: %s", topic, self.partition, error.args[0].str())
                return
            self._ends_at(topic, end)
        self._heard_at = time.monotonic()
        self._note_progress()

    def _hear_ends(self) -> None:
        """Note the ends that came with the last fetch: librdkafka keeps them, so this asks nobody and takes 2 us."""
        for topic in self._starts:
            with suppress(KafkaException):  # what matters is told by the fetch itself
                _, end = self._reader.watermarks(topic, None)
                self._ends_at(topic, end)
        self._heard_at = time.monotonic()

    def _ends_at(self, topic: str, end: int) -> None:
        if end >= 0:  # else it is not known yet
            self._known_ends[topic] = max(end, self._known_ends.get(topic, 0))

    def _note_progress(self) -> None:
        self.progress = {
            topic: Progress(start, self._read_to[topic], self._known_ends.get(topic))
            for topic, start in self._starts.items()
        }

    def close(self) -> None:
        """Let go of the broker."""
        self._reader.close()

    def _batch(self, topic: str, records: Fetched) -> Batch:
        start = self._starts[topic]
        end = self._starts[topic] = (records[-1].offset() or 0) + 1
        self._read_to[topic] = max(self._read_to[topic], end)
        return Batch(topic, self.partition, start, end, records, behind=self._behind(topic, end))

    def _hear(self, error: KafkaError) -> None:
        logger.debug("librdkafka: %s", error.str())
        # A topic that is deleted, for half a minute, is told nowhere else: its reader would wait for ever.
        if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise BrokerError(f"partition {self.partition} can't be read any more: {error.str()}")

    def _look_at(self, notice: Notice) -> None:
        """Note that the end was reached, or see what an error means."""
        topic, offset, error = notice
        where = f"{topic}[{self.partition}]"
        if error.code() == KafkaError._PARTITION_EOF:
            self._ends[topic] = self._read_to[topic] = max(self._read_to[topic], offset)
        elif passes(error):
            logger.warning("%s: %s", where, error.str())
        elif error.code() in {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}:
            raise StateError(
                f"{where}: offset {self._starts.get(topic)} is not there any more: the topic was made anew, or its "
                f"records expired before they were read ({error.str()})"
            )
        elif error.code() == KafkaError._BAD_COMPRESSION:
            raise BrokerError(
                f"{where}: the batch at offset {offset} can't be decompressed, or to too much: no worker "
                f"can get past it; delete the partition's records up to the end of that batch ({error.str()})"
            )
        else:
            raise BrokerError(f"{where} can't be read: {error.str()}")
