"""One partition's transactions, and the state that its next owner restores from them, on both brokers."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import confluent_kafka
import pytest
from confluent_kafka import TopicPartition

from feedback_app.closing import MAX_EVENT_BYTES
from feedback_app.connections import librdkafka_config
from feedback_app.core.clock import ManualClock
from feedback_app.core.events import Headers
from feedback_app.core.state import OPEN, PARTITION_RECORD_KEY, Changes, PartitionRecord, window_key
from feedback_app.core.transaction import Send
from feedback_app.cutting import cut
from feedback_app.errors import BrokerError, Fenced
from feedback_app.provisioning import ensure_topics, topic_ids
from feedback_app.settings import Settings
from feedback_app.topics import MAX_INPUT_BYTES, TOMBSTONES_KEPT_MS, Topics
from feedback_app.transport import transactions
from feedback_app.transport.clients import MakeClient, Pair, TransactionalClient
from feedback_app.transport.transactions import TransactionalProducer
from tables.partition import start_offsets
from tables.restore import Restored, Restorer
from tables.state import PartitionState
from tables.store import PartitionStore, Position
from tests.services.compiled import every_client

MakeSettings = Callable[..., Settings]
NO_DATABASE = "mongodb://127.0.0.1:1"

PARTITION = 1
START_MS = 1_700_000_000_000
_HOUR_MS = 3_600_000


def key(number: int) -> bytes:
    return window_key(OPEN, f"agent-{number}", 1_000, 1_000)


@dataclass
class Partition:
    """One partition of an application of its own: those who write to it, and their stores."""

    settings: Settings
    topics: Topics
    topic_id: str
    path: Path
    make_client: MakeClient
    clock: ManualClock = field(default_factory=lambda: ManualClock(START_MS))
    producers: list[TransactionalProducer] = field(default_factory=list)
    stores: list[PartitionStore] = field(default_factory=list)

    def owner(self) -> TransactionalProducer:
        """Return a new owner's producer, which has fenced the former one."""
        producer = self.producer(self.settings, PARTITION)
        producer.fence()
        return producer

    def producer(self, settings: Settings, number: int) -> TransactionalProducer:
        producer = TransactionalProducer(settings, number, make_client=self.make_client)
        self.producers.append(producer)
        return producer

    def store(self, name: str = "store") -> PartitionStore:
        store = PartitionStore(self.path / name)
        self.stores.append(store)
        return store

    def transact(
        self,
        owner: TransactionalProducer,
        changes: Changes,
        sends: Sequence[Send] = (),
        record: PartitionRecord | None = None,
    ) -> int:
        """Let *owner* write one transaction, whose last changelog record is the partition record, as always."""
        last = (PARTITION_RECORD_KEY, (record or PartitionRecord()).encode())
        return owner.transact(sends, self.topics.changelog, changes, last)

    def commit_offsets(self, offsets: Mapping[str, int]) -> None:
        """Tell the group *offsets*, by topic."""
        member = confluent_kafka.Consumer(librdkafka_config(self.settings) | {"group.id": self.settings.app_id})
        try:
            told = [TopicPartition(topic, PARTITION, at) for topic, at in offsets.items()]
            member.commit(offsets=told, asynchronous=False)
        finally:
            member.close()

    def restore(self, store: PartitionStore, topic_id: str = "") -> Restored:
        restorer = Restorer(self.settings, self.topics, self.clock)
        return restorer.restore(PARTITION, store, topic_id or self.topic_id)

    def read(self, topic: str, number: int = PARTITION) -> list[confluent_kafka.Message]:
        """Return what readers of committed records see on a partition, once what stands there is settled: a commit is
        answered before that is told to every partition."""
        end = self.end(topic, number)
        config = {"group.id": "reader", "isolation.level": "read_committed", "enable.partition.eof": True}
        reader = confluent_kafka.Consumer(librdkafka_config(self.settings) | config)
        try:
            reader.assign([TopicPartition(topic, number, 0)])
            seen: list[confluent_kafka.Message] = []
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                for message in reader.consume(1, 1):
                    error = message.error()
                    if error is None:
                        seen.append(message)
                    elif error.code() == confluent_kafka.KafkaError._PARTITION_EOF and (message.offset() or 0) >= end:
                        return seen
            pytest.fail(f"{topic}[{number}] can't be read to its end")
        finally:
            reader.close()

    def produce(self, count: int, *, together: bool) -> None:
        """Write records to the topic ``feedback``, as one batch or each as a batch of its own."""
        producer = confluent_kafka.Producer(librdkafka_config(self.settings) | {"linger.ms": 100})
        for _ in range(count):
            producer.produce(self.topics.feedback, b"{}", partition=PARTITION)
            if not together:
                assert producer.flush(10) == 0
        assert producer.flush(10) == 0

    def end(self, topic: str, number: int = PARTITION) -> int:
        config = {"group.id": "reader", "isolation.level": "read_uncommitted"}
        reader = confluent_kafka.Consumer(librdkafka_config(self.settings) | config)
        try:
            return reader.get_watermark_offsets(TopicPartition(topic, number), 10)[1]
        finally:
            reader.close()


