"""The windows that one fold counts into, and the loop that counts.

There are two: :class:`Counts` here, and ``feedback_native.Counts`` (``native/``), which does the same, compiled, where
it is installed. Either counts what is plain and stops at everything else: what becomes of a record that is not plain is
decided by ``feedback_app.folding``, and there alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Final, NamedTuple, Protocol

from feedback_app.core.aggregate import Aggregate, checksum_seed, origin_checksums
from feedback_app.core.events import LOG_APPEND_TIME, Decoded, Invalid, Records, SourceRecord
from feedback_app.core.state import OPEN, window_key
from feedback_app.core.windows import window_end

Decode = Callable[[Sequence[bytes | None]], Sequence[Decoded]]

#: Says what to count on from, given a window's key: what is stored, :data:`NEW`, or None: it is not counted here.
OpenWindow = Callable[[bytes], bytes | None]

#: A window that nothing was counted into yet.
NEW: Final = b""


class Slice:
    """Consecutive records of one source partition, decoded when somebody asks.

    Args:
        decode: ``feedback_app.models.decode``.
    """

    def __init__(self, topic: str, partition: int, records: Records, decode: Decode) -> None:
        self.records = records
        #: What :func:`origin_checksum` needs to know of the source partition.
        self.seed = checksum_seed(topic, partition)
        self._decode = decode

    @cached_property
    def events(self) -> Sequence[Decoded]:
        """What each of the records is."""
        return self._decode([record.value() for record in self.records])

    def event(self, index: int) -> Decoded:
        """What one of the records is."""
        if "events" in self.__dict__:
            return self.events[index]
        return self._decode([self.records[index].value()])[0]


class WindowCounts(Protocol):
    """The windows of a fold, each as it would be stored."""

    @property
    def highest(self) -> int:
        """The highest time of an event that was counted, in ms."""
        ...

    @highest.setter
    def highest(self, value: int, /) -> None: ...

    def __len__(self) -> int: ...

    def count(self, part: Slice, at: int, first_open: int, moves_at: int) -> int:
        """Count the records of *part* from the index *at* on, in their order, for as long as they are plain.

        A record is not plain when it is no event; when its time is before *first_open*, or in the future; when it would
        raise :attr:`highest` to *moves_at* or beyond; or when its window is not counted here. What is counted may stop
        before others as well, for reasons of its own.

        Returns:
            The index of the first record that was not counted; as many as there are when all were.
        """
        ...

    def get(self, key: bytes) -> bytes | None:
        """Return what stands in a window, opened for that if need be; see :data:`OpenWindow`."""
        ...

    def put(self, key: bytes, value: bytes) -> None:
        """Let a window hold *value*, the encoded aggregate."""
        ...

    def changes(self) -> dict[bytes, bytes | None]:
        """Return the windows that were counted into, encoded, by their keys."""
        ...


class Shortcut(NamedTuple):
    """What is known of windows without opening them: what they are opened to is the same.

    Attributes:
        partition: the one that is folded, of so many *partitions*; an agent belongs to one of them.
        stored: windows that are open here, by their keys.
        later_than: no window was ever open here under a later key;
        watermark: nor closed that ends after this.
    """

    partition: int
    partitions: int
    stored: Mapping[bytes, bytes]
    later_than: bytes
    watermark: int


#: Takes the function that opens windows, the window size, how far in the future an event may lie, the worker's clock
#: (all in ms), the highest time so far, and what may be known without that function.
MakeCounts = Callable[[OpenWindow, int, int, int, int, Shortcut | None], WindowCounts]


class Counts:
    """:class:`WindowCounts` in Python."""

    def __init__(
        self,
        open_window: OpenWindow,
        window_size: int,
        max_future_ms: int,
        now_ms: int,
        highest: int,
        shortcut: Shortcut | None = None,  # it would be none here
    ) -> None:
        self.highest = highest
        self._open_window = open_window
        self._size = window_size
        self._max_future_ms = max_future_ms
        self._now_ms = now_ms
        self._aggregates: dict[bytes, Aggregate] = {}
        self._by_end: dict[int, dict[str, Aggregate]] = {}

    def __len__(self) -> int:
        return len(self._aggregates)

    def count(self, part: Slice, at: int, first_open: int, moves_at: int) -> int:
        # Not sliced: where every record is one to stop at, that would be a copy of the rest for each.
        records, events = islice(part.records, at, None), islice(part.events, at, None)
        checksums = origin_checksums(part.seed, (record.offset() or 0 for record in islice(part.records, at, None)))
        highest, size = self.highest, self._size
        # One plain loop, and what seldom changes is worked out when it does: this runs for every event, and half of
        # what it cost before was divisions, calls and look-ups that gave the same as for the event before.
        start = end = 0
        windows: dict[str, Aggregate] = {}
        index = at
        for record, event, checksum in zip(records, events, checksums, strict=True):
            if isinstance(event, Invalid):
                break
            timestamp = event.timestamp
            if timestamp < first_open:
                break
            # What is no newer than an event that was counted moves nothing, whatever its own record's clock says.
            if timestamp > highest and (
                timestamp >= moves_at or timestamp > clock_of(record, self._now_ms) + self._max_future_ms
            ):
                break
            if not start <= timestamp < end:
                end = window_end(timestamp, size)
                start = end - size
                windows = self._by_end.setdefault(end, {})
            agent_id = event.agent_id
            aggregate = windows.get(agent_id)
            if aggregate is None:
                key = window_key(OPEN, agent_id, end, size)
                opened = self._aggregates.get(key) or self._open(key)
                if opened is None:
                    break
                aggregate = windows[agent_id] = self._aggregates[key] = opened
            aggregate.add(event, timestamp, checksum)
            if timestamp > highest:  # noqa: PLR1730  # as in Aggregate.add
                highest = timestamp
            index += 1
        self.highest = highest
        return index

    def get(self, key: bytes) -> bytes | None:
        known = self._aggregates.get(key)
        return self._open_window(key) if known is None else known.encode()

    def put(self, key: bytes, value: bytes) -> None:
        self._aggregates[key] = Aggregate.decode(value)
        self._by_end.clear()  # what it knows by agent may be what was replaced

    def changes(self) -> dict[bytes, bytes | None]:
        return {key: aggregate.encode() for key, aggregate in self._aggregates.items()}

    def _open(self, key: bytes) -> Aggregate | None:
        stored = self._open_window(key)
        if stored is None:
            return None
        return Aggregate.decode(stored) if stored else Aggregate()


def clock_of(record: SourceRecord, now_ms: int) -> int:
    """Return what "in the future" is measured against: the broker's clock, where the record has its time."""
    kind, appended = record.timestamp()
    return appended if kind == LOG_APPEND_TIME else now_ms
