"""What is passed on of a record that is too large for where it goes.

The input limits what a batch has when it is *compressed*: a record may be a thousand times as large, and its key and
headers too. The topics that we write to must take whatever we send, compressible or not.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from feedback_app.core.events import Headers
from feedback_app.core.headers import UNREADABLE, Header, foreign
from feedback_app.topics import MAX_INPUT_BYTES

#: What is left of a key once a record has to be cut. A value never loses anything that a feedback event can have.
_MAX_KEY_BYTES: Final = 8_192
#: Of a record's own, key, value and headers. The rest of what side topics take (``topics.MAX_SIDE_BYTES``), another
#: 8 kB, is for our headers and the broker's own bookkeeping.
_MAX_BYTES: Final = MAX_INPUT_BYTES + _MAX_KEY_BYTES
#: A header costs this much besides name and value, at most: their lengths.
_HEADER_BYTES: Final = 10


class Kept(NamedTuple):
    """What a record may take along: *headers* are its producer's, and ``feedback-truncated`` if that is not all."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    truncated: bool


def cut(key: bytes | None, value: bytes | None, headers: Headers) -> Kept:
    """Return what is passed on: all of it, if it fits.

    If it does not, or the headers can't be read, headers are left out; if key and value alone do not fit, each is cut
    to its first bytes. So what becomes of these two does not depend on the headers.
    """
    content = _size(key) + _size(value)
    size = content + sum(len(name.encode()) + _size(of) + _HEADER_BYTES for name, of in headers)
    if size <= _MAX_BYTES and headers is not UNREADABLE:
        return Kept(key, value, foreign(headers), truncated=False)
    if content > _MAX_BYTES:
        key, value = key and key[:_MAX_KEY_BYTES], value and value[:MAX_INPUT_BYTES]
    return Kept(key, value, [(Header.TRUNCATED, b"%d" % size)], truncated=True)


def _size(part: bytes | None) -> int:
    return 0 if part is None else len(part)