@pytest.fixture(params=every_client())
def make_client(request: pytest.FixtureRequest) -> MakeClient:
    made: MakeClient = request.param
    return made


def _partition(settings: Settings, path: Path, make_client: MakeClient) -> Iterator[Partition]:
    topics = Topics.of(settings)
    ensure_topics(settings, topics.specs())
    made = Partition(settings, topics, topic_ids(settings, [topics.changelog])[topics.changelog], path, make_client)
    yield made
    for producer in made.producers:
        producer.stop()
    for store in made.stores:
        store.close()


@pytest.fixture
def partition(broker_url: str, settings: MakeSettings, tmp_path: Path, make_client: MakeClient) -> Iterator[Partition]:
    yield from _partition(settings(broker_url, mongodb_url=NO_DATABASE, partitions=2), tmp_path, make_client)


@pytest.fixture
def partition_on_kafka(
    kafka: str, settings: MakeSettings, tmp_path: Path, make_client: MakeClient
) -> Iterator[Partition]:
    """For what the embedded broker does not do: hide what was aborted."""
    yield from _partition(settings(kafka, mongodb_url=NO_DATABASE, partitions=2), tmp_path, make_client)


def contents(store: PartitionStore, numbers: range = range(10)) -> dict[int, bytes]:
    found = {number: store.get(key(number)) for number in numbers}
    return {number: value for number, value in found.items() if value is not None}


# -- writing -------------------------------------------------------------------------------------------------------


def test_a_transaction_is_there_as_a_whole(partition: Partition) -> None:
    owner = partition.owner()
    sends = [
        Send(partition.topics.late, PARTITION, b"key", b"value", [("trace", b"\x00\xff"), ("trace", b"again")]),
        Send(partition.topics.late, PARTITION, None, b"", [("empty", b"")]),
        Send(partition.topics.dead_letter, PARTITION, b"", None),
        Send(partition.topics.repartition, 0, b"elsewhere", b"x"),
    ]
    partition.transact(owner, {key(1): b"one", key(2): None}, sends)
    late = partition.read(partition.topics.late)
    assert [(message.key(), message.value(), message.headers()) for message in late] == [
        (b"key", b"value", [("trace", b"\x00\xff"), ("trace", b"again")]),
        (None, b"", [("empty", b"")]),
    ]
    (dead,) = partition.read(partition.topics.dead_letter)
    assert (dead.key(), dead.value()) == (b"", None)
    assert partition.read(partition.topics.repartition) == []
    assert [message.key() for message in partition.read(partition.topics.repartition, 0)] == [b"elsewhere"]
    assert [(message.key(), message.value()) for message in partition.read(partition.topics.changelog)] == [
        (key(1), b"one"),
        (key(2), None),
        (PARTITION_RECORD_KEY, PartitionRecord().encode()),
    ]


