"""What the publisher sends arrives, on the partition where it is counted, on both brokers."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from feedback_app.core.events import Invalid
from feedback_app.core.partitioning import partition_of
from feedback_app.errors import PublishError
from feedback_app.models import decode
from feedback_app.provisioning import ensure_topics
from feedback_app.publisher import FailedDelivery, FeedbackPublisher
from feedback_app.settings import Settings
from feedback_app.topics import MAX_INPUT_BYTES, Topics
from feedback_app.verification.reading import TopicReader

PARTITIONS = 3


@pytest.fixture
def ready(broker_url: str, settings: Callable[..., Settings]) -> Settings:
    """Settings whose topics are there."""
    made = settings(broker_url, mongodb_url="mongodb://127.0.0.1:1", partitions=PARTITIONS)
    ensure_topics(made, Topics.of(made).specs())
    return made


def arrived(settings: Settings) -> dict[int, list[tuple[bytes | None, bytes | None]]]:
    """Return key and value of all that is on the feedback topic, by partition."""
    found: dict[int, list[tuple[bytes | None, bytes | None]]] = {}
    with TopicReader(settings) as reader:
        for partition, messages in reader.read(Topics.of(settings).feedback, {}, {}):
            found.setdefault(partition, []).extend((message.key(), message.value()) for message in messages)
    return found


def test_events_arrive_once_in_order_on_their_agents_partition(ready: Settings) -> None:
    agents = ["agent-1", "agent-2", "Ägent", "agent|4", "5", "x" * 128]
    with FeedbackPublisher(ready) as publisher:
        for number in range(600):
            publisher.publish(
                {
                    "feedbackId": f"f-{number}",
                    "agentId": agents[number % len(agents)],
                    "userId": "u",
                    "rating": "neutral",
                    "timestamp": time.time_ns() // 1_000_000,
                }
            )
    seen: dict[str, list[int]] = {agent: [] for agent in agents}
    for partition, records in arrived(ready).items():
        for (key, _), event in zip(records, decode([value for _, value in records]), strict=True):
            assert not isinstance(event, Invalid)
            agent = event.agent_id
            assert key == agent.encode()
            assert partition == partition_of(agent, PARTITIONS)
            seen[agent].append(int(event.feedback_id.removeprefix("f-")))
    assert seen == {agent: list(range(index, 600, len(agents))) for index, agent in enumerate(agents)}


def test_bytes_go_where_they_are_sent(ready: Settings) -> None:
    with FeedbackPublisher(ready) as publisher:
        for partition in range(PARTITIONS):
            publisher.publish_bytes(None, None, partition=partition)
            publisher.publish_bytes(b"agent-1", b"not JSON", partition=partition)
        publisher.flush()
        assert arrived(ready) == {p: [(None, None), (b"agent-1", b"not JSON")] for p in range(PARTITIONS)}


def test_what_can_not_be_delivered_is_told(ready: Settings) -> None:
    told: list[FailedDelivery] = []
    publisher = FeedbackPublisher(ready, on_failure=told.append)
    publisher.publish_bytes(b"b", b"2", partition=0)
    # There is no such partition. It is told at once where librdkafka knows the topic already, and else in the end.
    with pytest.raises(PublishError, match=r"(?s)(not sent|1 event not delivered).*partition"):  # noqa: PT012  # whichever of the two calls tells
        try:
            publisher.publish_bytes(b"a", b"1", partition=PARTITIONS)
        finally:
            publisher.close()
    assert [(failed.key, failed.value) for failed in told] in ([], [(b"a", b"1")])
    assert arrived(ready) == {0: [(b"b", b"2")]}


def test_a_record_that_no_topic_takes_is_refused_at_once(ready: Settings) -> None:
    with FeedbackPublisher(ready) as publisher:
        with pytest.raises(PublishError, match="size"):
            publisher.publish_bytes(b"a", bytes(MAX_INPUT_BYTES + 1))
        publisher.publish_bytes(b"a", bytes(MAX_INPUT_BYTES - 1_000), partition=0)
    assert len(arrived(ready)[0]) == 1


def test_what_is_offered_is_confirmed_once_it_is_there(ready: Settings) -> None:
    with FeedbackPublisher(ready, confirms=True) as publisher:
        assert publisher.works
        outcomes = [publisher.offer([(b"%d" % n, b"%d" % m) for m in range(20)]) for n in range(10)]
        assert [outcome.result(30) for outcome in outcomes] == [[""] * 20] * 10
        found = sorted(record for records in arrived(ready).values() for record in records)
        assert found == sorted((b"%d" % n, b"%d" % m) for n in range(10) for m in range(20))
        assert publisher._offered_events == publisher._offered_bytes == 0
    assert not publisher.works


def test_what_is_offered_to_a_topic_that_is_not_there_is_told_as_not_delivered(
    kafka: str, settings: Callable[..., Settings]
) -> None:
    ours = settings(kafka, mongodb_url="mongodb://127.0.0.1:1", topic_prefix="no-such-")
    with FeedbackPublisher(ours, confirms=True, delivery_timeout_s=2) as publisher:
        (error,) = publisher.offer([(b"a", b"1")]).result(30)
        assert error
        publisher.flush()  # it was told by the future, and is not told twice
