"""Folding: a batch of records becomes one transaction (DESIGN, batches in).

A fold works on an overlay over committed state. Dropping the fold undoes it; nothing else has been touched. How records
are cut into batches changes nothing: each record is judged by the watermark that the records before it have left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from feedback_app.core.aggregate import Aggregate, checksum_seed, origin_checksum
from feedback_app.core.counts import NEW, Counts, Decode, MakeCounts, OpenWindow, Shortcut, Slice, clock_of
from feedback_app.core.documents import Document, item_document
from feedback_app.core.events import Decoded, Event, Invalid, Origin, Records, SourceRecord
from feedback_app.core.headers import Header, headers_of, origin_headers, origin_of, truncated_from
from feedback_app.core.state import OPEN, PartitionRecord, agent_of, closed_key, end_of, window_key
from feedback_app.core.transaction import Send, Transaction
from feedback_app.core.watermark import Lateness
from feedback_app.core.windows import window_end
from feedback_app.cutting import Kept, cut
from feedback_app.topics import Topics


class CommittedState(Protocol):
    """What a fold reads of its partition: committed state only."""

    @property
    def record(self) -> PartitionRecord: ...

    def stored(self, key: bytes) -> bytes | None:
        """Return the value stored under *key*."""
        ...

    def known(self) -> tuple[Mapping[bytes, bytes], bytes]:
        """Return some open windows, by their keys; and a key after which none was ever open."""
        ...


@dataclass(frozen=True, slots=True)
class FoldRules:
    """The settings that a fold depends on."""

    partition: int
    partition_of: Callable[[str], int]
    topics: Topics
    window_size: int
    lateness: Lateness
    max_future_ms: int
    keep_items: bool
    #: The ids of the source topics, to be remembered with their offsets.
    topic_ids: Mapping[str, str] = field(default_factory=dict)
    #: In Python, or compiled.
    counts: MakeCounts = Counts
    #: How many partitions there are, if *partition_of* is Kafka's own partitioner.
    partitions: int | None = None


@dataclass(slots=True)
class Tally:
    """What became of the records of a fold that were not counted."""

    forwarded: int = 0
    late: int = 0
    invalid: int = 0


class Fold:
    """One fold. Add slices of records, then take the :meth:`transaction`.

    Args:
        state: the partition's committed state; it must not change while the fold lives.
        rules: see :class:`FoldRules`.
        now_ms: the worker's clock: the time of the decisions, and what "in the future" is measured against where
            records do not carry the broker's own time.
    """

    def __init__(self, state: CommittedState, rules: FoldRules, now_ms: int) -> None:
        self.tally = Tally()
        #: Documents of the valid events, to be stored before the transaction is committed.
        self.items: list[Document] = []
        self._rules = rules
        self._now_ms = now_ms
        self._before = state.record
        self._counts = rules.counts(
            opener(state, rules),
            rules.window_size,
            rules.max_future_ms,
            now_ms,
            state.record.watermark + rules.lateness.grace_ms,
            self._shortcut(state),
        )
        self._first_open, self._moves_at = self._open_from(self._counts.highest)
        self._sends: list[Send] = []
        self._offsets: dict[str, int] = {}
        #: How many there were.
        self.records = 0

    def _shortcut(self, state: CommittedState) -> Shortcut | None:
        if self._rules.partitions is None:
            return None
        return Shortcut(self._rules.partition, self._rules.partitions, *state.known(), state.record.watermark)

    @property
    def holds(self) -> int:
        """How many windows, items and records that were set aside it holds in memory."""
        return len(self._counts) + len(self.items) + len(self._sends)

    def add(self, topic: str, partition: int, records: Records, decode: Decode) -> None:
        """Fold one slice: consecutive *records* of one source partition."""
        if not records:
            return
        part = Slice(topic, partition, records, decode)
        # Of these, every record has something to it besides being counted.
        one_by_one = self._rules.keep_items or topic == self._rules.topics.repartition
        at = 0
        while at < len(records):
            if not one_by_one:
                at = self._counts.count(part, at, self._first_open, self._moves_at)
            if at < len(records):
                self._judge(records[at], part.event(at))
                at += 1
        self.records += len(records)
        self._offsets[topic] = (records[len(records) - 1].offset() or 0) + 1

    def _judge(self, record: SourceRecord, event: Decoded) -> None:
        """Say what becomes of one record, whatever it is."""
        if isinstance(event, Invalid):
            self._dead_letter(record, event.error)
            return
        timestamp, highest = event.timestamp, self._counts.highest
        # What is no newer than an event that was counted moves nothing, whatever its own record's clock says.
        in_future = timestamp > highest and timestamp > clock_of(record, self._now_ms) + self._rules.max_future_ms
        if in_future or timestamp < self._first_open:
            self._reject(record, event, in_future=in_future)
        elif not self._count(record, event):
            self._forward(record, event.agent_id)
        else:
            if timestamp > highest:
                self._counts.highest = timestamp
                if timestamp >= self._moves_at:
                    self._first_open, self._moves_at = self._open_from(timestamp)
            if self._rules.keep_items:
                self.items.append(item_document(event, self._origin(record)))

    def _count(self, record: SourceRecord, event: Event) -> bool:
        """Count one event, unless that is another partition's to do: then return False."""
        size = self._rules.window_size
        key = window_key(OPEN, event.agent_id, window_end(event.timestamp, size), size)
        stored = self._counts.get(key)
        if stored is None:
            return False
        aggregate = Aggregate() if stored == NEW else Aggregate.decode(stored)
        origin = self._origin(record)
        checksum = origin_checksum(checksum_seed(origin.topic, origin.partition), origin.offset)
        aggregate.add(event, event.timestamp, checksum)
        self._counts.put(key, aggregate.encode())
        return True

    def _open_from(self, highest: int) -> tuple[int, int]:
        """Return the first time whose window can be counted into, once an event with time *highest* was counted; and
        the *highest* at which that time moves on."""
        size, lateness = self._rules.window_size, self._rules.lateness
        first_open = lateness.seen(self._before, highest).floor // size * size
        return first_open, first_open + size + lateness.grace_ms + lateness.retention_ms

    def transaction(self) -> Transaction:
        """Return what the fold changes, as one transaction."""
        record = self._rules.lateness.seen(self._before, self._counts.highest)
        record = replace(
            record.with_size(self._rules.window_size),
            offsets={**record.offsets, **self._offsets},
            topic_ids={**record.topic_ids, **self._rules.topic_ids},
        )
        return Transaction(self._counts.changes(), record, self._sends)

    def _reject(self, record: SourceRecord, event: Event, *, in_future: bool) -> None:
        """Set an event aside whose time is wrong; a misplaced one is judged where it belongs."""
        if self._rules.partition_of(event.agent_id) != self._rules.partition:
            self._forward(record, event.agent_id)
        elif in_future:
            self._dead_letter(record, "timestamp: lies in the future")
        else:
            self.tally.late += 1
            end = window_end(event.timestamp, self._rules.window_size)
            self._set_aside(self._rules.topics.late, record, f"late: the window that ended at {end} is final")
            if self._rules.keep_items:
                self.items.append(item_document(event, self._origin(record)))

    def _dead_letter(self, record: SourceRecord, error: str) -> None:
        self.tally.invalid += 1
        self._set_aside(self._rules.topics.dead_letter, record, error)

    def _set_aside(self, topic: str, record: SourceRecord, error: str) -> None:
        kept = self._kept(record, record.key())
        headers = [
            *kept.headers,
            (Header.ERROR, error.encode()),
            *origin_headers(self._origin(record)),
            (Header.WATERMARK, b"%d" % (self._counts.highest - self._rules.lateness.grace_ms)),
            (Header.DECIDED_AT, b"%d" % self._now_ms),
        ]
        self._sends.append(Send(topic, self._rules.partition, kept.key, kept.value, headers))

    def _forward(self, record: SourceRecord, agent_id: str) -> None:
        """Send a record that stands on another partition than its agent's to where it is counted."""
        self.tally.forwarded += 1
        kept = self._kept(record, agent_id.encode())
        headers = [*kept.headers, *origin_headers(self._origin(record))]
        home = self._rules.partition_of(agent_id)
        self._sends.append(Send(self._rules.topics.repartition, home, kept.key, kept.value, headers))

    def _kept(self, record: SourceRecord, key: bytes | None) -> Kept:
        """Return what is passed on of a record, under *key*; what it lost when it was forwarded stays marked."""
        headers = headers_of(record)
        kept = cut(key, record.value(), headers)
        forwarded = record.topic() == self._rules.topics.repartition
        if forwarded and not kept.truncated and (size := truncated_from(headers)):
            return kept._replace(headers=[*kept.headers, (Header.TRUNCATED, size)])
        return kept

    def _origin(self, record: SourceRecord) -> Origin:
        """Return where a record stood on the input; one written to the repartition topic directly stood there."""
        own = Origin(record.topic() or "", record.partition() or 0, record.offset() or 0)
        if own.topic != self._rules.topics.repartition:
            return own
        return origin_of(headers_of(record)) or own


def opener(state: CommittedState, rules: FoldRules) -> OpenWindow:
    """Return what opens the windows of a fold: the open window goes on, the closed one is reopened, or it is new.

    It holds *state*, and nothing of the fold: a fold that is done with is gone at once.
    """
    watermark, partition_of = state.record.watermark, rules.partition_of

    def open_window(key: bytes) -> bytes | None:
        if partition_of(agent_of(key)) != rules.partition:
            return None
        stored = state.stored(key)
        if stored is not None:
            return stored
        if end_of(key) <= watermark and (closed := state.stored(closed_key(key))) is not None:
            aggregate = Aggregate.decode(closed)
            aggregate.revision += 1
            return aggregate.encode()
        return NEW

    return open_window