# changelog      0    1    2     C     3    4    C
# told                      2               4
def test_a_transaction_tells_the_offset_of_its_last_changelog_record(partition: Partition) -> None:
    owner = partition.owner()
    answers = [
        partition.transact(owner, {key(1): b"one", key(2): b"two"}),
        partition.transact(owner, {key(3): b"three"}, [Send(partition.topics.late, PARTITION, None, b"")]),
        partition.transact(owner, {}),
    ]
    written = [(message.key(), message.offset()) for message in partition.read(partition.topics.changelog)]
    assert answers == [offset for key, offset in written if key == PARTITION_RECORD_KEY]
    assert [key for key, _ in written] == [
        *(key(1), key(2), PARTITION_RECORD_KEY),
        *(key(3), PARTITION_RECORD_KEY),
        PARTITION_RECORD_KEY,
    ]


def test_more_than_fits_into_the_producers_queue_is_written(partition: Partition) -> None:
    changes: Changes = {key(number): b"%d" % number for number in range(100)}
    sends = [Send(partition.topics.late, PARTITION, b"%d" % number, None, [("h", b"x")]) for number in range(50)]
    sends += [Send(partition.topics.aggregates, PARTITION, b"%d" % number, b"") for number in range(50)]
    owner = _configured(partition, queue_buffering_max_messages=10).owner()
    partition.transact(owner, changes, sends)
    for topic in (partition.topics.late, partition.topics.aggregates):
        assert sorted(int(message.key() or b"") for message in partition.read(topic)) == list(range(50))
    assert [message.key() for message in partition.read(partition.topics.changelog)] == [*changes, PARTITION_RECORD_KEY]


class Handing:
    """Notes the most bytes that a client was handed over for a partition between two flushes."""

    def __init__(self, client: TransactionalClient) -> None:
        self._client = client
        self._since_flush: Counter[tuple[str, int]] = Counter()
        self.most: Counter[tuple[str, int]] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def produce_all(self, topic: str, number: int, records: list[Pair]) -> list[Pair]:
        left = self._client.produce_all(topic, number, records)
        self._note(topic, number, _size(records) - _size(left))
        return left

    def produce(self, send: Send, **how: Any) -> bool:
        fits = self._client.produce(send, **how)
        if fits:
            self._note(send.topic, send.partition, _size([(send.key, send.value), *send.headers]))
        return fits

    def flush(self, seconds: float) -> int:
        left = self._client.flush(seconds)
        if not left:
            self._since_flush.clear()
        return left

    def _note(self, topic: str, number: int, size: int) -> None:
        self._since_flush[topic, number] += size
        self.most |= self._since_flush


def _size(pairs: Iterable[tuple[str | bytes | None, bytes | None]]) -> int:
    return sum(len(key or b"") + len(value or b"") for key, value in pairs)


# Else librdkafka's thread would not sleep while one batch of a partition waits for the answer to another.
@pytest.mark.parametrize("headers", [[], [("h", bytes(500))]])
def test_no_more_is_handed_over_for_a_partition_than_goes_into_a_batch(
    partition: Partition, headers: list[tuple[str, bytes]]
) -> None:
    owner = _configured(partition, batch_size=100_000).owner()
    handing = Handing(owner._client)
    owner._client = cast(Any, handing)
    changes: Changes = {key(number): bytes(1_000) for number in range(500)}
    topic = partition.topics.late
    sends = [Send(topic, number % 2, b"%d" % number, bytes(2_000), headers) for number in range(400)]
    partition.transact(owner, changes, sends)
    assert max(handing.most.values()) <= 100_000
    assert min(handing.most.values()) > 90_000, "a batch is not as large as it may be"
    assert [message.key() for message in partition.read(partition.topics.changelog)] == [*changes, PARTITION_RECORD_KEY]
    for number in range(2):
        found = [int(message.key() or b"") for message in partition.read(topic, number)]
        assert sorted(found) == list(range(number, 400, 2))


