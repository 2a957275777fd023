"""Reading topics from where one likes to their end, as committed, beside the group and without joining it."""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Mapping
from types import TracebackType
from typing import NamedTuple, Self

from confluent_kafka import OFFSET_BEGINNING, TIMESTAMP_LOG_APPEND_TIME, Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as Position

from feedback_app.connections import ANSWER_S, answered, reader_config
from feedback_app.errors import BrokerError
from feedback_app.settings import Settings

_RECORDS_AT_ONCE = 10_000
#: ``consume`` waits this long for a full batch, so also before it tells that a partition's end is reached.
_PATIENCE_S = 0.03
_STALLED_S = 30.0


class Range(NamedTuple):
    """What a partition holds: its first offset, and the one after its last, uncommitted records included."""

    first: int
    end: int


class TopicReader:
    """Reads whole topics with ``read_committed``. It takes part in no group, and commits nothing."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.broker_url
        self._partitions = settings.partitions
        self._last_error = ""
        config = reader_config(
            settings,
            auto_offset_reset="earliest",
            fetch_wait_max_ms=10,
            queued_max_messages_kbytes=32 * 1024,
        )
        config.update(error_cb=self._on_error)
        self._committed = Consumer({**config, "isolation.level": "read_committed"})
        self._uncommitted = Consumer({**config, "isolation.level": "read_uncommitted"})

    def group_offsets(self, topic: str) -> dict[int, int]:
        """Return the offsets that the application's group has committed, for partitions where it has.

        Raises:
            BrokerError: the broker does not answer, or refuses.
        """
        return {at.partition: at.offset for at in self._group_offsets(topic) if at.offset >= 0}

    def ranges(self, topic: str) -> dict[int, Range]:
        """Return what each partition of *topic* holds.

        Raises:
            BrokerError: the broker does not answer, or refuses.
        """
        return {partition: self._range(topic, partition) for partition in range(self._partitions)}

    def read(
        self, topic: str, starts: Mapping[int, int], ends: dict[int, int], partitions: Collection[int] | None = None
    ) -> Generator[tuple[int, list[Message]], None, None]:
        """Yield committed records, some of one partition at a time, until the end of every partition was reached.

        Args:
            starts: where to start in each partition; those that are left out are read from their beginning.
            ends: gets, for each partition, the offset at which its end was found.
            partitions: which to read; all by default.

        Raises:
            BrokerError: the broker does not answer, or refuses.
        """
        consumer = self._committed
        partitions = range(self._partitions) if partitions is None else partitions
        self._learn_leaders(topic)
        consumer.assign([Position(topic, number, starts.get(number, OFFSET_BEGINNING)) for number in partitions])
        unfinished = set(partitions)
        heard = time.monotonic()
        try:
            while unfinished:
                by_partition: dict[int, list[Message]] = {}
                for message in consumer.consume(_RECORDS_AT_ONCE, _PATIENCE_S):
                    error = message.error()
                    if error is None:
                        by_partition.setdefault(message.partition() or 0, []).append(message)
                    elif error.code() == KafkaError._PARTITION_EOF:
                        ends[message.partition() or 0] = message.offset() or 0
                        unfinished.discard(message.partition() or 0)
                        heard = time.monotonic()
                    else:
                        raise BrokerError(f"FEEDBACK_BROKER_URL={self._url}: reading {topic}: {error.str()}")
                if by_partition:
                    yield from by_partition.items()
                    heard = time.monotonic()
                elif time.monotonic() - heard > _STALLED_S:
                    raise BrokerError(
                        f"FEEDBACK_BROKER_URL={self._url}: nothing heard for {_STALLED_S:g} s while reading {topic}"
                        f"{f' ({self._last_error})' if self._last_error else ''}"
                    )
        finally:
            consumer.unassign()

    def close(self) -> None:
        self._committed.close()
        self._uncommitted.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _learn_leaders(self, topic: str) -> None:
        # Left to itself, librdkafka looks for the leaders of partitions assigned to it once a second.
        try:
            answered(self._committed.list_topics)(topic, timeout=ANSWER_S)
        except KafkaException as error:
            raise self._failure(f"the leaders of {topic}", error) from error

    def _group_offsets(self, topic: str) -> list[Position]:
        positions = [Position(topic, number) for number in range(self._partitions)]
        try:
            answer: list[Position] = answered(self._committed.committed)(positions, timeout=ANSWER_S)
        except KafkaException as error:
            raise self._failure(f"the offsets of group and topic {topic}", error) from error
        return answer

    def _range(self, topic: str, partition: int) -> Range:
        look_up = answered(self._uncommitted.get_watermark_offsets)
        try:
            return Range(*look_up(Position(topic, partition), timeout=ANSWER_S))
        except KafkaException as error:
            raise self._failure(f"the offsets of {topic}/{partition}", error) from error

    def _failure(self, what: str, error: KafkaException) -> BrokerError:
        return BrokerError(f"FEEDBACK_BROKER_URL={self._url}: {what}: {error.args[0].str()}")

    def _on_error(self, error: KafkaError) -> None:
        self._last_error = error.str()


def appended_at(message: Message) -> int | None:
    """Return the broker's own time of a record; None where it carries its producer's."""
    kind, at = message.timestamp()
    return at if kind == TIMESTAMP_LOG_APPEND_TIME else None
