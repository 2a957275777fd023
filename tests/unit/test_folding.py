"""A batch of records becomes one transaction, and how records are cut into batches changes nothing.

All here is partition 0 of two; agents whose id ends in an even digit belong to it. Windows have 1,000 ms, the grace is
100 ms, and closed windows can be amended for 2,000 ms:

    event time                                                 |---- 100 ----> highest
    watermark                                                  |
    floor                       |<---------- 2,000 ------------|
                   late for good|   open, reopened or new      |   not due yet
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import orjson
import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, TIMESTAMP_NOT_AVAILABLE
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from feedback_app.core.aggregate import Aggregate, checksum_seed, origin_checksum
from feedback_app.core.documents import Document, item_document
from feedback_app.core.events import Event, Headers, Origin
from feedback_app.core.state import BEGINNING, CLOSED, OPEN, PartitionRecord, SizeChange, window_key
from feedback_app.core.transaction import Send, Transaction
from feedback_app.core.watermark import Lateness
from feedback_app.folding import Fold, FoldRules, Tally
from feedback_app.models import decode
from feedback_app.topics import MAX_INPUT_BYTES, Topics
from tests.services.compiled import every_counts

SIZE = 1_000
NOW = 50_000
MAX_FUTURE = 500
LAST_MS = 253_402_300_799_999  # the year 9999 ends
TOPICS = Topics("feedback", "feedback-repartition", "aggregates", "late", "dead", "changelog", 2)
RULES = FoldRules(
    partition=0,
    partition_of=lambda agent_id: int(agent_id[-1]) % 2,
    topics=TOPICS,
    window_size=SIZE,
    lateness=Lateness(grace_ms=100, retention_ms=2_000),
    max_future_ms=MAX_FUTURE,
    keep_items=True,
)
#: Whoever does the counting, and in whatever way, comes to the same.
WAYS = [RULES, *(replace(RULES, keep_items=False, counts=counts) for counts in every_counts())]


@dataclass
class Record:
    """A fetched record, as confluent-kafka has it."""

    stands_at: Origin
    stamp: tuple[int, int]
    content: bytes | None
    given_headers: Headers | None

    def topic(self) -> str:
        return self.stands_at.topic

    def partition(self) -> int:
        return self.stands_at.partition

    def offset(self) -> int:
        return self.stands_at.offset

    def timestamp(self) -> tuple[int, int]:
        return self.stamp

    def key(self) -> bytes:
        return b"key"

    def value(self) -> bytes | None:
        return self.content

    def headers(self) -> Headers | None:
        return self.given_headers

    def set_headers(self, headers: Headers, /) -> None:
        self.given_headers = headers


@dataclass
class State:
    """A partition's committed state, in memory."""

    record: PartitionRecord = field(default_factory=PartitionRecord)
    values: dict[bytes, bytes] = field(default_factory=dict)

    def stored(self, key: bytes) -> bytes | None:
        return self.values.get(key)

    def known(self) -> tuple[Mapping[bytes, bytes], bytes]:
        return {}, b"\xff"

    def aggregate(self, key: bytes) -> Aggregate | None:
        return Aggregate.decode(self.values[key]) if key in self.values else None

    def apply(self, transaction: Transaction) -> None:
        self.record = transaction.record
        for key, value in transaction.changes.items():
            assert value is not None, "a fold deletes nothing"
            self.values[key] = value


def event(timestamp: int, agent: str = "agent-0", **fields: Any) -> dict[str, Any]:
    required = {"feedbackId": "f", "agentId": agent, "userId": "u", "rating": "positive", "timestamp": timestamp}
    return required | fields


def record(
    value: dict[str, Any] | bytes | None,
    offset: int = 0,
    topic: str = "feedback",
    *,
    timestamp: int = NOW,
    timestamp_type: int = TIMESTAMP_LOG_APPEND_TIME,
    headers: Headers | None = None,
) -> Record:
    encoded = orjson.dumps(value) if isinstance(value, dict) else value
    return Record(Origin(topic, 0, offset), (timestamp_type, timestamp), encoded, headers)


def add(fold: Fold, records: Sequence[Record]) -> None:
    if records:
        fold.add(records[0].topic(), 0, records, decode)