@pytest.mark.timeout(30)
@pytest.mark.parametrize("headers", [[], [("h", b"x")]])
def test_what_can_not_be_produced_is_told(partition: Partition, headers: list[tuple[str, bytes]]) -> None:
    owner = _configured(partition, message_max_bytes=2_000).owner()
    with pytest.raises(BrokerError, match=r"(?i)message size too large"):
        partition.transact(owner, {}, [Send(partition.topics.late, PARTITION, None, bytes(5_000), headers)])


# Nothing of it compresses: batches are as large as they get.
def test_whatever_is_sent_no_batch_is_larger_than_its_topic_takes(partition_on_kafka: Partition) -> None:
    partition, chance = partition_on_kafka, random.Random(1)
    largest = [MAX_INPUT_BYTES - 2 * 8_192, MAX_INPUT_BYTES]
    sizes = [
        *largest * 5,
        *[1 << 19] * 9,
        *[300_000] * 9,
        *(chance.randrange(100_000) for _ in range(200)),
        *[100] * 9_000,
    ]
    chance.shuffle(sizes)
    headers: Headers = [("trace", chance.randbytes(8_000))]
    sends = []
    for size in sizes:
        kept = cut(b"key", chance.randbytes(size), headers if size > 1_000 else ())
        sends.append(Send(partition.topics.dead_letter, PARTITION, kept.key, kept.value, kept.headers))
    sends += [Send(partition.topics.aggregates, PARTITION, b"k", chance.randbytes(MAX_EVENT_BYTES)) for _ in range(5)]
    sends += [Send(partition.topics.aggregates, PARTITION, b"k", chance.randbytes(10_000)) for _ in range(500)]
    changes: Changes = {key(number): chance.randbytes(8_000) for number in range(1_000)}
    partition.transact(partition.owner(), changes, sends)
    found = partition.read(partition.topics.dead_letter)
    assert sorted(len(message.value() or b"") for message in found) == sorted(sizes)
    assert len(partition.read(partition.topics.changelog)) == len(changes) + 1


# -- fencing -------------------------------------------------------------------------------------------------------


# former     fence  tx          tx: Fenced
# later                  fence                tx
@pytest.mark.parametrize("records", [0, 1, 20_000])
def test_a_former_owner_can_write_nothing(partition: Partition, records: int) -> None:
    former = partition.owner()
    partition.transact(former, {key(1): b"former's"})
    later = partition.owner()
    changes: Changes = {key(number): b"zombie's" for number in range(records)}
    # One by one, because of the headers: the broker's refusal comes while records are still being handed over.
    late = [Send(partition.topics.late, PARTITION, None, b"zombie's", [("h", b"x")])] * records
    for _ in range(2):
        with pytest.raises(Fenced, match=f"partition {PARTITION}: another worker has taken over"):
            partition.transact(former, changes, late)
    partition.transact(later, {key(2): b"later's"})
    store = partition.store()
    partition.restore(store)
    assert contents(store) == {1: b"former's", 2: b"later's"}
    assert partition.read(partition.topics.late) == []


def test_owners_of_other_partitions_and_applications_are_left_alone(
    partition: Partition, settings: MakeSettings, broker_url: str
) -> None:
    owner = partition.owner()
    others = [
        partition.producer(partition.settings, 0),
        partition.producer(settings(broker_url, mongodb_url=NO_DATABASE, app_id="another"), PARTITION),
    ]
    for other in others:
        other.fence()
    partition.transact(owner, {key(1): b"one"})
    assert len(partition.read(partition.topics.changelog)) == 2


def test_what_a_crashed_owner_left_open_is_settled_by_the_next(partition_on_kafka: Partition) -> None:
    """Until then, readers of committed records would wait for it."""
    partition = partition_on_kafka
    crashed = _raw_owner(partition)
    crashed.begin_transaction()
    crashed.produce(partition.topics.changelog, b"open", key(1), PARTITION)
    assert crashed.flush(10) == 0
    owner = partition.owner()
    store = partition.store()
    assert partition.restore(store).records == 0
    partition.transact(owner, {key(2): b"two"})
    assert partition.restore(store).records == 2
    assert contents(store) == {2: b"two"}


