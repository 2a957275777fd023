"""The limit: confluent-kafka, orjson and a dict. ``python -m benchmarks.bare_loop [--tuned]``.

What one process could reach if counting were all there is to it: it validates nothing, stores nothing and survives
nothing. As it is written at first, with librdkafka's defaults, it rests most of the time: whenever its queue of fetched
records is full, librdkafka waits for a second (``fetch.queue.backoff.ms``). With ``--tuned`` that is 5 ms, as in the
worker. Reads the same ``FEEDBACK_*`` settings as ours. Once it has counted the whole topic it publishes its windows, so
that it is checked like the others.
"""

from __future__ import annotations

import sys
from collections import defaultdict

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from benchmarks.output import closed_window
from feedback_app.settings import Settings, load_settings
from feedback_app.topics import Topics

_FETCH = 10_000


def count(settings: Settings, *, tuned: bool) -> dict[tuple[str, int], int]:
    """Read every partition to its end and return the count of each (agent, window start)."""
    topic = Topics.of(settings).feedback
    consumer = Consumer(
        {
            "bootstrap.servers": settings.bootstrap_servers,
            "group.id": settings.app_id,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            **({"fetch.queue.backoff.ms": 5} if tuned else {}),
            # In the background: the offsets show the harness how far it has counted.
            "auto.commit.interval.ms": 50,
        }
    )
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(settings.partitions)])
    size, loads = settings.batch_time_ms, orjson.loads
    counts: defaultdict[tuple[str, int], int] = defaultdict(int)
    unread = set(range(settings.partitions))
    while unread:
        for message in consumer.consume(_FETCH, 0.05):
            error = message.error()
            if error is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                unread.discard(message.partition())
                continue
            event = loads(message.value() or b"")
            timestamp = event["timestamp"]
            counts[event["agentId"], timestamp - timestamp % size] += 1
    consumer.close()
    return counts


def publish(settings: Settings, counts: dict[tuple[str, int], int]) -> None:
    """Publish the windows."""
    topic = Topics.of(settings).aggregates
    producer = Producer(
        {"bootstrap.servers": settings.bootstrap_servers, "queue.buffering.max.messages": len(counts) + 1}
    )
    for (agent_id, start), total in counts.items():
        producer.produce(topic, closed_window(agent_id, start, settings.batch_time_ms, total), agent_id)
    if producer.flush(60):
        raise RuntimeError(f"{topic}: the broker did not take all of the windows")


def main() -> None:
    """Count, then publish."""
    settings = load_settings()
    publish(settings, count(settings, tuned="--tuned" in sys.argv[1:]))


if __name__ == "__main__":
    main()
