"""The same limit in asyncio: aiokafka, orjson and a dict. ``python -m benchmarks.peers.aiokafka_loop``.

The twin of ``benchmarks.bare_loop``: it validates nothing, stores nothing and survives nothing, reads the same
``FEEDBACK_*`` settings, and publishes its windows once it has counted the whole topic. Runs in our own environment.

It has aiokafka's defaults: fetches of 4 MiB a partition instead of 1, 100,000 records at once instead of 10,000, and no
checksums (``check_crcs=False``) each gave nothing beyond the noise.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.bare_loop import publish
from feedback_app.settings import Settings, load_settings
from feedback_app.topics import Topics

_FETCH = 10_000


async def count(settings: Settings) -> dict[tuple[str, int], int]:
    """Read every partition to its end and return the count of each (agent, window start)."""
    topic = Topics.of(settings).feedback
    partitions = [TopicPartition(topic, partition) for partition in range(settings.partitions)]
    size, loads = settings.batch_time_ms, orjson.loads
    counts: defaultdict[tuple[str, int], int] = defaultdict(int)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap_servers,
        group_id=settings.app_id,
        # In the background: the offsets show the harness how far it has counted.
        enable_auto_commit=True,
        auto_commit_interval_ms=50,
    )
    async with consumer:
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        unread = {partition for partition, end in ends.items() if end}
        while unread:
            for partition, messages in (await consumer.getmany(timeout_ms=50, max_records=_FETCH)).items():
                for message in messages:
                    event = loads(message.value)
                    timestamp = event["timestamp"]
                    counts[event["agentId"], timestamp - timestamp % size] += 1
                if messages[-1].offset + 1 >= ends[partition]:
                    unread.discard(partition)
    return counts


def main() -> None:
    """Count, then publish."""
    settings = load_settings()
    publish(settings, asyncio.run(count(settings)))


if __name__ == "__main__":
    main()
