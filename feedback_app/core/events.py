"""What the core knows of records and events: shapes only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NamedTuple, Protocol

from msgspec import Meta, Struct

#: The end of the year 9999: neither RFC 3339 nor a date in MongoDB goes beyond it.
LAST_MS: Final = 253_402_300_799_999

_Id = Annotated[str, Meta(min_length=1, max_length=128)]


class Event(Struct, rename="camel", omit_defaults=True, gc=False):
    """A validated feedback event; null and absent are the same.

    ``feedback_app.models`` makes it. Read as JSON, this takes most events, in a fifth of pydantic's time: those with a
    timestamp in milliseconds. It does not look for NUL in the ids, nor into the text of fields that it does not know.
    """

    feedback_id: _Id
    agent_id: _Id
    user_id: _Id
    rating: Literal["positive", "negative", "neutral"]
    timestamp: Annotated[int, Meta(ge=0, le=LAST_MS)]
    score: Annotated[int, Meta(ge=1, le=5)] | None = None
    message_id: Annotated[str, Meta(max_length=128)] | None = None
    conversation_id: Annotated[str, Meta(max_length=128)] | None = None
    tags: Annotated[list[Annotated[str, Meta(min_length=1, max_length=32)]], Meta(max_length=8)] | None = None
    comment: Annotated[str, Meta(max_length=2_000)] | None = None


#: A value is None only where a producer of others' wrote it so.
Headers = Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Invalid:
    """A record that is no feedback event."""

    error: str


Decoded = Event | Invalid


class Origin(NamedTuple):
    """Where a record stood on the input: its identity."""

    topic: str
    partition: int
    offset: int


class SourceRecord(Protocol):
    """A fetched record, as confluent-kafka's ``Message`` has it."""

    def topic(self) -> str | None: ...

    def partition(self) -> int | None: ...

    def offset(self) -> int | None: ...

    def timestamp(self) -> tuple[int, int]:
        """Return the type (:data:`LOG_APPEND_TIME` where it is the broker's own), and ms since the epoch."""
        ...

    def key(self) -> bytes | None: ...

    def value(self) -> bytes | None: ...

    def headers(self) -> Any:
        """Return pairs of a name and a value (bytes or None), or None where there are none.

        Raises:
            SystemError: the name of one is not UTF-8. Set others before asking again (``headers.headers_of`` does).
        """
        ...

    def set_headers(self, headers: Any, /) -> None:
        """Let :meth:`headers` return *headers*."""
        ...


class Records(Protocol):
    """Consecutive records of one source partition."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> SourceRecord: ...

    def __iter__(self) -> Iterator[SourceRecord]: ...


LOG_APPEND_TIME: Final = 2
