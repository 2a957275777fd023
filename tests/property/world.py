"""A broker, a database and owners in memory, to run the real protocols on: folding, closing, state on real RocksDB.

The broker does what Kafka promises and no more: a transaction is there as a whole or not at all, a former owner's epoch
is fenced, and committed records are read in order.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import orjson

from feedback_app.closing import CloseRules, Closing, DueWindow, bulks, plan
from feedback_app.core.aggregate import Aggregate, checksum_seed, origin_checksum
from feedback_app.core.clock import ManualClock
from feedback_app.core.documents import Document, window_document
from feedback_app.core.events import LOG_APPEND_TIME, Event, Headers, Origin
from feedback_app.core.headers import origin_of
from feedback_app.core.state import Changes, window_of
from feedback_app.core.transaction import Transaction
from feedback_app.core.watermark import Lateness
from feedback_app.core.windows import Window, window_end
from feedback_app.errors import Aborted, Fenced
from feedback_app.folding import Fold, FoldRules
from feedback_app.models import decode
from feedback_app.topics import Topics
from tables.state import PartitionState, changelog_of
from tables.store import PartitionStore, Position

PARTITIONS = 2
SIZE_MS = 1_000
LATENESS = Lateness(grace_ms=300, retention_ms=2_000)
MAX_FUTURE_MS = 60_000
START_MS = 1_700_000_000_000

TOPICS = Topics("feedback", "feedback-repartition", "aggregates", "late", "dead", "changelog", PARTITIONS)


class Crash(Exception):
    """The process is gone."""


class SinkDown(Exception):
    """The database did not answer."""


def home_of(agent_id: str) -> int:
    return int(agent_id[-1]) % PARTITIONS


@dataclass
class Record:
    """A fetched record, with confluent-kafka's methods."""

    where: tuple[str, int, int]
    at_ms: int
    pair: tuple[bytes | None, bytes | None]
    meta: Headers

    def topic(self) -> str:
        return self.where[0]

    def partition(self) -> int:
        return self.where[1]

    def offset(self) -> int:
        return self.where[2]

    def timestamp(self) -> tuple[int, int]:
        return LOG_APPEND_TIME, self.at_ms

    def key(self) -> bytes | None:
        return self.pair[0]

    def value(self) -> bytes | None:
        return self.pair[1]

    def headers(self) -> Headers:
        return self.meta

    def set_headers(self, headers: Headers, /) -> None:
        self.meta = headers


@dataclass
class Broker:
    clock: ManualClock
    logs: dict[tuple[str, int], list[Record]] = field(default_factory=lambda: defaultdict(list))
    epochs: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    committed: dict[tuple[str, int], int] = field(default_factory=dict)
    aborting: int = 0

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        log = self.logs[topic, partition]
        log.append(Record((topic, partition, len(log)), self.clock.now_ms(), (key, value), headers))

    def fence(self, partition: int) -> int:
        self.epochs[partition] += 1
        return self.epochs[partition]

    def transact(self, partition: int, epoch: int, transaction: Transaction) -> int:
        if epoch != self.epochs[partition]:
            raise Fenced
        if self.aborting:
            self.aborting -= 1
            raise Aborted
        for send in transaction.sends:
            self.append(send.topic, send.partition, send.key, send.value, send.headers)
        for key, value in changelog_of(transaction).items():
            self.append(TOPICS.changelog, partition, key, value)
        for topic, offset in transaction.record.offsets.items():
            self.committed[topic, partition] = offset
        return len(self.logs[TOPICS.changelog, partition]) - 1


@dataclass
class Database:
    documents: dict[str, Document] = field(default_factory=dict)
    down: bool = False
    refused: set[str] = field(default_factory=set)

    def upsert(self, documents: Sequence[Document]) -> set[str]:
        """Store what may be stored; return the ids of what is stored now."""
        if self.down:
            raise SinkDown
        stored = set()
        for document in documents:
            there = self.documents.get(document["_id"])
            if document["_id"] not in self.refused and (there is None or there["count"] <= document["count"]):
                self.documents[document["_id"]] = document
                stored.add(document["_id"])
        return stored


