"""Reading stretches of the dead-letter topic, committed records only, beside the group."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Final

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from feedback_app.connections import open_client, passes, reader_config
from feedback_app.deadletters.browsing import Range, TookTooLong
from feedback_app.errors import BrokerError
from feedback_app.settings import Settings
from feedback_app.topics import Topics

_ANSWER_S: Final = 2.0
#: How long it is believed where partitions begin. What has expired since then is not found, and that is all.
_FIRSTS_S: Final = 10.0
_LOOK_S: Final = 0.2
_AT_ONCE: Final = 200
#: Fetched ahead, and at once: a letter may have a megabyte, and more than the page that is asked for is never needed.
_AHEAD_KB: Final = 2_048
_ANSWER_BYTES: Final = 1 << 20


class LetterRecords:
    """Implements ``browsing.Records``. All methods belong to one thread."""

    def __init__(self, settings: Settings) -> None:
        """Connect.

        Raises:
            BrokerError: the broker does not answer, or has no such topic.
        """
        self._topic = Topics.of(settings).dead_letter
        self._partitions = settings.partitions
        self._consumer = open_client(
            Consumer,
            reader_config(settings)
            | {
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 10,
                "queued.max.messages.kbytes": _AHEAD_KB,
                "fetch.max.bytes": 4 * _ANSWER_BYTES,
                "max.partition.fetch.bytes": _ANSWER_BYTES,
            },
        )
        self._firsts: dict[int, int] = {}
        self._firsts_at = float("-inf")
        try:
            # Left to itself, librdkafka looks for the leaders of partitions assigned to it once a second.
            found = self._consumer.list_topics(self._topic, _ANSWER_S).topics[self._topic]
        except KafkaException as error:
            self.close()
            raise BrokerError(error.args[0].str()) from None
        if found.error is not None:
            self.close()
            raise BrokerError(found.error.str())

    def bounds(self) -> Mapping[int, Range]:
        """See ``browsing.Records``. The end is that of what is committed."""
        ends = self._offsets(OFFSET_END)
        if time.monotonic() - self._firsts_at > _FIRSTS_S:
            self._firsts, self._firsts_at = self._offsets(OFFSET_BEGINNING), time.monotonic()
        firsts = self._firsts
        return {number: Range(min(firsts[number], ends[number]), ends[number]) for number in ends}

    def read(self, ranges: Mapping[int, Range], deadline: float) -> Iterator[Message]:
        """See ``browsing.Records``."""
        waiting = {number: range_ for number, range_ in ranges.items() if range_.first < range_.end}
        self._consumer.assign([TopicPartition(self._topic, number, first) for number, (first, _) in waiting.items()])
        try:
            while waiting:
                if time.monotonic() > deadline:
                    raise TookTooLong
                messages = self._consumer.consume(1, _LOOK_S)
                if messages:
                    messages += self._consumer.consume(_AT_ONCE, 0)
                for message in messages:
                    yield from self._judge(message, waiting)
        finally:
            self._consumer.unassign()

    def close(self) -> None:
        """Let go of the broker."""
        self._consumer.close()

    def _judge(self, message: Message, waiting: dict[int, Range]) -> Iterator[Message]:
        """Yield a record that is wanted; note in *waiting* which partitions are done."""
        number, error, offset = message.partition() or 0, message.error(), message.offset() or 0
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                waiting.pop(number, None)
            elif not passes(error):
                raise BrokerError(error.str())
            return
        wanted = waiting.get(number)
        if wanted is None:
            return
        if offset >= wanted.end - 1:  # behind it, where its last offsets are markers of transactions
            del waiting[number]
        if wanted.first <= offset < wanted.end:
            yield message

    def _offsets(self, which: int) -> dict[int, int]:
        """Return the first offset of each partition, or its end: one request for each broker."""
        wanted = [TopicPartition(self._topic, number, which) for number in range(self._partitions)]
        try:
            answers = self._consumer.offsets_for_times(wanted, timeout=_ANSWER_S)
        except KafkaException as error:
            raise BrokerError(error.args[0].str()) from None
        for answer in answers:
            if answer.error is not None:
                raise BrokerError(answer.error.str())
        return {answer.partition: answer.offset for answer in answers}
