"""The feedback event on the wire. The field names are the wire's own.

Two readers share the work. msgspec is five times as fast, and takes what is written in the plainest way. What it does
not take pydantic decides, and explains: a time as text, a number that JSON does not know in a field that nobody reads,
and everything that is no event. So an event is what either of them takes; both hold it to the same limits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal, NotRequired

import msgspec
from pydantic import AfterValidator, ConfigDict, Field, Json, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from feedback_app.core.events import LAST_MS, Decoded, Event, Invalid
from feedback_app.topics import MAX_INPUT_BYTES

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _milliseconds(text: str) -> int:
    """Turn an RFC 3339 time with an offset into milliseconds since the epoch, fractions cut off."""
    if not _RFC_3339.fullmatch(text):
        raise ValueError("must be RFC 3339 with an offset, such as 2026-01-31T12:00:00Z")
    milliseconds = (datetime.fromisoformat(text.upper()) - _EPOCH) // timedelta(milliseconds=1)
    if not 0 <= milliseconds <= LAST_MS:
        raise ValueError("must lie in the years 1970 to 9999")
    return milliseconds


_Id = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00]*$")]
_Timestamp = Annotated[
    Annotated[int, Field(ge=0, le=LAST_MS)] | Annotated[str, AfterValidator(_milliseconds)],
    Field(union_mode="left_to_right"),
]


@with_config(ConfigDict(strict=True))
class FeedbackEvent(TypedDict):
    """One rating. ``timestamp`` holds milliseconds since the epoch once validated; null counts as absent."""

    feedbackId: _Id
    agentId: _Id
    userId: _Id
    rating: Literal["positive", "negative", "neutral"]
    timestamp: _Timestamp
    score: NotRequired[Annotated[int, Field(ge=1, le=5)] | None]
    messageId: NotRequired[Annotated[str, Field(max_length=128)] | None]
    conversationId: NotRequired[Annotated[str, Field(max_length=128)] | None]
    tags: NotRequired[Annotated[list[Annotated[str, Field(min_length=1, max_length=32)]], Field(max_length=8)] | None]
    comment: NotRequired[Annotated[str, Field(max_length=2_000)] | None]


_EVENT = TypeAdapter(FeedbackEvent)
_RECORD = TypeAdapter(Json[FeedbackEvent])

EMPTY = Invalid("empty")

_read: Final = msgspec.json.Decoder(Event).decode
_ESCAPED_NUL: Final = rb"\u0000"


class _NotPlain(Exception):
    """A record is too large, or holds a NUL that may be anywhere."""


#: What the fast reader does not take.
_NOT_TAKEN: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError, _NotPlain)


def decode(values: Sequence[bytes | None]) -> Sequence[Decoded]:
    """Decode one slice of records; the answer has an entry for each of *values*, in their order.

    Each is read by itself: joined, two broken ones could form a valid third. Nothing that a record holds makes this
    raise: what is no feedback event comes back as :class:`~feedback_app.core.events.Invalid`, with the reason.
    """
    joined = b"".join(filter(None, values))
    # Looking for a single byte takes next to no time, and most records have no backslash at all.
    plain = len(joined) <= MAX_INPUT_BYTES and joined.isascii() and (b"\\" not in joined or _ESCAPED_NUL not in joined)
    read = _read if plain else _read_with_care
    decoded: list[Decoded] = []
    rest = iter(values)
    while True:
        try:
            decoded.extend(map(read, rest))  # type: ignore[arg-type]  # None is not taken
        except _NOT_TAKEN:
            decoded.append(_decode_slowly(values[len(decoded)]))  # the records before it have been appended
        else:
            return decoded


def _read_with_care(value: bytes) -> Event:
    if len(value) > MAX_INPUT_BYTES or _ESCAPED_NUL in value:
        raise _NotPlain
    value.decode()  # raises where it is not UTF-8: msgspec does not look into what it skips
    return _read(value)


def _decode_slowly(value: bytes | None) -> Decoded:
    if not value:
        return EMPTY
    if len(value) > MAX_INPUT_BYTES:
        return Invalid(f"too large: {len(value)} bytes, at most {MAX_INPUT_BYTES} are allowed")
    try:
        return msgspec.convert(_RECORD.validate_python(value), Event)
    except ValidationError as error:
        return Invalid(explain(error))


def validate(event: object) -> FeedbackEvent:
    """Validate an event given as a Python mapping, as strictly as one that arrives on the wire.

    Raises:
        ValueError: what is wrong, in one line.
    """
    try:
        return _EVENT.validate_python(event)
    except ValidationError as error:
        raise ValueError(explain(error)) from None


def explain(error: ValidationError) -> str:
    """Say in one line what is wrong with an event, without repeating its content."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    if field == "timestamp" and first["type"] != "missing":  # one line for both forms that it may have
        return "timestamp: must be milliseconds since the epoch, or RFC 3339 with an offset"
    message = first["msg"].removeprefix("Value error, ")
    return f"{field}: {message}" if field else message