def folded(state: State, *records: Record) -> tuple[Fold, Transaction]:
    """Fold *records* of one topic, in one slice, in every way."""
    folds = [Fold(state, rules, NOW) for rules in WAYS]
    for fold in folds:
        add(fold, records)
    first, *others = folds
    transaction = first.transaction()
    for other in others:
        assert (other.transaction(), other.tally, other.items) == (transaction, first.tally, [])
    return first, transaction


def aggregates(transaction: Transaction) -> dict[bytes, Aggregate]:
    return {key: Aggregate.decode(value or b"") for key, value in transaction.changes.items()}


def open_key(end: int, agent: str = "agent-0", size: int = SIZE) -> bytes:
    return window_key(OPEN, agent, end, size)


def closed_key(end: int, agent: str = "agent-0") -> bytes:
    return window_key(CLOSED, agent, end, SIZE)


def checksum(offset: int, topic: str = "feedback", partition: int = 0) -> int:
    return origin_checksum(checksum_seed(topic, partition), offset)


def counted(*timestamps: int, revision: int = 0, checksum: int = 0) -> Aggregate:
    aggregate = Aggregate()
    for timestamp in timestamps:
        aggregate.add(msgspec.convert(event(timestamp), Event), timestamp, 0)
    aggregate.revision, aggregate.checksum = revision, checksum
    return aggregate


def due(watermark: int, floor: int = BEGINNING) -> PartitionRecord:
    return PartitionRecord(watermark=watermark, floor=floor)


# -- counting ------------------------------------------------------------------------------------------------------


# event time  0          1,000        2,000
#             |---5--9----|--------7---|
#                 f  f            f
def test_events_are_counted_in_their_windows() -> None:
    fold, transaction = folded(
        State(), record(event(500), 3), record(event(900, rating="negative"), 4), record(event(1_700), 7)
    )
    first, second = aggregates(transaction)[open_key(1_000)], aggregates(transaction)[open_key(2_000)]
    assert (first.count, first.positive, first.negative, first.first, first.last) == (2, 1, 1, 500, 900)
    assert (second.count, second.first) == (1, 1_700)
    assert first.checksum == checksum(3) + checksum(4)
    assert second.checksum == checksum(7)
    assert transaction.sends == []
    assert fold.tally == Tally()


# event time  999|1,000    and back again
def test_events_at_the_bounds_of_windows_are_counted_in_their_own() -> None:
    times = [999, 1_000, 999, 1_999, 2_000, 1_000]
    _, transaction = folded(State(), *(record(event(time_ms), offset) for offset, time_ms in enumerate(times)))
    assert {key: (value.count, value.first, value.last) for key, value in aggregates(transaction).items()} == {
        open_key(1_000): (2, 999, 999),
        open_key(2_000): (3, 1_000, 1_999),
        open_key(3_000): (1, 2_000, 2_000),
    }


def test_agents_are_counted_apart() -> None:
    _, transaction = folded(State(), record(event(5), 0), record(event(5, "agent-2"), 1), record(event(6), 2))
    assert {key: value.count for key, value in aggregates(transaction).items()} == {
        open_key(1_000): 2,
        open_key(1_000, "agent-2"): 1,
    }


def test_the_next_offsets_and_the_watermark_go_into_the_record() -> None:
    state = State(PartitionRecord(offsets={"feedback": 5, "feedback-repartition": 9}))
    _, transaction = folded(state, record(event(5_000), 5), record(event(4_000), 8))
    assert transaction.record.offsets == {"feedback": 9, "feedback-repartition": 9}
    assert (transaction.record.watermark, transaction.record.floor) == (4_900, 2_900)


def test_the_ids_of_the_source_topics_go_into_the_record() -> None:
    state = State(PartitionRecord(topic_ids={"feedback": "an old id", "feedback-repartition": "its id"}))
    fold = Fold(state, replace(RULES, topic_ids={"feedback": "an id"}), NOW)
    assert fold.transaction().record.topic_ids == {"feedback": "an id", "feedback-repartition": "its id"}


def test_offsets_move_past_records_that_are_not_counted() -> None:
    _, transaction = folded(State(), record(b"{", 0), record(None, 4), record(event(5, "agent-1"), 6))
    assert transaction.record.offsets == {"feedback": 7}
    assert transaction.changes == {}


