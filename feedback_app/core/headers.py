"""The headers that the application adds to records: ``feedback-*``, texts and decimals in UTF-8."""

from __future__ import annotations

from enum import StrEnum
from operator import methodcaller
from typing import Final

from feedback_app.core.events import Headers, Origin, SourceRecord

_OURS: Final = "feedback-"
_PARTITIONS: Final = 1 << 31
_OFFSETS: Final = 1 << 63
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


def truncated_from(headers: Headers) -> bytes:
    """Return the size that a record had before it was forwarded, in decimals; empty where it lost nothing."""
    size = dict(headers).get(Header.TRUNCATED) or b""
    return size if len(size) < 20 and size.isdigit() else b""
