"""What the application needs of a broker and a database, on the embedded and on the real one alike."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # exported without saying so
from pymongo import MongoClient, UpdateOne
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect, BulkWriteError
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from feedback_app.embedded.database import EmbeddedDatabase
from feedback_app.settings import Settings
from tests.services.kafka import ApacheKafka

_TIMEOUT_S = 30.0


class Topic:
    """A new topic with one partition, and what tests do with it."""

    def __init__(self, url: str) -> None:
        self.name = f"topic-{uuid.uuid4().hex}"
        self.group = f"group-{uuid.uuid4().hex}"
        self._servers: dict[str, Any] = {"bootstrap.servers": url.removeprefix("kafka://")}
        admin = AdminClient(self._servers)
        admin.create_topics([NewTopic(self.name, 1, 1)])[self.name].result(_TIMEOUT_S)

    def producer(self) -> Producer:
        """Return a producer that has taken over the topic's transactional id."""
        producer = Producer({**self._servers, "transactional.id": self.name, "retry.backoff.ms": 10})
        producer.init_transactions(_TIMEOUT_S)
        return producer

    def send(self, producer: Producer, *values: bytes) -> None:
        for value in values:
            producer.produce(self.name, value, partition=0)
        producer.flush(_TIMEOUT_S)

    def read(self, number: int) -> list[bytes | None]:
        """Return the first *number* committed values."""
        consumer = self._consumer()
        consumer.assign([TopicPartition(self.name, 0, 0)])
        values: list[bytes | None] = []
        deadline = time.monotonic() + _TIMEOUT_S
        while len(values) < number and time.monotonic() < deadline:
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                values.append(message.value())
        consumer.close()
        return values

    def commit_offset(self, producer: Producer, offset: int) -> None:
        """Commit the group's offset within the producer's transaction."""
        consumer = self._consumer()
        metadata = consumer.consumer_group_metadata()
        producer.send_offsets_to_transaction([TopicPartition(self.name, 0, offset)], metadata, _TIMEOUT_S)
        consumer.close()

    def committed_offset(self) -> int:
        consumer = self._consumer()
        (committed,) = consumer.committed([TopicPartition(self.name, 0)], _TIMEOUT_S)
        consumer.close()
        return committed.offset

    def _consumer(self) -> Consumer:
        options = {"group.id": self.group, "isolation.level": "read_committed", "enable.auto.commit": False}
        return Consumer({**self._servers, **options})


def test_a_transaction_carries_records_and_offsets(broker_url: str) -> None:
    topic = Topic(broker_url)
    producer = topic.producer()
    for number in range(3):
        producer.begin_transaction()
        topic.send(producer, b"a%d" % number, b"b%d" % number)
        topic.commit_offset(producer, number)
        producer.commit_transaction(_TIMEOUT_S)
    assert topic.read(6) == [b"a0", b"b0", b"a1", b"b1", b"a2", b"b2"]
    assert topic.committed_offset() == 2


def test_a_successor_fences_its_predecessor(broker_url: str) -> None:
    topic = Topic(broker_url)
    predecessor = topic.producer()
    successor = topic.producer()
    predecessor.begin_transaction()
    predecessor.produce(topic.name, b"too late", partition=0)
    with pytest.raises(KafkaException) as failure:
        predecessor.commit_transaction(_TIMEOUT_S)
    assert failure.value.args[0].fatal()
    predecessor.purge()
    successor.begin_transaction()
    topic.send(successor, b"in time")
    successor.commit_transaction(_TIMEOUT_S)
    assert topic.read(1) == [b"in time"]


def test_what_was_aborted_is_not_read(kafka: str) -> None:
    topic = Topic(kafka)
    producer = topic.producer()
    producer.begin_transaction()
    topic.send(producer, b"aborted")
    producer.abort_transaction(_TIMEOUT_S)
    producer.begin_transaction()
    topic.send(producer, b"committed")
    producer.commit_transaction(_TIMEOUT_S)
    assert topic.read(1) == [b"committed"]