def test_both_sources_go_into_one_transaction() -> None:
    fold = Fold(State(), RULES, NOW)
    add(fold, [record(event(10), 3)])
    add(fold, [record(event(20), 8, TOPICS.repartition)])
    transaction = fold.transaction()
    assert transaction.record.offsets == {"feedback": 4, "feedback-repartition": 9}
    assert aggregates(transaction)[open_key(1_000)].count == 2


def test_an_empty_slice_changes_nothing() -> None:
    fold = Fold(State(), RULES, NOW)
    fold.add("feedback", 0, [], decode)
    transaction = fold.transaction()
    assert (transaction.changes, transaction.sends) == ({}, [])
    assert transaction.record == PartitionRecord(history=(SizeChange(SIZE, {}),))


def test_an_open_window_is_counted_on() -> None:
    state = State(values={open_key(1_000): counted(100, 200, revision=2).encode()})
    _, transaction = folded(state, record(event(300)))
    aggregate = aggregates(transaction)[open_key(1_000)]
    assert (aggregate.count, aggregate.revision, aggregate.first, aggregate.last) == (3, 2, 100, 300)


def test_a_fold_leaves_committed_state_alone() -> None:
    class Sharing(State):
        """Hands out the same aggregate again and again, as the cache does."""

        shared = counted(100)

        def aggregate(self, key: bytes) -> Aggregate | None:
            return self.shared if key == open_key(1_000) else None

    state = Sharing()
    folded(state, record(event(200, tags=["a"]), 0), record(event(300, tags=["a"]), 1))
    assert state.shared == counted(100)
    assert state.record == PartitionRecord()


def test_a_new_window_size_is_noted_with_the_offsets_before_the_fold() -> None:
    old = (SizeChange(500, {}),)
    state = State(PartitionRecord(offsets={"feedback": 5}, history=old), {open_key(1_000, size=500): b"as it was"})
    _, transaction = folded(state, record(event(700), 5))
    assert transaction.record.history == (*old, SizeChange(SIZE, {"feedback": 5}))
    assert list(transaction.changes) == [open_key(1_000)]


# -- late ----------------------------------------------------------------------------------------------------------


# windows    |-- ends at 3,000 --|-- ends at 4,000 --|
# floor                     3,000|
@pytest.mark.parametrize(("timestamp", "late"), [(0, True), (2_000, True), (2_999, True), (3_000, False)])
def test_a_window_that_ends_at_or_below_the_floor_is_final(timestamp: int, late: bool) -> None:
    fold, transaction = folded(State(due(5_000, 3_000)), record(event(timestamp)))
    assert fold.tally == (Tally(late=1) if late else Tally())
    assert [send.topic for send in transaction.sends] == (["late"] if late else [])
    assert bool(transaction.changes) is not late


def test_a_late_event_is_set_aside_as_it_came_and_says_why() -> None:
    value = orjson.dumps(event(2_500))
    headers = [("trace", b"\x00\xff"), ("feedback-error", b"a lie"), ("trace", b"again")]
    _, transaction = folded(State(due(5_000, 3_000)), record(value, 17, headers=headers))
    assert transaction.sends == [
        Send(
            "late",
            0,
            b"key",
            value,
            [
                ("trace", b"\x00\xff"),
                ("trace", b"again"),
                ("feedback-error", b"late: the window that ended at 3000 is final"),
                ("feedback-origin-topic", b"feedback"),
                ("feedback-origin-partition", b"0"),
                ("feedback-origin-offset", b"17"),
                ("feedback-watermark", b"5000"),
                ("feedback-decided-at", b"50000"),
            ],
        )
    ]


# watermark                     5,000|
# window                 |---- 4,000] closed before
# event                      3,500
def test_a_late_event_above_the_floor_reopens_its_closed_window() -> None:
    state = State(due(5_000, 3_000), {closed_key(4_000): counted(3_100, 3_200, checksum=50).encode()})
    fold, transaction = folded(state, record(event(3_500), 8), record(event(3_600), 9))
    aggregate = aggregates(transaction)[open_key(4_000)]
    assert (aggregate.count, aggregate.revision, aggregate.first, aggregate.last) == (4, 1, 3_100, 3_600)
    assert aggregate.checksum == 50 + checksum(8) + checksum(9)
    assert list(transaction.changes) == [open_key(4_000)]
    assert fold.tally == Tally()


