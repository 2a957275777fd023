"""Looking at dead letters one page after the other, newest first, with bounded work a page.

Kafka is read forwards only. So each partition is read backwards in stretches, from its end or from a cursor; a page
takes the newest of what all partitions have. Of a record no more is kept than a page shows.
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from feedback_app.core.documents import date
from feedback_app.core.events import LAST_MS, Origin, SourceRecord
from feedback_app.core.headers import Header, headers_of, is_mark, mark_of, origin_of
from feedback_app.deadletters import cursor
from feedback_app.deadletters.marks import KnownMarks
from feedback_app.errors import BrokerError

_PREVIEW_BYTES: Final = 200
_LONGEST_CODE: Final = 64
_LONGEST_DETAIL: Final = 500

#: What one page may read.
_MOST_RECORDS: Final = 2_000
_MOST_BYTES: Final = 16 << 20
_PATIENCE_S: Final = 3.0
#: What is read of a partition beyond what a page needs of it: transactions leave markers, and replays marks.
_SPARE: Final = 4
#: What a letter is taken to have before one was seen.
_TYPICAL_BYTES: Final = 8_192


class Range(NamedTuple):
    """From the first offset that is meant to the one after the last."""

    first: int
    end: int


class Records(Protocol):
    """The topic, as committed. All methods block, and raise :class:`BrokerError`."""

    def bounds(self) -> Mapping[int, Range]:
        """Return what each partition holds."""
        ...

    def read(self, ranges: Mapping[int, Range], deadline: float) -> Iterator[SourceRecord]:
        """Yield all records in *ranges*, those of a partition in their order.

        Raises:
            TookTooLong: not all of them came before the *deadline*.
        """
        ...


class TookTooLong(BrokerError):
    """The broker takes too long to send dead letters."""


class NoLetter(Exception):
    """There is no such letter."""


class Letters(NamedTuple):
    """A page: letters as they are shown, and the cursor of the next page; None where this is the last one."""

    letters: list[dict[str, Any]]
    next: str | None


class _Brief(NamedTuple):
    """What is kept of a record; without a letter it is a mark, or not wanted."""

    at: int
    offset: int
    letter: dict[str, Any] | None


@dataclass(slots=True)
class _Pile:
    """A partition on the way back: what was read and not shown, the newest last, and from where on it was read."""

    range: Range
    read_from: int
    shown_from: int
    briefs: list[_Brief]

    @property
    def is_empty(self) -> bool:
        return not self.briefs and self.read_from > self.range.first


class Browser:
    """Makes the pages. Belongs to one thread; remembers marks."""

    def __init__(self, records: Records, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._records = records
        self._monotonic = monotonic
        self._known: dict[int, KnownMarks] = {}
        self._typical = float(_TYPICAL_BYTES)

    def page(self, limit: int, before: Mapping[int, int] | None, error: str | None) -> Letters:
        """Return the newest letters before a cursor: fewer than *limit*, or none, where it would take long to find
        more; then there is a next page all the same.

        Args:
            before: what a cursor says; None for the newest of all.
            error: what the letters must have as their error.

        Raises:
            BrokerError: the broker is away, or slow.
        """
        deadline = self._monotonic() + _PATIENCE_S
        bounds = self._records.bounds()
        piles = _piles(bounds, before)
        work = _Work(self, bounds, error, deadline)
        if before is not None:
            work.catch_up({number: pile.shown_from for number, pile in piles.items()})
        letters: list[dict[str, Any]] = []
        while len(letters) < limit:
            if empty := [pile for pile in piles.items() if pile[1].is_empty]:
                if not work.go_back(dict(empty), limit):
                    break
                continue
            number, newest = max(
                ((number, pile.briefs[-1]) for number, pile in piles.items() if pile.briefs),
                key=lambda each: (each[1].at, each[0]),
                default=(-1, None),
            )
            if newest is None:
                break
            piles[number].briefs.pop()
            piles[number].shown_from = newest.offset
            if newest.letter is not None:
                letters.append(newest.letter)
        for letter in letters:
            number = letter["partition"]
            letter["replayed"] = self._marks(number).replayed(letter["offset"], bounds[number].end)
        return Letters(letters, cursor.encode(dict(_left(piles))))

    def letter(self, partition: int, offset: int) -> dict[str, Any]:
        """Return one letter, with all that it holds.

        Raises:
            NoLetter: there is none.
            BrokerError: the broker is away, or slow.
        """
        deadline = self._monotonic() + _PATIENCE_S
        bounds = self._records.bounds()
        there = bounds.get(partition)
        if there is None or not there.first <= offset < there.end:
            raise NoLetter
        wanted = {partition: Range(offset, offset + 1)}
        record = next((each for each in self._records.read(wanted, deadline) if each.offset() == offset), None)
        if record is None or is_mark(record):
            raise NoLetter
        _Work(self, bounds, None, deadline).catch_up({partition: offset + 1})
        shown = _letter(record) | _contents(record)
        del shown["preview"]
        return shown | {"replayed": self._marks(partition).replayed(offset, there.end)}

    def _marks(self, partition: int) -> KnownMarks:
        return self._known.setdefault(partition, KnownMarks())


class _Work:
    """The reading for one page, and its limits."""

    def __init__(self, browser: Browser, bounds: Mapping[int, Range], error: str | None, deadline: float) -> None:
        self._browser = browser
        self._bounds = bounds
        self._error = error
        self._deadline = deadline
        self._records = 0
        self._bytes = 0
        self._stretch = 1

    def go_back(self, piles: Mapping[int, _Pile], limit: int) -> bool:
        """Read a stretch of each partition, the one before what was read of it; False when that was enough."""
        if self._records >= _MOST_RECORDS or self._bytes >= _MOST_BYTES:
            return False
        ranges = {}
        for number, pile in piles.items():
            length = self._length(len(piles), limit)
            ranges[number] = Range(max(pile.range.first, pile.read_from - length), pile.read_from)
        try:
            briefs = self._read(ranges)
        except TookTooLong:
            if self._stretch == 1:
                raise
            return False
        self._stretch *= 2
        for number, pile in piles.items():
            pile.briefs = briefs.get(number, [])
            pile.read_from = ranges[number].first
            if not pile.briefs:
                pile.shown_from = pile.read_from
        return True

    def catch_up(self, wanted: Mapping[int, int]) -> None:
        """Look for marks behind these offsets, by partition, where nobody has, unless that would take long."""
        ranges = {}
        for number, offset in wanted.items():
            end = self._bounds[number].end
            low, high = self._browser._marks(number).missing(min(offset, end), end)
            if low < high:
                ranges[number] = Range(low, high)
        if 0 < sum(high - low for low, high in ranges.values()) <= _MOST_RECORDS // 2:
            with suppress(TookTooLong):  # then it is not known
                self._read(ranges)

    def _length(self, partitions: int, limit: int) -> int:
        """Return how much to read of each partition: what it has of a page, less where letters are large."""
        wanted = (limit // partitions + _SPARE) * self._stretch
        return max(1, min(wanted, _MOST_RECORDS // partitions, int(_MOST_BYTES / self._browser._typical / partitions)))

    def _read(self, ranges: Mapping[int, Range]) -> dict[int, list[_Brief]]:
        briefs: dict[int, list[_Brief]] = {}
        marks: dict[int, set[int]] = {number: set() for number in ranges}
        for record in self._browser._records.read(ranges, self._deadline):
            number, size = record.partition() or 0, len(record.value() or b"")
            self._records += 1
            self._bytes += size
            self._browser._typical += (size - self._browser._typical) / 16
            if is_mark(record):
                if (mark := mark_of(headers_of(record))) is not None:
                    marks[number].add(mark.letter)
                shown = None
            else:
                shown = _letter(record)
                if self._error is not None and shown["error"] != self._error:
                    shown = None
            briefs.setdefault(number, []).append(_Brief(record.timestamp()[1], record.offset() or 0, shown))
        for number, range_ in ranges.items():
            self._browser._marks(number).note(*range_, marks[number], self._bounds[number].end)
        return briefs


def _piles(bounds: Mapping[int, Range], before: Mapping[int, int] | None) -> dict[int, _Pile]:
    """Return where each partition is to be read back from."""
    ends = {number: range_.end for number, range_ in bounds.items()} if before is None else before
    piles = {}
    for number, end in ends.items():
        if number in bounds:
            start = min(end, bounds[number].end)
            piles[number] = _Pile(bounds[number], start, start, [])
    return piles


def _left(piles: Mapping[int, _Pile]) -> Iterator[tuple[int, int]]:
    for number, pile in piles.items():
        if pile.shown_from > pile.range.first:
            yield number, pile.shown_from


def _letter(record: SourceRecord) -> dict[str, Any]:
    """Return a letter as a page shows it."""
    headers = headers_of(record)
    named = {name: value or b"" for name, value in headers}
    value = record.value() or b""
    code, _, detail = named.get(Header.ERROR, b"").decode(errors="replace").partition(": ")
    return {
        "partition": record.partition() or 0,
        "offset": record.offset() or 0,
        "time": _time(named.get(Header.DECIDED_AT, b""), record.timestamp()[1]),
        "error": code[:_LONGEST_CODE],
        "detail": detail[:_LONGEST_DETAIL],
        "source": _source(origin_of(headers)),
        "replayed": None,
        "size": len(value),
        "preview": value[:_PREVIEW_BYTES].decode(errors="replace"),
    }


def _contents(record: SourceRecord) -> dict[str, Any]:
    key, value = record.key(), record.value() or b""
    return {
        "headers": {name: (of or b"").decode(errors="replace") for name, of in headers_of(record)},
        "text": value.decode(errors="replace"),
        "base64": b64encode(value).decode(),
        "keyBase64": None if key is None else b64encode(key).decode(),
    }


def _source(origin: Origin | None) -> dict[str, Any] | None:
    return None if origin is None else origin._asdict()


def _time(decided_at: bytes, written_at: int) -> Any:
    """Return when a letter was set aside, as far as anybody says so."""
    ms = int(decided_at) if decided_at.isdigit() and len(decided_at) <= 15 else written_at
    return date(ms) if 0 <= ms <= LAST_MS else None