def test_no_topic_is_made_by_accident(kafka: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.removeprefix("kafka://")})
    name = f"topic-{uuid.uuid4().hex}"
    admin.list_topics(name, timeout=_TIMEOUT_S)
    assert name not in admin.list_topics(timeout=_TIMEOUT_S).topics


def test_a_killed_kafka_has_what_was_committed(own_kafka: ApacheKafka) -> None:
    url = own_kafka.url
    topic = Topic(url)
    producer = topic.producer()
    producer.begin_transaction()
    topic.send(producer, b"committed")
    producer.commit_transaction(_TIMEOUT_S)
    producer.begin_transaction()
    topic.send(producer, b"left open")
    own_kafka.kill()
    own_kafka.start()
    assert own_kafka.url == url
    successor = topic.producer()
    successor.begin_transaction()
    topic.send(successor, b"went on")
    successor.commit_transaction(_TIMEOUT_S)
    assert topic.read(2) == [b"committed", b"went on"]


@pytest.fixture
def documents(database: EmbeddedDatabase) -> Iterator[Collection[dict[str, Any]]]:
    with MongoClient[dict[str, Any]](database.url) as client:
        name = f"test_{uuid.uuid4().hex}"
        yield client[name]["documents"]
        client.drop_database(name)


def _fenced_upsert(number: str, count: int) -> UpdateOne:
    return UpdateOne({"_id": number, "count": {"$lte": count}}, {"$set": {"count": count}}, upsert=True)


def test_a_fenced_upsert_never_goes_back(documents: Collection[dict[str, Any]]) -> None:
    documents.bulk_write([_fenced_upsert("a", 1), _fenced_upsert("b", 5)], ordered=False)
    with pytest.raises(BulkWriteError) as failure:
        documents.bulk_write([_fenced_upsert("b", 3), _fenced_upsert("a", 2)], ordered=False)
    assert [(error["index"], error["code"]) for error in failure.value.details["writeErrors"]] == [(0, 11000)]
    assert sorted(documents.find(), key=lambda found: found["_id"]) == [
        {"_id": "a", "count": 2},
        {"_id": "b", "count": 5},
    ]


def test_a_fail_point_fails_the_next_command(database: EmbeddedDatabase, documents: Collection[dict[str, Any]]) -> None:
    admin = documents.database.client.admin
    data = {"failCommands": ["update"], "closeConnection": True}
    # Twice: the driver tries a write again once by itself.
    admin.command("configureFailPoint", "failCommand", mode={"times": 2}, data=data)
    with pytest.raises(AutoReconnect):
        documents.bulk_write([_fenced_upsert("a", 1)])
    documents.bulk_write([_fenced_upsert("a", 1)])
    assert documents.count_documents({}) == 1


def test_a_killed_database_has_what_was_acknowledged(tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "database") as server, MongoClient[dict[str, Any]](server.url) as client:
        documents = client["kept"]["documents"]
        documents.bulk_write([_fenced_upsert(str(number), 1) for number in range(100)], ordered=False)
        server.kill()
        server.start()

        @retry(retry=retry_if_exception_type(AutoReconnect), stop=stop_after_delay(_TIMEOUT_S), wait=wait_fixed(0.1))
        def count() -> int:
            return documents.count_documents({})

        assert count() == 100
    assert (tmp_path / "database").exists()


def test_a_database_without_a_directory_leaves_nothing_behind() -> None:
    with EmbeddedDatabase() as server:
        assert server.data_dir.exists()
    assert not server.data_dir.exists()


def test_settings_share_the_topics_of_one_test(settings: Callable[..., Settings], embedded_broker: str) -> None:
    one, other = settings(embedded_broker), settings(embedded_broker, partitions=2)
    assert one.broker_url == embedded_broker
    assert one.app_id == other.app_id
    assert one.topic_prefix == other.topic_prefix
    assert (one.partitions, other.partitions) == (8, 2)
    assert one.data_dir != other.data_dir
    assert one.web_port != other.web_port