def test_a_window_that_ends_at_the_watermark_may_be_closed_already() -> None:
    state = State(due(4_000), {closed_key(4_000): counted(3_100).encode()})
    _, transaction = folded(state, record(event(3_500)))
    assert (aggregates(transaction)[open_key(4_000)].count, aggregates(transaction)[open_key(4_000)].revision) == (2, 1)


def test_a_window_is_reopened_as_often_as_it_was_closed() -> None:
    state = State(due(5_000, 3_000), {closed_key(4_000): counted(3_100, revision=4).encode()})
    _, transaction = folded(state, record(event(3_500)))
    assert aggregates(transaction)[open_key(4_000)].revision == 5


def test_a_late_event_joins_the_window_that_is_still_open() -> None:
    """Though there is a closed record too: the window was reopened, and is not closed again yet."""
    values = {
        open_key(4_000): counted(3_100, 3_200, 3_300, revision=1).encode(),
        closed_key(4_000): counted(3_100, 3_200).encode(),
    }
    _, transaction = folded(State(due(5_000, 3_000), values), record(event(3_500)))
    aggregate = aggregates(transaction)[open_key(4_000)]
    assert (aggregate.count, aggregate.revision) == (4, 1)


def test_a_late_event_above_the_floor_starts_a_window_that_never_was() -> None:
    _, transaction = folded(State(due(5_000, 3_000)), record(event(3_500)))
    aggregate = aggregates(transaction)[open_key(4_000)]
    assert (aggregate.count, aggregate.revision) == (1, 0)


# event time    500 ..................... 9,000              500, 7,500
# floor        -1                         6,900 = 9,000 - 100 - 2,000
def test_an_event_is_judged_by_the_floor_that_those_before_it_have_left() -> None:
    fold, transaction = folded(
        State(), record(event(500), 0), record(event(9_000), 1), record(event(500), 2), record(event(7_500), 3)
    )
    assert fold.tally == Tally(late=1)
    assert dict(transaction.sends[0].headers)["feedback-origin-offset"] == b"2"
    assert aggregates(transaction)[open_key(1_000)].count == 1


# highest      3,099 -> floor 999       3,100 -> floor 1,000       4,099 -> 1,999       4,100 -> 2,000
# window       ]1,000 takes an event    is final                   ]2,000 takes one     is final
@pytest.mark.parametrize("steps", [[], [1_500], [3_050], [3_100, 3_101]])
@pytest.mark.parametrize(
    ("highest", "timestamp", "late"),
    [(3_099, 999, 0), (3_100, 999, 1), (4_099, 999, 1), (4_099, 1_999, 0), (4_100, 1_999, 1), (4_100, 2_000, 0)],
)
def test_the_floor_moves_over_the_end_of_a_window_within_a_slice(
    steps: list[int], highest: int, timestamp: int, late: int
) -> None:
    times = [*(step for step in steps if step <= highest), highest, timestamp]
    state = State(due(0, 0))
    fold, transaction = folded(state, *(record(event(time_ms), offset) for offset, time_ms in enumerate(times)))
    assert fold.tally == Tally(late=late)
    assert transaction.record.floor == highest - 2_100


def test_a_late_event_says_the_watermark_that_made_it_late() -> None:
    _, transaction = folded(State(), record(event(9_000), 0), record(event(500), 1))
    assert dict(transaction.sends[0].headers)["feedback-watermark"] == b"8900"


# -- invalid -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, b"empty"),
        (b"", b"empty"),
        (b"[]", b"Input should be a valid dictionary"),
        (orjson.dumps(event(5, score=6)), b"score: Input should be less than or equal to 5"),
    ],
)
def test_an_invalid_record_is_set_aside_as_it_came_and_says_why(value: bytes | None, error: bytes) -> None:
    headers = [("trace", b"t"), ("feedback-origin-offset", b"99"), ("feedback-watermark", b"1")]
    fold, transaction = folded(State(due(5_000, 3_000)), record(value, 17, headers=headers))
    assert transaction.sends == [
        Send(
            "dead",
            0,
            b"key",
            value,
            [
                ("trace", b"t"),
                ("feedback-error", error),
                ("feedback-origin-topic", b"feedback"),
                ("feedback-origin-partition", b"0"),
                ("feedback-origin-offset", b"17"),
                ("feedback-watermark", b"5000"),
                ("feedback-decided-at", b"50000"),
            ],
        )
    ]
    assert fold.tally == Tally(invalid=1)
    assert transaction.changes == {}


