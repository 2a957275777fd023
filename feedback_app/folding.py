"""Folding: a batch of records becomes one transaction (DESIGN, batches in).

A fold works on an overlay over committed state. Dropping the fold undoes it; nothing else has been touched. How records
are cut into batches changes nothing: each record is judged by the watermark that the records before it have left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from feedback_app.core.aggregate import Aggregate, checksum_seed, origin_checksum, origin_checksums
from feedback_app.core.documents import Document, item_document
from feedback_app.core.events import LOG_APPEND_TIME, Decoded, Event, Invalid, Origin, SourceRecord
from feedback_app.core.headers import Header, headers_of, origin_headers, origin_of, truncated_from
from feedback_app.core.state import OPEN, PartitionRecord, closed_key, window_key
from feedback_app.core.transaction import Send, Transaction
from feedback_app.core.watermark import Lateness
from feedback_app.core.windows import window_end
from feedback_app.cutting import Kept, cut
from feedback_app.topics import Topics


class CommittedState(Protocol):
    """What a fold reads of its partition: committed state only."""

    @property
    def record(self) -> PartitionRecord: ...

    def aggregate(self, key: bytes) -> Aggregate | None:
        """Return the aggregate stored under a window key. It belongs to the state: copy it before changing it."""
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
        self._state = state
        self._rules = rules
        self._now_ms = now_ms
        self._before = state.record
        self._highest = state.record.watermark + rules.lateness.grace_ms
        self._changed: dict[bytes, Aggregate] = {}
        self._by_end: dict[int, dict[str, Aggregate]] = {}
        self._sends: list[Send] = []
        self._offsets: dict[str, int] = {}
        #: How many there were.
        self.records = 0

    @property
    def holds(self) -> int:
        """How many windows, items and records that were set aside it holds in memory."""
        return len(self._changed) + len(self.items) + len(self._sends)

    def add(self, topic: str, partition: int, records: Sequence[SourceRecord], decoded: Sequence[Decoded]) -> None:
        """Fold one slice: consecutive *records* of one source partition, and what each of them was decoded to."""
        if not records:
            return
        rules = self._rules
        size, keep_items = rules.window_size, rules.keep_items
        checksums = self._checksums(topic, partition, records)
        # One plain loop, and what seldom changes is worked out when it does: this runs for every event, and half of
        # what it cost before was divisions, calls and look-ups that gave the same as for the event before.
        highest = self._highest
        first_open, moves_at = self._open_from(highest)
        start = end = 0
        windows: dict[str, Aggregate] = {}
        for record, event, checksum in zip(records, decoded, checksums, strict=True):
            if isinstance(event, Invalid):
                self._highest = highest
                self._dead_letter(record, event.error)
                continue
            timestamp = event.timestamp
            # What is no newer than an event that was counted moves nothing, whatever its own record's clock says.
            in_future = timestamp > highest and timestamp > self._clock(record) + rules.max_future_ms
            if in_future or timestamp < first_open:
                self._highest = highest
                self._reject(record, event, in_future=in_future)
                continue
            if not start <= timestamp < end:
                end = window_end(timestamp, size)
                start = end - size
                windows = self._by_end.setdefault(end, {})
            agent_id = event.agent_id
            aggregate = windows.get(agent_id)
            if aggregate is None:
                if rules.partition_of(agent_id) != rules.partition:
                    self._forward(record, agent_id)
                    continue
                aggregate = windows[agent_id] = self._open(agent_id, end)
            aggregate.add(event, timestamp, checksum)
            if timestamp > highest:
                highest = timestamp
                if highest >= moves_at:
                    first_open, moves_at = self._open_from(highest)
            if keep_items:
                self.items.append(item_document(event, self._origin(record)))
        self._highest = highest
        self.records += len(records)
        self._offsets[topic] = (records[-1].offset() or 0) + 1

    def _checksums(self, topic: str, partition: int, records: Sequence[SourceRecord]) -> Iterable[int]:
        """Return the share of each record in its window's checksum."""
        if topic != self._rules.topics.repartition:
            return origin_checksums(checksum_seed(topic, partition), [record.offset() or 0 for record in records])
        origins = map(self._origin, records)
        return [origin_checksum(checksum_seed(of.topic, of.partition), of.offset) for of in origins]

    def _open_from(self, highest: int) -> tuple[int, int]:
        """Return the first time whose window can be counted into, once an event with time *highest* was counted; and
        the *highest* at which that time moves on."""
        size, lateness = self._rules.window_size, self._rules.lateness
        first_open = lateness.seen(self._before, highest).floor // size * size
        return first_open, first_open + size + lateness.grace_ms + lateness.retention_ms

    def _clock(self, record: SourceRecord) -> int:
        """Return what "in the future" is measured against: the broker's clock, where the record has its time."""
        kind, appended = record.timestamp()
        return appended if kind == LOG_APPEND_TIME else self._now_ms

    def transaction(self) -> Transaction:
        """Return what the fold changes, as one transaction."""
        record = self._rules.lateness.seen(self._before, self._highest)
        record = replace(
            record.with_size(self._rules.window_size),
            offsets={**record.offsets, **self._offsets},
            topic_ids={**record.topic_ids, **self._rules.topic_ids},
        )
        return Transaction(
            changes={key: aggregate.encode() for key, aggregate in self._changed.items()},
            record=record,
            sends=self._sends,
            aggregates=self._changed,
        )

    def _open(self, agent_id: str, end: int) -> Aggregate:
        """Return the aggregate to count into: the open window's, the closed one's reopened, or a new one."""
        key = window_key(OPEN, agent_id, end, self._rules.window_size)
        committed = self._state.aggregate(key)
        if committed is not None:
            aggregate = committed.copy()
        elif end <= self._before.watermark and (closed := self._state.aggregate(closed_key(key))) is not None:
            aggregate = closed.copy()
            aggregate.revision += 1
        else:
            aggregate = Aggregate()
        self._changed[key] = aggregate
        return aggregate

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
            (Header.WATERMARK, b"%d" % (self._highest - self._rules.lateness.grace_ms)),
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