async def test_a_call_that_waits_for_a_broker_that_is_gone_ends_when_the_partition_is_given_up(
    settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, make_client: MakeClient
) -> None:
    monkeypatch.setattr(transactions, "_CALL_TIMEOUT_S", 0.1)
    nowhere = settings("kafka://127.0.0.1:1", mongodb_url=NO_DATABASE)
    producer = TransactionalProducer(nowhere, PARTITION, make_client=make_client)
    waiting = asyncio.create_task(producer.run(producer.fence))
    done, _ = await asyncio.wait([waiting], timeout=0.5)
    assert not done, "it waits"
    producer.stop()
    with pytest.raises(Fenced, match=f"partition {PARTITION} was given up"):
        await asyncio.wait_for(waiting, 10)


# -- restoring -----------------------------------------------------------------------------------------------------


# changelog   1 2 p C 2 p C                p: the partition record; C: a control record, which no reader is handed
# restored    |-----------|
# position                 ^ the end, past the last C
def test_a_fresh_store_gets_all_that_was_committed(partition: Partition) -> None:
    owner = partition.owner()
    record = PartitionRecord(watermark=5, floor=3, offsets={partition.topics.feedback: 2})
    partition.transact(owner, {key(1): b"one", key(2): b"two"})
    last = partition.transact(owner, {key(2): b"2"}, record=record)
    store = partition.store()
    restored = partition.restore(store)
    assert contents(store) == {1: b"one", 2: b"2"}
    assert store.record() == record
    end = partition.end(partition.topics.changelog)
    assert end > last
    assert store.position() == Position(end, START_MS, partition.topic_id)
    assert (restored.records, restored.offset, restored.wiped) == (5, end, "")


def test_an_empty_changelog_is_restored_too(partition: Partition) -> None:
    partition.owner()
    store = partition.store()
    restored = partition.restore(store)
    assert (restored.records, restored.offset, restored.wiped, restored.committed) == (0, 0, "", {})
    assert store.position() == Position(0, START_MS, partition.topic_id)
    assert restored.firsts == {partition.topics.feedback: 0, partition.topics.repartition: 0}


def test_where_the_sources_begin_is_told(partition: Partition) -> None:
    partition.produce(3, together=False)
    partition.owner()
    firsts = partition.restore(partition.store()).firsts
    assert firsts == {partition.topics.feedback: 0, partition.topics.repartition: 0}


def test_the_groups_offsets_are_told(partition: Partition) -> None:
    assert partition.restore(partition.store("before")).committed == {}
    partition.commit_offsets({partition.topics.feedback: 17})
    assert partition.restore(partition.store("after")).committed == {partition.topics.feedback: 17}


# feedback      [0 1 2][3 4 5 6]          two batches, all counted
# record                        7
def test_a_partition_whose_sources_are_read_to_their_end_can_be_taken_over(partition: Partition) -> None:
    partition.produce(3, together=True)
    partition.produce(4, together=True)
    record = PartitionRecord(offsets={partition.topics.feedback: 7})
    partition.transact(partition.owner(), {}, record=record)
    partition.commit_offsets({partition.topics.feedback: 7})
    partition.owner()
    store = partition.store()
    restored = partition.restore(store)
    state = PartitionState(store, cached=1)
    starts = start_offsets(partition.settings, partition.topics, PARTITION, state, restored)
    assert starts == {partition.topics.feedback: 7, partition.topics.repartition: 0}


class _Meanwhile(ManualClock):
    """A clock that lets something happen when it is first read: a restore reads it when it is at the end."""

    def __init__(self, happens: Callable[[], object]) -> None:
        super().__init__(START_MS)
        self._happens = [happens]

    def now_ms(self) -> int:
        if self._happens:
            self._happens.pop()()
        return super().now_ms()