def test_an_invalid_record_from_the_repartition_topic_keeps_its_first_origin() -> None:
    headers = [("feedback-origin-topic", b"feedback"), ("feedback-origin-partition", b"1")]
    headers += [("feedback-origin-offset", b"99")]
    _, transaction = folded(State(), record(b"{", 17, TOPICS.repartition, headers=headers))
    assert transaction.sends[0].headers[1:4] == headers


# -- in the future -------------------------------------------------------------------------------------------------


# broker's clock    40,000|-- 500 -->|40,500        worker's clock  50,000|-- 500 -->|50,500
@pytest.mark.parametrize(
    ("timestamp_type", "timestamp", "accepted"),
    [
        (TIMESTAMP_LOG_APPEND_TIME, 40_500, True),
        (TIMESTAMP_LOG_APPEND_TIME, 40_501, False),  # though the worker's clock is far beyond that
        (TIMESTAMP_CREATE_TIME, 50_500, True),  # the producer's clock has no say
        (TIMESTAMP_CREATE_TIME, 50_501, False),
        (TIMESTAMP_NOT_AVAILABLE, 50_500, True),
        (TIMESTAMP_NOT_AVAILABLE, 50_501, False),
        (TIMESTAMP_LOG_APPEND_TIME, LAST_MS, False),
        (TIMESTAMP_CREATE_TIME, LAST_MS, False),
    ],
)
def test_the_future_begins_by_the_brokers_clock_where_it_has_stamped_the_record(
    timestamp_type: int, timestamp: int, accepted: bool
) -> None:
    value = b'{"feedbackId":"f","agentId":"agent-0","userId":"u","rating":"positive","timestamp":%d}' % timestamp
    fold, transaction = folded(State(), record(value, timestamp=40_000, timestamp_type=timestamp_type))
    assert fold.tally == (Tally() if accepted else Tally(invalid=1))
    if not accepted:
        (send,) = transaction.sends
        assert send.topic == "dead"
        assert dict(send.headers)["feedback-error"] == b"timestamp: lies in the future"
        assert transaction.record.watermark == BEGINNING, "one bad clock must not close everybody's windows"
        assert fold.items == []


# broker's clock      50,000   40,000      it can go back: another broker leads, or it was set right
# event time                   45,000
def test_each_record_is_measured_by_its_own_time_though_the_brokers_clock_goes_back() -> None:
    early, late = record(event(1), 0, timestamp=50_000), record(event(45_000), 1, timestamp=40_000)
    _, together = folded(State(), early, late)
    _, alone = folded(State(), late)
    assert [send.topic for send in together.sends] == [send.topic for send in alone.sends] == ["dead"]


@pytest.mark.parametrize("cut", [1, 2])
def test_what_is_no_newer_than_an_event_that_was_counted_is_not_in_the_future(cut: int) -> None:
    records = [record(event(45_000), 0, timestamp=50_000), record(event(45_000), 1, timestamp=40_000)]
    state = State()
    for start in range(0, 2, cut):
        _, transaction = folded(state, *records[start : start + cut])
        assert transaction.sends == []
        state.apply(transaction)


# -- too large, or not to be read ----------------------------------------------------------------------------------


def test_a_record_that_is_too_large_is_set_aside_cut_and_says_how_large_it_was() -> None:
    _, transaction = folded(State(), record(b"{" * 5_000_000, headers=[("trace", bytes(10))]))
    (send,) = transaction.sends
    assert (send.key, len(send.value or b"")) == (b"key", MAX_INPUT_BYTES)
    assert send.headers[0] == ("feedback-truncated", b"%d" % (5_000_000 + 3 + 5 + 10 + 10))
    assert "trace" not in dict(send.headers)


@pytest.mark.parametrize("agent", ["agent-0", "agent-1"])
def test_what_a_record_lost_when_it_was_forwarded_stays_said(agent: str) -> None:
    headers = [("feedback-origin-topic", b"feedback"), ("feedback-origin-partition", b"1")]
    headers += [("feedback-origin-offset", b"99"), ("feedback-truncated", b"3000000")]
    _, transaction = folded(
        State(due(5_000, 3_000)), record(event(500, agent), 17, TOPICS.repartition, headers=headers)
    )
    (send,) = transaction.sends
    assert (send.topic, dict(send.headers)["feedback-truncated"]) == (
        "late" if agent == "agent-0" else "feedback-repartition",
        b"3000000",
    )


