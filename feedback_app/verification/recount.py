"""The recount: what must have become of every record, worked out again from the input and compared with what is there.

Pure: :mod:`feedback_app.verification` reads the topics and the database and hands everything over, in this order:
partition records, open windows, letters and marks of replayed ones, forwarded records, input, aggregated events,
documents.

Nothing here trusts a counter of the worker. Memory is bounded by windows and by late and dead letters, not by events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from feedback_app.core.aggregate import Aggregate, checksum_seed, origin_checksum
from feedback_app.core.documents import Document, window_document
from feedback_app.core.events import Decoded, Event, Headers, Invalid, Origin
from feedback_app.core.partitioning import partitioner
from feedback_app.core.state import BEGINNING, PartitionRecord, window_of
from feedback_app.core.windows import Window, window_end
from feedback_app.verification.differences import Differences, Verdict, explain_window
from feedback_app.verification.letters import InputRecord, Letter, Letters, name
from feedback_app.verification.replays import Replays
from feedback_app.verification.sizes import WindowSizes


class Undecidable(Exception):
    """What is left on the topics does not tell any more how the input was to be counted."""


class Recount:
    """One recount of one application's input."""

    def __init__(self, partitions: int, window_size: int, repartition_topic: str, *, publishes: bool = True) -> None:
        """Begin with nothing.

        Args:
            publishes: whether an aggregated event belongs to each closing of a window. What other writers of the same
                documents publish is not recounted.
        """
        self._publishes = publishes
        self._partition_of = partitioner(partitions)
        self._repartition = repartition_topic
        self._differences = Differences()
        self._letters = Letters(self._differences)
        self._replays = Replays(self._differences)
        self._sizes = WindowSizes(window_size)
        self._floors: dict[int, int] = {}
        self._open: dict[Window, Aggregate] = {}
        self._forwarded: dict[Origin, int] = {}
        self._forwards_from: dict[int, int] = {}
        self._expected: dict[tuple[str, int, int], Aggregate] = {}
        self._events: dict[str, tuple[object, object]] = {}
        self._input = self._counted = self._late = self._dead = self._documents = self._distinct_events = 0

    def add_partition_record(self, partition: int, record: PartitionRecord) -> None:
        """Take a partition's record, for its floor and for the window sizes that were in force."""
        self._floors[partition] = record.floor
        self._sizes.add(partition, record)

    def add_open(self, key: bytes, value: bytes) -> None:
        """Take an open window from the changelog: it stands for its document."""
        self._open[window_of(key)] = Aggregate.decode(value)

    def add_letter(self, letter: Letter | None, where: str) -> None:
        """Take a record of the late or the dead-letter topic that stands at *where*."""
        if letter is None:
            self._differences.extra(f"{where} does not name its origin")
        else:
            self._letters.add(letter)

    def add_dead_letter(self, letter: Letter | None, where: Origin) -> None:
        """Take a letter that stands at *where* on the dead-letter topic, and so may have been replayed."""
        self.add_letter(letter, name(where))
        self._replays.add_letter(where)

    def add_mark(self, where: Origin, headers: Headers) -> None:
        """Take the mark of a replayed letter, which stands at *where* on the dead-letter topic, after its letter."""
        self._replays.add_mark(where, headers)

    @property
    def needs_forwarded(self) -> bool:
        """Whether :meth:`add_forwarded` must be told of every forwarded record, since window sizes have changed."""
        return self._sizes.changed

    def add_forwarded(self, origin: Origin, offset: int) -> None:
        """Take the place on the repartition topic where a forwarded record was counted."""
        self._forwarded[origin] = offset

    def forwards_start(self, partition: int, offset: int) -> None:
        """Say from which *offset* on a repartition partition still has its records."""
        self._forwards_from[partition] = offset

    def add_input(
        self,
        topic: str,
        partition: int,
        offsets: Sequence[int],
        decoded: Sequence[Decoded],
        record_at: Callable[[int], InputRecord],
    ) -> None:
        """Count one slice of one input partition.

        Args:
            record_at: gives the rest of the slice's n-th record. It is asked only for records that were set aside, and
                for those that marks of replayed letters name: fetching it for all of them would take a third longer.

        Raises:
            Undecidable: the window that a record belongs to can't be told any more.
        """
        letters = self._letters.of(topic, partition)
        seed, expected, partition_of = checksum_seed(topic, partition), self._expected, self._partition_of
        only_size = self._sizes.only(partition)
        self._input += len(offsets)
        for index, letter in self._replays.within(topic, partition, offsets):
            self._replays.check(Origin(topic, partition, offsets[index]), letter, record_at(index).headers)
        for index, (offset, event) in enumerate(zip(offsets, decoded, strict=True)):
            set_aside = letters.pop(offset, None) if letters else None
            if isinstance(event, Invalid):
                self._check_invalid(Origin(topic, partition, offset), event, set_aside, record_at(index))
                continue
            if set_aside:
                self._check_set_aside(Origin(topic, partition, offset), event, set_aside, record_at(index))
                continue
            agent_id, timestamp = event.agent_id, event.timestamp
            home = partition_of(agent_id)
            if home == partition and only_size is not None:
                size = only_size
            else:
                size = self._size(Origin(topic, partition, offset), home)
            window = (agent_id, timestamp - timestamp % size, size)
            aggregate = expected.get(window)
            if aggregate is None:
                aggregate = expected[window] = Aggregate()
            aggregate.add(event, timestamp, origin_checksum(seed, offset))

    def add_aggregated_event(self, event: Mapping[str, Any]) -> None:
        """Take one window's aggregated event; one that lists several windows is taken apart before."""
        event_id = event.get("eventId")
        if not isinstance(event_id, str):
            self._differences.extra("an aggregated event has no eventId")
        elif event_id in self._events:
            self._differences.extra(f"aggregated event {event_id} was published again")
        else:
            self._events[event_id] = (event.get("count"), event.get("checksum"))
            self._distinct_events += 1

    def add_document(self, document: Document) -> None:
        """Compare one document of the windows collection."""
        self._documents += 1
        window = _named_window(document)
        if window is None:
            self._differences.extra(f"document {document.get('_id')!r} is no window's")
            return
        if window in self._open:
            return
        self._counted += document.get("count", 0)
        expected = self._expected.pop(window, None)
        if expected is None:
            self._differences.extra(f"window {window.document_id}: no record of the input belongs to its document")
        elif problem := explain_window(window, document, expected):
            self._differences.different(problem)
        revision = document.get("revision")
        self._check_events(window, revision if isinstance(revision, int) else 0, document)

    def verdict(self, expired_until: int = BEGINNING) -> Verdict:
        """Compare what is left, and say how it all came out.

        Args:
            expired_until: the document of a window that ends at or before this may have expired.
        """
        for window, aggregate in self._open.items():
            self._counted += aggregate.count
            expected = self._expected.pop(window, None)
            if expected is None:
                self._differences.extra(
                    f"window {window.document_id} is open, and no record of the input belongs to it"
                )
            elif problem := explain_window(window, window_document(window, aggregate), expected):
                self._differences.different(f"open {problem}")
            self._check_events(window, aggregate.revision, None)
        expired = 0
        for (agent_id, start, size), expected in self._expected.items():
            window = Window(agent_id, start, size)
            if window.end <= expired_until:
                self._check_last_event(window, expected)
                expired += 1
            else:
                self._differences.missing(f"window {window.document_id}: a document of {expected.count} records")
        for event_id in self._events:
            self._differences.extra(f"aggregated event {event_id}: no document says so")
        for letter in self._letters.left():
            self._differences.extra(f"{name(letter.origin)} is in {letter.topic}, and not on the input")
        self._replays.check_all_met()
        return Verdict(
            input=self._input,
            counted=self._counted,
            late=self._late,
            dead_lettered=self._dead,
            replayed=self._replays.matched,
            open=len(self._open),
            documents=self._documents,
            aggregated_events=self._distinct_events,
            expired=expired,
            missing=self._differences.missing_count,
            extra=self._differences.extra_count,
            different=self._differences.different_count,
            samples=tuple(self._differences.samples),
        )

    def _check_invalid(self, origin: Origin, found: Invalid, letters: list[Letter] | None, record: InputRecord) -> None:
        if not letters:
            self._differences.missing(f"{name(origin)} is invalid ({found.error}), and not in dead-letter")
            return
        self._tally(letters[0])
        self._letters.check(origin, letters, record, home=origin.partition, keeps_key=True)
        if not letters[0].dead:
            self._differences.different(f"{name(origin)} is invalid ({found.error}), and in late")

    def _check_set_aside(self, origin: Origin, event: Event, letters: list[Letter], record: InputRecord) -> None:
        home, letter = self._partition_of(event.agent_id), letters[0]
        self._tally(letter)
        self._letters.check(origin, letters, record, home=home, keeps_key=home == origin.partition)
        if letter.lies_in_future:
            if record.appended_at is not None and event.timestamp <= record.appended_at:
                self._differences.different(f"{name(origin)} is in dead-letter as in the future, and is not")
        elif letter.dead:
            self._differences.different(f"{name(origin)} is valid, and in dead-letter: {letter.error}")
        elif (end := window_end(event.timestamp, self._size(origin, home))) > self._floors.get(home, -1):
            self._differences.different(f"{name(origin)} is in late, and its window, to {end}, is not final")

    def _tally(self, letter: Letter) -> None:
        if letter.dead:
            self._dead += 1
        else:
            self._late += 1

    def _size(self, origin: Origin, home: int) -> int:
        """Return the window size in force where the record of *origin* was counted, on partition *home*."""
        only_size = self._sizes.only(home)
        if only_size is not None:
            return only_size
        if home == origin.partition:
            return self._sizes.at(home, origin.topic, origin.offset)
        counted_at = self._forwarded.get(origin)
        if counted_at is not None:
            return self._sizes.at(home, self._repartition, counted_at)
        # Its copy is trimmed, and so stood below all copies that are left. (Or it was never forwarded: any size will
        # do then, the window misses it.)
        sizes = self._sizes.below(home, self._repartition, self._forwards_from.get(home, 0))
        if len(sizes) > 1:
            raise Undecidable(
                f"the window size was changed, and {self._repartition}/{home} has been trimmed since: {name(origin)} "
                f"was counted there by a size that can't be told any more"
            )
        return sizes.pop() if sizes else self._sizes.at(home, self._repartition, 0)

    def _check_events(self, window: Window, revision: int, document: Document | None) -> None:
        """Check that each closing of a window was published; without *document* it is open, so not closed again yet."""
        if not self._publishes:
            return
        for past in range(revision):
            if self._events.pop(window.event_id(past), None) is None:
                self._differences.missing(f"aggregated event {window.event_id(past)}")
        latest = self._events.pop(window.event_id(revision), None)
        if document is None:
            return  # closed while we were reading, if it is there
        if latest is None:
            self._differences.missing(f"aggregated event {window.event_id(revision)}")
        elif latest != (document.get("count"), document.get("checksum")):
            self._differences.different(f"aggregated event {window.event_id(revision)}: not what the document says")

    def _check_last_event(self, window: Window, expected: Aggregate) -> None:
        """Check the last aggregated event of a window in place of its document."""
        revision, last = 0, None
        while (event := self._events.pop(window.event_id(revision), None)) is not None:
            revision, last = revision + 1, event
        if last is None:
            self._differences.missing(f"aggregated event {window.event_id(0)}, and the document has expired")
            return
        count = last[0]
        self._counted += count if isinstance(count, int) else 0
        if last != (expected.count, expected.checksum):
            self._differences.different(
                f"aggregated event {window.event_id(revision - 1)}: has count {count!r}, {expected.count} records "
                "belong to the window, whose document has expired"
            )


def _named_window(document: Document) -> Window | None:
    """Return the window that a document's ``_id`` names; an agent's id may hold the separator too."""
    parts = str(document.get("_id")).rsplit("|", 2)
    if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
        return None
    return Window(parts[0], int(parts[1]), int(parts[2]))
