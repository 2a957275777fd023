"""What the core knows of records and events: shapes only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

#: A validated feedback event, with the field names of the wire (``feedback_app.models.FeedbackEvent``).
Event = Mapping[str, Any]

Headers = Sequence[tuple[str, bytes]]


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
    """A fetched record, as aiokafka's ``ConsumerRecord`` has it."""

    @property
    def topic(self) -> str: ...

    @property
    def partition(self) -> int: ...

    @property
    def offset(self) -> int: ...

    @property
    def timestamp(self) -> int:
        """Milliseconds since the epoch, by the producer's or the broker's clock."""
        ...

    @property
    def timestamp_type(self) -> int | None:
        """1 where ``timestamp`` is the broker's (LogAppendTime)."""
        ...

    @property
    def key(self) -> bytes | None: ...

    @property
    def value(self) -> bytes | None: ...

    @property
    def headers(self) -> Headers: ...
