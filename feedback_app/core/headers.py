"""The headers that the application adds to records: ``feedback-*``, texts and decimals in UTF-8."""

from __future__ import annotations

import re
from enum import StrEnum
from operator import methodcaller
from typing import Final, NamedTuple

from feedback_app.core.events import Headers, Origin, SourceRecord

_OURS: Final = "feedback-"
_PARTITIONS: Final = 1 << 31
_OFFSETS: Final = 1 << 63
_PLACE: Final = re.compile(rb"([A-Za-z0-9._-]{1,249})/([0-9]{1,10})@([0-9]{1,19})")
_TOPIC_CHARACTERS: Final = 249  # Kafka's own limit

#: Calls ``record.headers()``, but from C. The binding returns a value *and* sets an exception, where it can't decode a
#: name: a call that the interpreter has specialized does not look, and the exception comes out of whatever runs next.
_ask_for_headers: Final = methodcaller("headers")

#: Stands for headers that can't be read; told by its identity, so no producer can pretend it.
UNREADABLE: Final[Headers] = [("unreadable", None)]


class Header(StrEnum):
    """Their names."""

    ERROR = "feedback-error"
    ORIGIN_TOPIC = "feedback-origin-topic"
    ORIGIN_PARTITION = "feedback-origin-partition"
    ORIGIN_OFFSET = "feedback-origin-offset"
    WATERMARK = "feedback-watermark"
    DECIDED_AT = "feedback-decided-at"
    TRUNCATED = "feedback-truncated"
    REPLAYED_FROM = "feedback-replayed-from"
    REPLAYED_LETTER = "feedback-replayed-letter"
    REPLAYED_AS = "feedback-replayed-as"


def headers_of(record: SourceRecord) -> Headers:
    """Return a record's headers: :data:`UNREADABLE`, if the name of one is not UTF-8.

    No other code may ask a fetched record for its headers.
    """
    try:
        return _ask_for_headers(record) or ()
    except (SystemError, UnicodeError):
        # The binding raises once and hands out a broken name from then on, which would kill the process.
        record.set_headers(UNREADABLE)
        return UNREADABLE


def foreign(headers: Headers | None) -> Headers:
    """Return the producer's own headers: ``feedback-*`` is ours, and trusted on the repartition topic alone."""
    return [(name, value) for name, value in headers or () if not name.startswith(_OURS)]


def origin_headers(origin: Origin) -> Headers:
    """Return the headers that say where a record stood on the input."""
    return [
        (Header.ORIGIN_TOPIC, origin.topic.encode()),
        (Header.ORIGIN_PARTITION, b"%d" % origin.partition),
        (Header.ORIGIN_OFFSET, b"%d" % origin.offset),
    ]


def origin_of(headers: Headers | None) -> Origin | None:
    """Return the origin that the headers name; None when they name none."""
    named = {name: value or b"" for name, value in headers or ()}
    try:
        origin = Origin(
            named[Header.ORIGIN_TOPIC].decode(),
            int(named[Header.ORIGIN_PARTITION]),
            int(named[Header.ORIGIN_OFFSET]),
        )
    except (KeyError, ValueError):
        return None
    possible = (
        0 < len(origin.topic) <= _TOPIC_CHARACTERS
        and 0 <= origin.partition < _PARTITIONS
        and 0 <= origin.offset < _OFFSETS
    )
    return origin if possible else None


class Mark(NamedTuple):
    """That a dead letter was replayed. It stands behind its letter, on the same partition of the dead-letter topic.

    Workers strip every producer's own ``feedback-*`` headers before they set a record aside: no input becomes a mark.
    """

    letter: int
    record: Origin


def is_mark(record: SourceRecord) -> bool:
    """Say whether a record of the dead-letter topic is a mark, and so no letter."""
    return any(name == Header.REPLAYED_LETTER for name, _ in headers_of(record))


def mark_headers(mark: Mark) -> Headers:
    """Return the headers that a mark consists of."""
    return [(Header.REPLAYED_LETTER, b"%d" % mark.letter), (Header.REPLAYED_AS, place(mark.record))]


def mark_of(headers: Headers | None) -> Mark | None:
    """Return the mark that the headers are; None when they name no letter, or no record."""
    named = {name: value or b"" for name, value in headers or ()}
    letter, record = named.get(Header.REPLAYED_LETTER, b""), place_of(named.get(Header.REPLAYED_AS))
    if record is None or not letter.isdigit() or len(letter) > 19 or int(letter) >= _OFFSETS:
        return None
    return Mark(int(letter), record)


def place(of: Origin) -> bytes:
    """Return how a header names a record: ``topic/partition@offset``."""
    return b"%b/%d@%d" % (of.topic.encode(), of.partition, of.offset)


def place_of(value: bytes | None) -> Origin | None:
    """Return the record that a header names; None when it names none."""
    match = _PLACE.fullmatch(value or b"")
    if match is None:
        return None
    origin = Origin(match[1].decode(), int(match[2]), int(match[3]))
    return origin if origin.partition < _PARTITIONS and origin.offset < _OFFSETS else None


def replayed_from(headers: Headers | None) -> Origin | None:
    """Return the letter that an input record says it is of. Anybody can write that: only a mark that names the record
    makes it true."""
    return place_of(next((value for name, value in headers or () if name == Header.REPLAYED_FROM), None))


def truncated_from(headers: Headers) -> bytes:
    """Return the size that a record had before it was forwarded, in decimals; empty where it lost nothing."""
    size = dict(headers).get(Header.TRUNCATED) or b""
    return size if len(size) < 20 and size.isdigit() else b""
