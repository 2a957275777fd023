"""What the core knows of records and events: shapes only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

#: A validated feedback event, with the field names of the wire (``feedback_app.models.FeedbackEvent``).
Event = Mapping[str, Any]

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


LOG_APPEND_TIME: Final = 2