@pytest.mark.parametrize("said", [b"", b"-1", b"x", b"1" * 30, None])
def test_what_it_says_otherwise_is_not_repeated(said: bytes | None) -> None:
    for topic in (TOPICS.feedback, TOPICS.repartition):
        _, transaction = folded(State(), record(b"{", 17, topic, headers=[("feedback-truncated", said)]))
        assert "feedback-truncated" not in dict(transaction.sends[0].headers)


def test_headers_that_can_not_be_read_are_asked_for_once() -> None:
    """The binding would hand out something broken the second time, and a fold that was aborted is made again."""

    class Unreadable(Record):
        asked = 0

        def headers(self) -> Headers | None:
            if self.given_headers is None:
                self.asked += 1
                raise SystemError("returned a result with an exception set")
            return self.given_headers

    unreadable = Unreadable(Origin(TOPICS.repartition, 0, 17), (TIMESTAMP_LOG_APPEND_TIME, NOW), b"{", None)
    sent = [folded(State(), unreadable)[1].sends for _ in range(3)]
    assert sent[0] == sent[1] == sent[2]
    assert dict(sent[0][0].headers)["feedback-origin-offset"] == b"17"
    assert "feedback-truncated" in dict(sent[0][0].headers)
    assert unreadable.asked == 1


# -- misplaced -----------------------------------------------------------------------------------------------------


def test_a_misplaced_event_is_sent_home_with_its_origin() -> None:
    value = orjson.dumps(event(500, "agent-1"))
    headers = [("trace", b"t"), ("feedback-origin-offset", b"99")]
    fold, transaction = folded(State(), record(value, 17, headers=headers))
    assert transaction.sends == [
        Send(
            "feedback-repartition",
            1,
            b"agent-1",
            value,
            [
                ("trace", b"t"),
                ("feedback-origin-topic", b"feedback"),
                ("feedback-origin-partition", b"0"),
                ("feedback-origin-offset", b"17"),
            ],
        )
    ]
    assert fold.tally == Tally(forwarded=1)
    assert fold.items == []
    assert transaction.changes == {}


@pytest.mark.parametrize("timestamp", [500, NOW + 10**6])
def test_a_misplaced_event_is_judged_where_it_belongs(timestamp: int) -> None:
    """Late and future ones are sent home too, and move no watermark here."""
    fold, transaction = folded(State(due(5_000, 3_000)), record(event(timestamp, "agent-1")))
    assert fold.tally == Tally(forwarded=1)
    assert [send.topic for send in transaction.sends] == ["feedback-repartition"]
    assert transaction.record.watermark == 5_000


def test_a_forwarded_event_counts_by_the_origin_in_its_headers() -> None:
    headers = [("feedback-origin-topic", b"feedback"), ("feedback-origin-partition", b"1")]
    headers += [("feedback-origin-offset", b"99")]
    fold, transaction = folded(State(), record(event(500), 17, TOPICS.repartition, headers=headers))
    assert aggregates(transaction)[open_key(1_000)].checksum == checksum(99, "feedback", 1)
    assert fold.items[0]["origin"] == {"topic": "feedback", "partition": 1, "offset": 99}
    assert transaction.record.offsets == {"feedback-repartition": 18}