# frozen owner   fence  restore ......................|frozen|  start_offsets: nothing contradicts
# its successor                                        fence, record 5, group 5
def test_a_successors_offsets_do_not_contradict_what_a_frozen_owner_has_restored(partition: Partition) -> None:
    partition.owner()

    def succeed() -> None:
        record = PartitionRecord(offsets={partition.topics.feedback: 5})
        partition.transact(partition.owner(), {}, record=record)
        partition.commit_offsets({partition.topics.feedback: 5})

    store = partition.store()
    restorer = Restorer(partition.settings, partition.topics, _Meanwhile(succeed))
    restored = restorer.restore(PARTITION, store, partition.topic_id)
    state = PartitionState(store, cached=1)
    starts = start_offsets(partition.settings, partition.topics, PARTITION, state, restored)
    assert starts == {partition.topics.feedback: 0, partition.topics.repartition: 0}
    assert partition.restore(partition.store("successor's")).committed == {partition.topics.feedback: 5}


def test_only_what_is_new_is_read_again(partition: Partition) -> None:
    owner = partition.owner()
    partition.transact(owner, {key(number): b"old" for number in range(5)})
    store = partition.store()
    assert partition.restore(store).records == 6
    partition.transact(owner, {key(4): b"new", key(5): b"new"})
    restored = partition.restore(store)
    assert (restored.records, restored.wiped) == (3, "")
    assert contents(store) == dict.fromkeys(range(4), b"old") | {4: b"new", 5: b"new"}
    assert restored.offset == partition.end(partition.topics.changelog)


# changelog      1 p C
# position          ^ as a commit leaves it: after the last record, before its control record
def test_a_store_that_has_followed_every_commit_has_nothing_to_read(partition: Partition) -> None:
    last = partition.transact(partition.owner(), {key(1): b"one"})
    store = partition.store()
    store.write({key(1): b"one"}, Position(last + 1, START_MS, partition.topic_id))
    partition.clock.advance(5)
    restored = partition.restore(store)
    assert (restored.records, restored.wiped) == (0, "")
    assert contents(store) == {1: b"one"}
    end = partition.end(partition.topics.changelog)
    assert store.position() == Position(end, START_MS + 5, partition.topic_id), "it is known to be up to date now"


def test_tombstones_delete(partition: Partition) -> None:
    owner = partition.owner()
    partition.transact(owner, {key(1): b"one", key(2): b"two"})
    old = partition.store("old")
    partition.restore(old)
    partition.transact(owner, {key(1): None, key(3): b"three"})
    partition.transact(owner, {key(3): None, key(4): None})
    fresh = partition.store("fresh")
    partition.restore(old)
    partition.restore(fresh)
    assert contents(old) == contents(fresh) == {2: b"two"}


def test_what_was_aborted_is_not_restored(partition_on_kafka: Partition) -> None:
    partition = partition_on_kafka
    aborting = _raw_owner(partition)
    for number, value in enumerate([b"aborted", b"committed", b"aborted"]):
        aborting.begin_transaction()
        aborting.produce(partition.topics.changelog, value, key(number), PARTITION)
        aborting.produce(partition.topics.changelog, value, key(9), PARTITION)
        assert aborting.flush(10) == 0
        if value == b"aborted":
            aborting.abort_transaction(10)
        else:
            aborting.commit_transaction(10)
    partition.owner()
    store = partition.store()
    restored = partition.restore(store)
    assert contents(store) == {1: b"committed", 9: b"committed"}
    assert (restored.records, restored.offset) == (2, partition.end(partition.topics.changelog))


def test_a_restore_that_is_not_wanted_any_more_ends(partition: Partition) -> None:
    partition.transact(partition.owner(), {key(1): b"one"})
    store = partition.store()
    restorer = Restorer(partition.settings, partition.topics, partition.clock)
    with pytest.raises(Fenced, match=f"partition {PARTITION} was given up"):
        restorer.restore(PARTITION, store, partition.topic_id, lambda: True)
    assert store.position() is None


# -- starting over -------------------------------------------------------------------------------------------------


