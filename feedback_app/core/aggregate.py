"""The aggregate of one window: what is counted, and its stored form.

It is *initialize* (``Aggregate()``), *add*, *result* (``feedback_app.closing`` builds the document), and nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Final, Self
from zlib import crc32

import orjson

from feedback_app.core.events import Event

MAX_TAGS: Final = 32

_VERSION: Final = 1
#: version, revision, positive, negative, neutral, scoreCount, scoreSum, scoreMin, scoreMax, comments, otherTags,
#: first and last timestamp (ms), checksum. Tag counts follow as JSON when there are any.
_FIXED: Final = struct.Struct(">BIQQQQQBBQQQQQ")
#: Of these, revision, positive, negative, neutral, and the first timestamp.
_SUMMARY: Final = struct.Struct(">xI3Q34xQ")
_OFFSET: Final = struct.Struct(">Q")
_NEVER: Final = 1 << 62


def checksum_seed(topic: str, partition: int) -> int:
    """Return what :func:`origin_checksum` needs to know of an input partition."""
    return crc32(f"{topic}/{partition}".encode())


def origin_checksum(seed: int, offset: int) -> int:
    """Return the share of one record in its window's checksum.

    The sum over records does not depend on their order, and a record that is missing, or there twice, changes it.
    """
    return crc32(_OFFSET.pack(offset), seed)


def origin_checksums(seed: int, offsets: Iterable[int]) -> Iterator[int]:
    """Return :func:`origin_checksum` of each of *offsets*, without a call into Python for any."""
    return map(crc32, map(_OFFSET.pack, offsets), repeat(seed))


class Aggregate:
    """The counts of one (agent, window), while a fold counts into them."""

    __slots__ = (
        "checksum",
        "comments",
        "first",
        "last",
        "negative",
        "neutral",
        "other_tags",
        "positive",
        "revision",
        "score_count",
        "score_max",
        "score_min",
        "score_sum",
        "tags",
    )

    def __init__(self) -> None:
        self.revision = 0
        self.positive = self.negative = self.neutral = 0
        self.score_count = self.score_sum = self.score_min = self.score_max = 0
        self.comments = 0
        self.tags: dict[str, int] | None = None
        self.other_tags = 0
        self.first = _NEVER
        self.last = 0
        #: A sum of 32-bit numbers: it stays below 2**63, MongoDB's limit, for two thousand million events.
        self.checksum = 0

    @property
    def count(self) -> int:
        """How many events were counted: each has one of the three ratings."""
        return self.positive + self.negative + self.neutral

    def add(self, event: Event, timestamp: int, checksum: int) -> None:
        """Count one event; *checksum* is its :func:`origin_checksum`."""
        rating = event.rating
        if rating == "positive":
            self.positive += 1
        elif rating == "negative":
            self.negative += 1
        else:
            self.neutral += 1
        if timestamp > self.last:  # noqa: PLR1730  # calling max and min costs a tenth of counting an event
            self.last = timestamp
        if timestamp < self.first:  # noqa: PLR1730
            self.first = timestamp
        self.checksum += checksum
        score = event.score
        if score is not None:
            if self.score_count == 0:
                self.score_min = self.score_max = score
            elif score < self.score_min:
                self.score_min = score
            elif score > self.score_max:
                self.score_max = score
            self.score_count += 1
            self.score_sum += score
        if event.comment:
            self.comments += 1
        if event.tags:
            self._add_tags(event.tags)

    def _add_tags(self, tags: Sequence[str]) -> None:
        counts = self.tags
        if counts is None:
            counts = self.tags = {}
        for tag in tags:
            if tag in counts:
                counts[tag] += 1
            elif len(counts) < MAX_TAGS:
                counts[tag] = 1
            else:
                self.other_tags += 1

    def encode(self) -> bytes:
        """Return the stored form; :meth:`decode` is its inverse."""
        fixed = _FIXED.pack(
            _VERSION,
            self.revision,
            self.positive,
            self.negative,
            self.neutral,
            self.score_count,
            self.score_sum,
            self.score_min,
            self.score_max,
            self.comments,
            self.other_tags,
            self.first,
            self.last,
            self.checksum,
        )
        return fixed if self.tags is None else fixed + orjson.dumps(self.tags)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the stored form.

        Raises:
            ValueError: it was written by a version of the application that this one does not know.
        """
        if data[0] != _VERSION:
            raise ValueError(f"state format {data[0]} is unknown; this version reads format {_VERSION}")
        new = cls.__new__(cls)
        (
            _,
            new.revision,
            new.positive,
            new.negative,
            new.neutral,
            new.score_count,
            new.score_sum,
            new.score_min,
            new.score_max,
            new.comments,
            new.other_tags,
            new.first,
            new.last,
            new.checksum,
        ) = _FIXED.unpack_from(data)
        new.tags = orjson.loads(data[_FIXED.size :]) if len(data) > _FIXED.size else None
        return new

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Aggregate) and self.encode() == other.encode()

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"Aggregate(count={self.count}, revision={self.revision}, first={self.first}, last={self.last})"


def summary_of(data: bytes) -> tuple[int, int, int]:
    """Return the revision, the count and the first timestamp (ms) of a stored form, without decoding the rest of it."""
    revision, positive, negative, neutral, first = _SUMMARY.unpack_from(data)
    return revision, positive + negative + neutral, first