def test_origins_in_headers_are_trusted_on_the_repartition_topic_alone() -> None:
    headers = [("feedback-origin-topic", b"feedback"), ("feedback-origin-partition", b"1")]
    headers += [("feedback-origin-offset", b"99")]
    fold, transaction = folded(State(), record(event(500), 17, headers=headers))
    assert aggregates(transaction)[open_key(1_000)].checksum == checksum(17)
    assert fold.items[0]["origin"] == {"topic": "feedback", "partition": 0, "offset": 17}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("feedback-origin-topic", b"\xff"),
        ("feedback-origin-partition", b""),
        ("feedback-origin-partition", b"one"),
        ("feedback-origin-offset", b"1.5"),
        ("feedback-origin-offset", b"\xff"),
        ("feedback-origin-offset", b"-1"),
        ("feedback-origin-offset", b"9" * 20),
        ("feedback-origin-offset", b"9" * 5_000),
        ("feedback-origin-topic", None),
        ("feedback-origin-partition", None),
        ("feedback-origin-offset", None),
        ("feedback-origin-offset", "missing"),
    ],
)
def test_what_was_written_to_the_repartition_topic_directly_is_its_own_origin(name: str, value: Any) -> None:
    headers: dict[str, Any] = {
        "feedback-origin-topic": b"feedback",
        "feedback-origin-partition": b"1",
        "feedback-origin-offset": b"99",
        name: value,
    }
    if value == "missing":
        del headers[name]
    written = record(event(500), 17, TOPICS.repartition, headers=list(headers.items()))
    _, transaction = folded(State(), written)
    assert aggregates(transaction)[open_key(1_000)].checksum == checksum(17, TOPICS.repartition)


def test_an_event_that_is_misplaced_on_the_repartition_topic_too_keeps_its_first_origin() -> None:
    headers = [("feedback-origin-topic", b"feedback"), ("feedback-origin-partition", b"3")]
    headers += [("feedback-origin-offset", b"99")]
    _, transaction = folded(State(), record(event(500, "agent-1"), 17, TOPICS.repartition, headers=headers))
    assert transaction.sends[0].headers == headers
    assert transaction.sends[0].partition == 1


# -- items ---------------------------------------------------------------------------------------------------------


def test_items_are_the_valid_events_late_ones_too() -> None:
    late, good = event(2_500, feedbackId="late"), event(6_000, feedbackId="good", score=3)
    fold, _ = folded(State(due(5_000, 3_000)), record(late, 0), record(b"{", 1), record(good, 2))
    assert fold.items == [
        item_document(msgspec.convert(late, Event), Origin("feedback", 0, 0)),
        item_document(msgspec.convert(good, Event), Origin("feedback", 0, 2)),
    ]


def test_items_can_be_left_out() -> None:
    fold = Fold(State(due(5_000, 3_000)), replace(RULES, keep_items=False), NOW)
    add(fold, [record(event(2_500), 0), record(event(6_000), 1)])
    assert fold.items == []
    assert fold.tally == Tally(late=1)


# -- cuts ----------------------------------------------------------------------------------------------------------

#: Sizes, grace and retention are multiples of 100: so are all the times at which anything happens.
_TIMES = st.builds(lambda hundreds, off: max(0, 100 * hundreds + off), st.integers(0, 60), st.sampled_from([-1, 0, 1]))
_EVENTS = st.builds(
    event,
    _TIMES | st.sampled_from([NOW + MAX_FUTURE, NOW + MAX_FUTURE + 1]),
    st.sampled_from(["agent-0", "agent-1", "agent-2"]),
    score=st.sampled_from([None, 1, 5]),
    tags=st.sampled_from([None, ["a"], ["b", "$c"]]),
)
_ORIGIN_HEADERS = st.sampled_from(
    [
        None,
        [],
        [("trace", b"t"), ("feedback-error", b"a lie")],
        [("feedback-origin-topic", b"x"), ("feedback-origin-partition", b"1"), ("feedback-origin-offset", b"7")],
    ]
)


@st.composite
def inputs(draw: st.DrawFn) -> list[Record]:
    """Records of both source topics, as they may be fetched one after the other."""
    offsets = dict.fromkeys(TOPICS.sources, 0)
    records = []
    for value, topic, headers, skipped in draw(
        st.lists(
            st.tuples(
                _EVENTS | st.sampled_from([None, b"{"]),
                st.sampled_from(TOPICS.sources),
                _ORIGIN_HEADERS,
                st.integers(0, 2),
            ),
            max_size=25,
        )
    ):
        offset = offsets[topic] + skipped
        records.append(record(value, offset, topic, headers=headers))
        offsets[topic] = offset + 1
    return records