@pytest.fixture
def restored(partition: Partition) -> PartitionStore:
    """A store that is up to date, and has one more window than the changelog."""
    partition.transact(partition.owner(), {key(1): b"one", key(2): b"two"})
    store = partition.store()
    partition.restore(store)
    position = store.position()
    assert position is not None
    store.write({key(9): b"not in the changelog"}, position)
    return store


def test_a_store_beyond_the_changelogs_end_is_started_over(partition: Partition, restored: PartitionStore) -> None:
    end = partition.end(partition.topics.changelog)
    restored.write({}, Position(end + 1, START_MS, partition.topic_id))
    result = partition.restore(restored)
    assert result.wiped == f"the data dir is at offset {end + 1}, beyond the changelog's end {end}"
    assert contents(restored) == {1: b"one", 2: b"two"}
    assert (result.records, restored.position()) == (3, Position(end, START_MS, partition.topic_id))


def test_a_store_of_another_changelog_of_that_name_is_started_over(
    partition: Partition, restored: PartitionStore
) -> None:
    result = partition.restore(restored, "another id")
    assert result.wiped == "the changelog was made anew"
    assert contents(restored) == {1: b"one", 2: b"two"}
    end = partition.end(partition.topics.changelog)
    assert restored.position() == Position(end, START_MS, "another id")


# tombstones kept     |------------ 24 h ------------|
# store written       ^                     23 h ^   ^ 24 h: an hour is left for clocks that differ
@pytest.mark.parametrize(("age_ms", "wiped"), [(TOMBSTONES_KEPT_MS - _HOUR_MS, False), (TOMBSTONES_KEPT_MS, True)])
def test_a_store_that_is_older_than_tombstones_are_kept_is_started_over(
    partition: Partition, restored: PartitionStore, age_ms: int, wiped: bool
) -> None:
    partition.clock.advance(age_ms)
    result = partition.restore(restored)
    assert result.wiped == ("the data dir is older than the changelog keeps tombstones" if wiped else "")
    assert contents(restored) == {1: b"one", 2: b"two"} | ({} if wiped else {9: b"not in the changelog"})
    end = partition.end(partition.topics.changelog)
    assert restored.position() == Position(end, START_MS + age_ms, partition.topic_id)


def test_a_changelog_that_keeps_tombstones_for_less_makes_a_store_old_sooner(
    partition: Partition, restored: PartitionStore
) -> None:
    """The topic's own configuration decides, which its operator may have changed."""
    restorer = Restorer(partition.settings, partition.topics, partition.clock)
    for kept_ms, wiped in ((TOMBSTONES_KEPT_MS, ""), (_HOUR_MS - 1, "the data dir is older than")):
        result = restorer.restore(PARTITION, restored, partition.topic_id, tombstones_kept_ms=kept_ms)
        assert result.wiped.startswith(wiped)
        assert bool(result.wiped) == bool(wiped)


def test_a_store_that_was_started_over_goes_on_from_there(partition: Partition, restored: PartitionStore) -> None:
    partition.restore(restored, "another id")
    partition.transact(partition.owner(), {key(3): b"three"})
    result = partition.restore(restored, "another id")
    assert (result.records, result.wiped) == (2, "")
    assert contents(restored) == {1: b"one", 2: b"two", 3: b"three"}


def _configured(partition: Partition, **options: int) -> Partition:
    """Give the producers that are made from now on other options, with ``_`` where librdkafka has ``.``."""
    made, given = partition.make_client, {name.replace("_", "."): value for name, value in options.items()}
    partition.make_client = lambda config: made({**config, **given})
    return partition


def _raw_owner(partition: Partition) -> confluent_kafka.Producer:
    """An owner of the partition that ends its transactions as the test likes."""
    transactional_id = f"{partition.settings.app_id}-{PARTITION}"
    producer = confluent_kafka.Producer(librdkafka_config(partition.settings) | {"transactional.id": transactional_id})
    producer.init_transactions(10)
    return producer
