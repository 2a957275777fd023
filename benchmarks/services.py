"""What a benchmark needs of its surroundings: a broker, left as it was found, and where to say how it goes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka.admin import AdminClient


@contextmanager
def broker(url: str | None) -> Iterator[str]:
    """Give the ``host:port`` of the broker at *url*, or of an Apache Kafka started for the occasion."""
    if url is not None:
        yield url.removeprefix("kafka://")
        return
    from tests.services.kafka import ApacheKafka  # only here: with a broker at hand nobody needs Java

    class LastingKafka(ApacheKafka):
        """As in production: code that is optimized, and a group that waits for all its members to come."""

        JVM = ("-Xms1g", "-Xmx1g")
        PROPERTIES = "group.initial.rebalance.delay.ms=3000\n"

    with LastingKafka() as kafka:
        yield kafka.url.removeprefix("kafka://")


def drop_topics(bootstrap_servers: str, prefix: str) -> None:
    """Delete every topic whose name starts with *prefix*."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    names = [name for name in admin.list_topics(timeout=30).topics if name.startswith(prefix)]
    if names:
        for dropped in admin.delete_topics(names, operation_timeout=30).values():
            dropped.result()


def say(text: str) -> None:
    """Write to stderr: stdout is for the JSON."""
    print(text, file=sys.stderr, flush=True)