@st.composite
def states(draw: st.DrawFn) -> State:
    """Committed state: some windows open, and of those that are due and above the floor some closed before."""
    watermark, floor = sorted(draw(st.tuples(_TIMES, _TIMES)), reverse=True)
    if draw(st.booleans()):
        floor = BEGINNING
    state = State(due(watermark, floor))
    for end in draw(st.sets(st.sampled_from(range(SIZE, 12_000, SIZE)), max_size=6)):
        if end > floor and draw(st.booleans()):
            state.values[open_key(end)] = counted(end - 5, end - 7).encode()
        if floor < end <= watermark and draw(st.booleans()):
            state.values[closed_key(end)] = counted(end - 5).encode()
    return state


@dataclass
class Outcome:
    """All that folding some records leads to, however they were cut."""

    state: State
    sends: list[Send]
    items: list[Document]
    tally: dict[str, int]


def fold_in_cuts(
    start: State, records: list[Record], cut_after: set[int], commit_after: set[int], rules: FoldRules = RULES
) -> Outcome:
    """Fold *records* with a new slice after each index in *cut_after*, a new transaction after *commit_after*."""
    state = State(start.record, start.values.copy())
    outcome = Outcome(state, [], [], dict.fromkeys(("forwarded", "late", "invalid"), 0))

    def commit(fold: Fold) -> None:
        transaction = fold.transaction()
        state.apply(transaction)
        outcome.sends += transaction.sends
        outcome.items += fold.items
        for name in outcome.tally:
            outcome.tally[name] += getattr(fold.tally, name)

    fold, part = Fold(state, rules, NOW), list[Record]()
    for index, one in enumerate(records):
        if part and part[0].topic() != one.topic():
            add(fold, part)
            part = []
        part.append(one)
        if index in cut_after or index in commit_after:
            add(fold, part)
            part = []
        if index in commit_after:
            commit(fold)
            fold = Fold(state, rules, NOW)
    add(fold, part)
    commit(fold)
    return outcome


_CUTS = st.sets(st.integers(0, 24))


@hypothesis_settings(deadline=None, max_examples=300)
@given(states(), inputs(), _CUTS, _CUTS)
def test_how_records_are_cut_into_slices_and_transactions_changes_nothing(
    start: State, records: list[Record], cut_after: set[int], commit_after: set[int]
) -> None:
    whole = fold_in_cuts(start, records, set(), set())
    for rules in WAYS:
        cut = fold_in_cuts(start, records, cut_after, commit_after, rules)
        assert replace(cut, items=whole.items) == whole
        assert cut.items == (whole.items if rules.keep_items else [])
    counted = sum(Aggregate.decode(value).count for value in whole.state.values.values())
    before = sum(Aggregate.decode(value).count for value in start.values.values())
    reopened = sum(
        Aggregate.decode(start.values[CLOSED + key[1:]]).count
        for key in whole.state.values.keys() - start.values.keys()
        if CLOSED + key[1:] in start.values
    )
    assert counted - before - reopened + sum(whole.tally.values()) == len(records)
    assert len(whole.sends) == sum(whole.tally.values())


@hypothesis_settings(deadline=None, max_examples=300)
@given(states(), st.lists(_TIMES | st.just(NOW + MAX_FUTURE + 1), max_size=20))
def test_each_event_goes_where_the_contract_says(start: State, times: list[int]) -> None:
    """The contract in plain words, one event after the other, against the loop that works out as little as it can."""
    watermark, floor = start.record.watermark, start.record.floor
    places: list[object] = []
    for time_ms in times:
        end = time_ms // SIZE * SIZE + SIZE
        if time_ms > NOW + MAX_FUTURE:
            places.append("dead")
        elif end <= floor:
            places.append("late")
        else:
            places.append(end)
            if time_ms - 100 > watermark:
                watermark = time_ms - 100
                floor = max(floor, watermark - 2_000)
    _, transaction = folded(start, *(record(event(time_ms), offset) for offset, time_ms in enumerate(times)))
    set_aside = {int(dict(send.headers)["feedback-origin-offset"] or b""): send.topic for send in transaction.sends}
    assert set_aside == {offset: place for offset, place in enumerate(places) if isinstance(place, str)}
    for end in {place for place in places if isinstance(place, int)}:
        before = start.aggregate(open_key(end)) or start.aggregate(closed_key(end)) or Aggregate()
        assert aggregates(transaction)[open_key(end)].count == before.count + places.count(end)
    assert len(transaction.changes) == len({place for place in places if isinstance(place, int)})
    assert (transaction.record.watermark, transaction.record.floor) == (watermark, floor)
