"""``verify`` against real topics and a database, on both brokers; a scribe writes what a worker would have written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from feedback_app.closing import CloseRules, Closing, plan
from feedback_app.connections import librdkafka_config
from feedback_app.core.aggregate import Aggregate
from feedback_app.core.documents import Document, date
from feedback_app.core.partitioning import partitioner
from feedback_app.core.state import OPEN, PARTITION_RECORD_KEY, PartitionRecord, end_of
from feedback_app.core.transaction import Transaction
from feedback_app.core.watermark import Lateness
from feedback_app.errors import BrokerError
from feedback_app.folding import Fold, FoldRules
from feedback_app.models import decode
from feedback_app.provisioning import WINDOWS_COLLECTION, ensure_topics, open_database
from feedback_app.publisher import FeedbackPublisher
from feedback_app.settings import Settings
from feedback_app.simulation import Scenario, simulate
from feedback_app.topics import Topics
from feedback_app.verification import verify
from feedback_app.verification.reading import TopicReader
from tests.services.workers import until

PARTITIONS = 2
NOW = time.time_ns() // 1_000_000
FOR_EVER = 1 << 50
SCENARIO = Scenario(PARTITIONS, 1_000, 500, 2_000, agents=10, late_share=0.05, invalid_share=0.05)


@dataclass
class State:
    """One partition's committed state."""

    record: PartitionRecord = field(default_factory=PartitionRecord)
    stores: dict[bytes, bytes] = field(default_factory=dict)

    def aggregate(self, key: bytes) -> Aggregate | None:
        value = self.stores.get(key)
        return None if value is None else Aggregate.decode(value)

    def stored(self, key: bytes) -> bytes | None:
        return self.stores.get(key)

    def known(self) -> tuple[Mapping[bytes, bytes], bytes]:
        return {}, b"\xff"


