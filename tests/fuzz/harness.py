"""What must hold for any record, whatever it carries: checked by the fuzzer and by the property tests alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import bson
from bson.errors import BSONError

from feedback_app.core.aggregate import Aggregate, checksum_seed, origin_checksum
from feedback_app.core.documents import Document, aggregated_event, encode_event, to_json, window_document
from feedback_app.core.events import LOG_APPEND_TIME, Headers, Invalid, Origin
from feedback_app.core.headers import Header, headers_of, origin_of
from feedback_app.core.partitioning import partitioner
from feedback_app.core.state import OPEN, PartitionRecord, window_of
from feedback_app.core.transaction import Send
from feedback_app.core.watermark import Lateness
from feedback_app.folding import Fold, FoldRules
from feedback_app.models import decode
from feedback_app.topics import MAX_SIDE_BYTES, Topics
from tests.services.compiled import every_counts

NOW_MS: Final = 1_700_000_000_000
TOPICS: Final = Topics("feedback", "feedback-repartition", "aggregates", "late", "dead", "changelog", 2)
RULES: Final = FoldRules(
    partition=0,
    partition_of=partitioner(2),
    topics=TOPICS,
    window_size=60_000,
    lateness=Lateness(grace_ms=1_000, retention_ms=600_000),
    max_future_ms=5_000,
    keep_items=True,
    partitions=2,
)
#: Without items, what is plain is counted in a loop of its own: in Python, and compiled.
_OTHER_WAYS: Final = [replace(RULES, keep_items=False, counts=counts) for counts in every_counts()]
#: A batch's header, a record's lengths and offsets, and the lengths of ten headers.
_BROKERS_OWN_BYTES: Final = 61 + 40 + 10 * 10


@dataclass
class Record:
    """A fetched record on partition 0, as confluent-kafka has it; *bad_name* makes its headers unreadable."""

    content: bytes | None
    offset_: int = 0
    topic_: str = TOPICS.feedback
    key_: bytes | None = b"key"
    headers_: Headers | None = None
    bad_name: bool = False

    def topic(self) -> str:
        return self.topic_

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self.offset_

    def timestamp(self) -> tuple[int, int]:
        return LOG_APPEND_TIME, NOW_MS

    def key(self) -> bytes | None:
        return self.key_

    def value(self) -> bytes | None:
        return self.content

    def headers(self) -> Headers | None:
        if self.bad_name:
            raise SystemError("returned a result with an exception set")
        return self.headers_

    def set_headers(self, headers: Headers, /) -> None:
        self.headers_, self.bad_name = headers, False


class State:
    """A partition's committed state without a window, somewhere in the middle of its life: an event at :data:`NOW_MS`
    opens and ends nothing besides its own window, so that nobody need be asked about it."""

    record = PartitionRecord(watermark=NOW_MS - 20_000, floor=NOW_MS - 620_000)

    def stored(self, key: bytes) -> bytes | None:
        return None

    def known(self) -> tuple[Mapping[bytes, bytes], bytes]:
        return {}, OPEN


class Endings(NamedTuple):
    """What became of the records of a batch."""

    counted: int
    late: int
    dead: int
    forwarded: int


def check(records: Sequence[Record]) -> Endings:
    """Decode and fold *records*, consecutive ones of one topic, and encode all that follows from it.

    Raises:
        AssertionError: a rule is broken. Any other exception is a violation as well.
    """
    values = [record.content for record in records]
    decoded = decode(values)
    assert len(decoded) == len(values), "an answer for each record"
    if len(values) > 1:
        assert list(decoded) == [decode([value])[0] for value in values], "an answer depends on its neighbours"
    for event in decoded:
        if isinstance(event, Invalid):
            assert event.error.isprintable(), "an error has one line"
            assert 0 < len(event.error) < 200, "an error is short"
    fold = Fold(State(), RULES, NOW_MS)
    fold.add(records[0].topic(), 0, records, decode)
    transaction = fold.transaction()
    tally = fold.tally
    aggregates = [Aggregate.decode(value or b"") for value in transaction.changes.values()]
    counted = sum(aggregate.count for aggregate in aggregates)
    assert counted + tally.late + tally.invalid + tally.forwarded == len(records), "each record ends in one place"
    assert len(transaction.sends) == len(records) - counted, "what is not counted is sent"
    _check_places(records, transaction.sends, sum(each.checksum for each in aggregates))
    for send in transaction.sends:
        _check_send(send)
    for rules in _OTHER_WAYS:
        other = Fold(State(), rules, NOW_MS)
        other.add(records[0].topic(), 0, records, decode)
        assert (other.transaction(), other.tally) == (transaction, tally), "whoever counts, it comes to the same"
    for key, value in transaction.changes.items():
        assert value is not None, "a fold deletes nothing"
        _check_window(key, value)
    valid = sum(not isinstance(event, Invalid) for event in decoded)
    assert len(fold.items) <= valid, "items are those of valid events"
    for item in fold.items:
        _check_document(item)
    return Endings(counted, tally.late, tally.invalid, tally.forwarded)


def _check_places(records: Sequence[Record], sends: Sequence[Send], checksum: int) -> None:
    """Check by origins that no record is in two places, and that those which are counted are the ones not sent."""
    left = [_origin(record) for record in records]
    for send in sends:
        origin = origin_of(send.headers)
        assert origin is not None, "it says where it comes from"
        assert origin in left, "it is of one of the records, and of none that was sent before"
        left.remove(origin)
    assert checksum == sum(origin_checksum(checksum_seed(at.topic, at.partition), at.offset) for at in left)


def _origin(record: Record) -> Origin:
    own = Origin(record.topic(), 0, record.offset())
    return (origin_of(headers_of(record)) or own) if record.topic() == TOPICS.repartition else own


def _check_send(send: Send) -> None:
    assert 0 <= send.partition < TOPICS.partitions
    size = len(send.key or b"") + len(send.value or b"") + _BROKERS_OWN_BYTES
    for name, value in send.headers:
        size += len(name.encode()) + len(value or b"")
        assert value is None or type(value) is bytes
    assert size <= MAX_SIDE_BYTES, "it fits into its topic, even uncompressed"
    names = [name for name, _ in send.headers if name.startswith("feedback-")]
    assert len(names) == len(set(names)), "nobody else wrote a header of ours"
    assert (Header.ERROR in names) == (send.topic != TOPICS.repartition)


def _check_window(key: bytes, value: bytes) -> None:
    window = window_of(key)
    aggregate = Aggregate.decode(value)
    assert aggregate.encode() == value
    assert window.start <= aggregate.first <= aggregate.last < window.end
    document = window_document(window, aggregate)
    event = aggregated_event(window, document)
    assert encode_event(event) == to_json(event)
    assert len(to_json(event)) < 100_000
    bson.encode(document)


def _check_document(item: Document) -> None:
    """Check that an item can be stored; or that it is refused in a way that the sink knows to skip."""
    try:
        bson.encode(item)
    except (BSONError, OverflowError, UnicodeError):
        return
    to_json(item)