class Owner:
    """An assignment of one partition: what ``tables.partition`` and ``agents`` do, step by step."""

    def __init__(self, broker: Broker, database: Database, path: Path, partition: int) -> None:
        self.broker, self.database, self.partition = broker, database, partition
        self.epoch = broker.fence(partition)
        self.store = PartitionStore(path)
        position = self.store.position()
        log = broker.logs[TOPICS.changelog, partition]
        changes: Changes = {record.key() or b"": record.value() for record in log[position.offset if position else 0 :]}
        self.store.write(changes, Position(len(log), 0, "id"))
        self.state = PartitionState(self.store, cached=3)
        for topic in TOPICS.sources:
            assert broker.committed.get((topic, partition), 0) == self.state.record.offsets.get(topic, 0)
        self.fold_rules = FoldRules(partition, home_of, TOPICS, SIZE_MS, LATENESS, MAX_FUTURE_MS, keep_items=False)
        self.close_rules = CloseRules(partition, TOPICS.aggregates, 100, joint_events=False, split_by_agent=False)

    def release(self) -> None:
        self.store.close()

    def fold(self, topic: str, limit: int, crash: str = "", along: Closing | None = None) -> int:
        """Fold at most *limit* records of one source topic, and take a close pass *along*; return how many."""
        start = self.state.record.offsets.get(topic, 0)
        records = self.broker.logs[topic, self.partition][start : start + limit]
        if not records:
            return 0
        while True:
            fold = Fold(self.state, self.fold_rules, self.broker.clock.now_ms())
            for cut in (records[: limit // 2], records[limit // 2 :]):
                fold.add(topic, self.partition, cut, decode)
            if crash == "before commit":
                raise Crash
            try:
                transaction = fold.transaction()
                closed = along.settle(self.state, transaction) if along else None
                self.commit(transaction.with_changes_of(closed) if closed else transaction, crash)
            except Aborted:
                continue
            if along:
                along.committed = closed
            return len(records)

    def commit(self, transaction: Transaction, crash: str = "") -> None:
        last = self.broker.transact(self.partition, self.epoch, transaction)
        if crash == "after commit":
            raise Crash
        self.state.persist(transaction, Position(last + 1, 0, "id"))
        self.state.apply(transaction)

    def commit_again_and_again(self, transaction: Transaction, crash: str = "") -> None:
        """Commit what an abort does not make invalid."""
        while True:
            try:
                return self.commit(transaction, crash)
            except Aborted:
                continue

    def begin_close(self, limit: int) -> tuple[list[DueWindow], Closing]:
        """Take due windows and upsert them; return them, and what is to be done with those that are stored."""
        windows, documents = plan(self.state.take_due(limit))
        try:
            stored = {one for bulk in bulks(documents, self.close_rules) for one in self.database.upsert(bulk)}
        except SinkDown:
            stored = set()
        there = [due for due in windows if window_of(due.key).document_id in stored]
        return windows, Closing(there, self.state.take_expired(limit), self.close_rules)

    def end_close(self, windows: list[DueWindow], closing: Closing, crash: str = "") -> int:
        """Settle what is stored, unless a fold did, and put the rest back; return how many windows were closed."""
        if closing.committed is None and (transaction := closing.settle(self.state)):
            self.commit_again_and_again(transaction, crash)
            closing.committed = transaction
        closed = closing.committed.changes if closing.committed else {}
        self.state.put_back(due.key for due in windows if due.key not in closed)
        return sum(due.key in closed for due in windows)

    def follow_the_clock(self) -> None:
        if any(
            self.state.record.offsets.get(topic, 0) < len(self.broker.logs[topic, self.partition])
            for topic in TOPICS.sources
        ):
            return
        moved = LATENESS.silent(self.state.record, self.broker.clock.now_ms(), self.state.newest_end())
        if moved != self.state.record:
            self.commit_again_and_again(Transaction(changes={}, record=moved))


class World:
    """Two partitions, their owners, and the owners that they had before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = ManualClock(START_MS)
        self.broker = Broker(self.clock)
        self.database = Database()
        self.owners = [self._own(partition) for partition in range(PARTITIONS)]
        self.produced: list[tuple[Origin, Event | None]] = []

    def produce(self, partition: int, event: dict[str, object] | None) -> None:
        """Append an event, or (None) something that is none."""
        offset = len(self.broker.logs[TOPICS.feedback, partition])
        value = b"{" if event is None else orjson.dumps(event)
        self.broker.append(TOPICS.feedback, partition, None, value, [("feedback-origin-offset", b"0"), ("x", b"y")])
        self.produced.append(
            (Origin(TOPICS.feedback, partition, offset), None if event is None else msgspec.convert(event, Event))
        )

    def restart(self, partition: int, *, wiped: bool) -> None:
        """The owner is gone; another one takes over, with its data dir or an empty one."""
        self.owners[partition].release()
        if wiped:
            shutil.rmtree(self.path / str(partition))
        self.owners[partition] = self._own(partition)

    def zombie(self, partition: int) -> Owner:
        """Another worker takes over, while the former owner goes on in a folder of its own; return the former."""
        former = self.owners[partition]
        aside = self.path / f"{partition}-{former.epoch}-zombie"
        former.release()
        shutil.copytree(self.path / str(partition), aside)
        twin = Owner.__new__(Owner)
        twin.__dict__.update(former.__dict__)
        twin.store = PartitionStore(aside)
        twin.state = PartitionState(twin.store, cached=3)
        self.owners[partition] = self._own(partition)
        return twin

    def _own(self, partition: int) -> Owner:
        return Owner(self.broker, self.database, self.path / str(partition), partition)

    def close(self) -> None:
        for owner in self.owners:
            owner.release()

    # -- the oracle ------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Let everything be read and everything close."""
        self.database.down, self.broker.aborting = False, 0
        self.database.refused.clear()
        for _ in range(2):  # what is forwarded comes back by way of another partition
            for owner in self.owners:
                for topic in TOPICS.sources:
                    while owner.fold(topic, 10):
                        pass
        self.clock.advance(10 * SIZE_MS)
        for owner in self.owners:
            owner.follow_the_clock()
            while True:
                if not owner.end_close(*owner.begin_close(3)):
                    break
            assert owner.state.newest_end() is None, "a window never closed"

    def check(self) -> None:
        """Compare everything with a recount of what was produced: each record ended in exactly one place."""
        late = self._set_aside(TOPICS.late)
        dead = self._set_aside(TOPICS.dead_letter)
        counts: dict[Window, Aggregate] = defaultdict(Aggregate)
        for origin, event in self.produced:
            places = (origin in late) + (origin in dead)
            assert places <= 1
            if event is None:
                assert origin in dead
            elif not places:
                end = window_end(event.timestamp, SIZE_MS)
                window = Window(event.agent_id, end - SIZE_MS, SIZE_MS)
                seed = checksum_seed(origin.topic, origin.partition)
                counts[window].add(event, event.timestamp, origin_checksum(seed, origin.offset))
        expected = {window.document_id: window_document(window, aggregate) for window, aggregate in counts.items()}
        actual = self.database.documents
        assert actual.keys() == expected.keys()
        for document_id, document in expected.items():
            assert {**actual[document_id], "revision": 0} == document
        self._check_events()

    def _set_aside(self, topic: str) -> set[Origin]:
        origins = []
        for partition in range(PARTITIONS):
            for record in self.broker.logs[topic, partition]:
                headers = dict(record.headers())
                assert headers["x"] == b"y"
                assert len(headers) == len(record.headers()), "a producer's own feedback-* header was kept"
                origin = origin_of(record.headers())
                assert origin is not None
                origins.append(origin)
        assert len(origins) == len(set(origins)), "set aside twice"
        return set(origins)

    def _check_events(self) -> None:
        """Each aggregated event is there once, and the last of each window says what the document says."""
        last: dict[str, dict[str, object]] = {}
        seen = set()
        for partition in range(PARTITIONS):
            for record in self.broker.logs[TOPICS.aggregates, partition]:
                event = orjson.loads(record.value() or b"")
                assert event["eventId"] not in seen, "emitted twice"
                seen.add(event["eventId"])
                last[event["_id"]] = event
        assert last.keys() == self.database.documents.keys()
        for document_id, event in last.items():
            document = self.database.documents[document_id]
            assert (event["count"], event["revision"]) == (document["count"], document["revision"])
            assert event["checksum"] == document["checksum"]
