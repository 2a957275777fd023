"""What a topic holds, as a reader of committed records sees it."""

from __future__ import annotations

from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition


@dataclass(frozen=True, slots=True)
class Contents:
    """What is on a topic.

    Attributes:
        records: how many can be read.
        size: their keys' and values' bytes.
        live: keys whose last record is no tombstone.
        live_size: the bytes of those keys and of their last values.
        transactions: offsets that hold no record: one for each transaction's end.
    """

    records: int
    size: int
    live: int
    live_size: int
    transactions: int


def contents(servers: str, topic: str, partitions: int) -> Contents:
    """Read *topic* from beginning to end."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "contents",  # never joined
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "fetch.queue.backoff.ms": 5,
        }
    )
    records = size = offsets = 0
    last: dict[tuple[int, bytes], int] = {}
    unread = set(range(partitions))
    try:
        for partition in range(partitions):
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
            offsets += high - low
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
        while unread:
            for message in consumer.consume(10_000, 0.1):
                error, number = message.error(), message.partition() or 0
                if error is None:
                    key, value = message.key() or b"", message.value() or b""
                    records += 1
                    size += len(key) + len(value)
                    last[number, key] = len(value)
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread.discard(number)
                else:
                    raise KafkaException(error)
    finally:
        consumer.close()
    live = {key: length for (_, key), length in last.items() if length}
    live_size = sum(len(key) + length for key, length in live.items())
    return Contents(records, size, len(live), live_size, offsets - records)