class Scribe:
    """Folds and closes when told to, one partition after the other."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.topics = Topics.of(settings)
        self.lateness = Lateness(settings.grace_ms, settings.retention_ms)
        self.window_size = settings.batch_time_ms
        self.states = [State() for _ in range(PARTITIONS)]
        self.producers = [self._producer(number) for number in range(PARTITIONS)]
        self.group = Consumer(librdkafka_config(settings, group_id=settings.app_id)).consumer_group_metadata()

    def fold(self) -> None:
        """Fold until both source topics are read to their end."""
        found = True
        while found:
            found = False
            for topic in self.topics.sources:
                found |= self._fold(topic)

    def close(self) -> None:
        """Close every open window."""
        for number, state in enumerate(self.states):
            ends = [end_of(key) for key in state.stores if key.startswith(OPEN)]
            state.record = self.lateness.silent(state.record, FOR_EVER, max(ends, default=None))
            due, documents = plan([(key, value) for key, value in sorted(state.stores.items()) if key.startswith(OPEN)])
            with open_database(self.settings) as database:
                for document in documents:
                    document["closedAt"] = date(NOW)
                    database[WINDOWS_COLLECTION].replace_one({"_id": document["_id"]}, document, upsert=True)
            rules = CloseRules(number, self.topics.aggregates, 100, joint_events=number == 0, split_by_agent=False)
            transaction = Closing(due, [], rules).settle(state)
            if transaction is not None:
                self._commit(number, transaction)

    def _fold(self, topic: str) -> bool:
        found = False
        starts = {number: state.record.offsets.get(topic, 0) for number, state in enumerate(self.states)}
        with TopicReader(self.settings) as reader:
            for partition, messages in reader.read(topic, starts, {}):
                rules = FoldRules(
                    partition=partition,
                    partition_of=partitioner(PARTITIONS),
                    topics=self.topics,
                    window_size=self.window_size,
                    lateness=self.lateness,
                    max_future_ms=self.settings.max_future_ms,
                    keep_items=False,
                )
                fold = Fold(self.states[partition], rules, time.time_ns() // 1_000_000)
                records: Any = messages
                fold.add(topic, partition, records, decode)
                self._commit(partition, fold.transaction())
                found = True
        return found

    def _commit(self, partition: int, transaction: Transaction) -> None:
        producer, state = self.producers[partition], self.states[partition]
        producer.begin_transaction()
        for key, value in transaction.changes.items():
            producer.produce(self.topics.changelog, value, key, partition)
        producer.produce(self.topics.changelog, transaction.record.encode(), PARTITION_RECORD_KEY, partition)
        for send in transaction.sends:
            headers: Any = [(str(name), value) for name, value in send.headers]
            producer.produce(send.topic, send.value, send.key, send.partition, headers=headers)
        if transaction.record.offsets:
            offsets = [TopicPartition(topic, partition, offset) for topic, offset in transaction.record.offsets.items()]
            producer.send_offsets_to_transaction(offsets, self.group, 20)
        producer.commit_transaction(20)
        state.record = transaction.record
        for key, value in transaction.changes.items():
            if value is None:
                state.stores.pop(key, None)
            else:
                state.stores[key] = value

    def _producer(self, partition: int) -> Producer:
        transactional_id = f"{self.settings.app_id}-{partition}"
        producer = Producer(librdkafka_config(self.settings, transactional_id=transactional_id, retry_backoff_ms=10))
        producer.init_transactions(20)
        return producer


@pytest.fixture
def ours(broker_url: str, settings: Callable[..., Settings]) -> Settings:
    made = settings(
        broker_url,
        partitions=PARTITIONS,
        batch_time_ms=SCENARIO.window_ms,
        grace_ms=SCENARIO.grace_ms,
        retention_ms=SCENARIO.retention_ms,
    )
    ensure_topics(made, Topics.of(made).specs())
    return made


def send(settings: Settings, events: int = 1_000, *, misplaced: bool = False, start: int = NOW - 20_000) -> None:
    """Send events of the 20 seconds from *start* on; *misplaced* ones to any partition."""
    scenario = replace(SCENARIO, late_share=0.0) if misplaced else SCENARIO
    times = (start + number * 20_000 // events for number in range(events))
    with FeedbackPublisher(settings) as publisher:
        for number, record in enumerate(simulate(scenario, times)):
            partition = number % PARTITIONS if misplaced else None
            publisher.publish_bytes(record.key, record.value, partition=partition)


def test_nothing_is_decided_before_all_is_read_and_open_windows_are_no_differences(ours: Settings) -> None:
    scribe = Scribe(ours)
    assert verify(ours).verified  # nothing at all

    send(ours)
    before = verify(ours)
    assert before.exit_code == 2
    assert f"group {ours.app_id} has 1000 records of {Topics.of(ours).feedback} to read" in before.reason

    scribe.fold()
    folded = verify(ours, 0.1, until_closed=True)
    assert folded.verified, (folded.reason, folded.samples)
    assert (folded.input, folded.documents) == (1_000, 0)
    assert folded.counted + folded.late + folded.dead_lettered == 1_000
    assert min(folded.counted, folded.late, folded.dead_lettered, folded.open) > 0

    scribe.close()
    closed = verify(ours, until_closed=True)
    assert closed.verified, (closed.reason, closed.samples)
    assert (closed.counted, closed.open) == (folded.counted, 0)
    assert closed.documents == closed.aggregated_events == folded.open


def test_forwarded_records_and_other_window_sizes_are_followed(ours: Settings) -> None:
    scribe = Scribe(ours)
    for size in (1_000, 700):
        scribe.window_size = size
        send(ours, 200, misplaced=True)
        scribe.fold()
    verdict = verify(ours)
    assert verdict.verified, (verdict.reason, verdict.samples)
    assert verdict.input == 400
    scribe.close()
    assert verify(ours).verified


def test_it_waits_for_the_group(ours: Settings) -> None:
    scribe = Scribe(ours)
    send(ours, 100)
    heard: list[str] = []
    waiting = threading.Event()

    def report(what: str) -> None:
        heard.append(what)
        waiting.set()

    def work() -> None:
        waiting.wait(20)
        scribe.fold()
        until(lambda: any("windows are open" in what for what in heard), 20)
        scribe.close()

    worker = threading.Thread(target=work)
    worker.start()
    verdict = verify(ours, 60, until_closed=True, report=report)
    worker.join()
    assert verdict.verified, (verdict.reason, verdict.samples)
    assert verdict.open == 0
    assert "100 records" in heard[0]


def test_what_was_tampered_with_is_found(ours: Settings) -> None:
    scribe = Scribe(ours)
    send(ours, 300)
    scribe.fold()
    scribe.close()
    with open_database(ours) as database:
        windows = database[WINDOWS_COLLECTION]
        lost, changed, *_ = windows.find({}).limit(2)
        windows.delete_one({"_id": lost["_id"]})
        windows.update_one({"_id": changed["_id"]}, {"$inc": {"negative": 1}})
        windows.insert_one({**changed, "_id": "nobody|0|1000"})
    verdict = verify(ours)
    assert verdict.exit_code == 1
    assert (verdict.missing, verdict.extra, verdict.different) == (2, 2, 1), verdict.samples
    assert any(_names(line, changed) and "negative" in line for line in verdict.samples)
    assert any(_names(line, lost) and line.startswith("missing") for line in verdict.samples)


def test_documents_that_have_expired_are_not_missing(ours: Settings) -> None:
    scribe = Scribe(ours)
    send(ours, 300)
    scribe.fold()
    scribe.close()
    total = verify(ours).documents
    with open_database(ours) as database:
        oldest = database[WINDOWS_COLLECTION].find_one({}, sort=[("windowEnd", 1)])
        assert oldest is not None
        age_s = int((datetime.now(UTC) - oldest["windowEnd"]).total_seconds())
        gone = database[WINDOWS_COLLECTION].delete_many({"windowEnd": oldest["windowEnd"]}).deleted_count
    assert verify(ours).missing >= gone
    verdict = verify(ours.model_copy(update={"windows_expire_after_s": max(1, age_s)}))
    assert verdict.verified, verdict.samples
    assert (verdict.expired, verdict.documents) == (gone, total - gone)
    assert verdict.counted + verdict.late + verdict.dead_lettered == 300
    # Where they can't have expired yet, they are missing.
    assert verify(ours.model_copy(update={"windows_expire_after_s": age_s + 3_600})).missing >= gone


def test_new_input_meanwhile_leaves_it_undecided(ours: Settings) -> None:
    scribe = Scribe(ours)
    send(ours, 100)
    scribe.fold()
    late_arrivals = iter([100])

    def report(what: str) -> None:
        if what.startswith("reading"):
            for events in late_arrivals:
                send(ours, events)

    verdict = verify(ours, report=report)
    assert verdict.exit_code == 2
    assert "100 records" in verdict.reason


def test_an_open_transaction_leaves_it_undecided(ours: Settings) -> None:
    """What is behind it can't be seen, and may have been counted."""
    scribe = Scribe(ours)
    send(ours, 100)
    scribe.fold()
    intruder = Producer(librdkafka_config(ours, transactional_id=f"{ours.app_id}-intruder", retry_backoff_ms=10))
    intruder.init_transactions(20)
    intruder.begin_transaction()
    intruder.produce(scribe.topics.repartition, b"{}", b"key", 1)
    intruder.flush(20)
    verdict = verify(ours)
    assert verdict.exit_code == 2
    assert f"a transaction is open on {scribe.topics.repartition}/1" in verdict.reason
    intruder.abort_transaction(20)


def test_expired_input_leaves_it_undecided(kafka: str, settings: Callable[..., Settings]) -> None:
    ours = settings(kafka, partitions=PARTITIONS)
    scribe = Scribe(_with_topics(ours))
    send(ours, 100)
    scribe.fold()
    admin = AdminClient({"bootstrap.servers": ours.bootstrap_servers})
    cut = TopicPartition(scribe.topics.feedback, 1, 3)
    admin.delete_records([cut])[cut].result(20)
    started = time.monotonic()
    verdict = verify(ours, 60)
    assert verdict.exit_code == 2
    assert f"{scribe.topics.feedback}/1 begins at offset 3" in verdict.reason
    assert time.monotonic() - started < 30  # waiting would not help


def test_without_topics_it_can_not_run(embedded_broker: str, settings: Callable[..., Settings]) -> None:
    with pytest.raises(BrokerError, match=r"there is no topic .*has a worker been started"):
        verify(settings(embedded_broker))


def _with_topics(settings: Settings) -> Settings:
    ensure_topics(settings, Topics.of(settings).specs())
    return settings


def _names(line: str, document: Document) -> bool:
    return f"window {document['_id']}:" in line
