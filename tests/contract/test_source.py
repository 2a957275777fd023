"""Reading a partition of the source topics: what passes is waited for, and what does not is told."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import AdminClient

from feedback_app.connections import librdkafka_config, passes
from feedback_app.errors import BrokerError
from feedback_app.provisioning import ensure_topics
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.transport.source import PartitionSource


def test_a_topic_that_was_deleted_is_not_waited_for(kafka: str, settings: Callable[..., Settings]) -> None:
    """It would be for ever. librdkafka looks for it for half a minute first."""
    ours = settings(kafka, partitions=1, mongodb_url="mongodb://127.0.0.1:1")
    topics = Topics.of(ours)
    ensure_topics(ours, topics.specs())
    source = PartitionSource(ours, 0, {topics.feedback: 0})
    try:
        assert source.fetch(0.1) == []
        admin = AdminClient(librdkafka_config(ours))
        admin.delete_topics([topics.feedback])[topics.feedback].result(30)
        with pytest.raises(BrokerError, match=r"can't be read any more: .*topic does not exist"):
            fetch_for(source, 90)
    finally:
        source.close()


def fetch_for(source: PartitionSource, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        source.fetch(0.1)


@pytest.mark.parametrize(
    ("code", "does"),
    [
        (KafkaError._TRANSPORT, True),
        (KafkaError._ALL_BROKERS_DOWN, True),
        (KafkaError.NOT_LEADER_FOR_PARTITION, True),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, False),
        (KafkaError._AUTHENTICATION, False),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, False),
        (KafkaError._AUTO_OFFSET_RESET, False),
    ],
)
def test_which_errors_pass(code: int, does: bool) -> None:
    assert passes(KafkaError(code)) is does
