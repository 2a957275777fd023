"""What one Kafka transaction writes, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import Struct

from feedback_app.core.events import Headers
from feedback_app.core.state import Changes, PartitionRecord


class Send(Struct, frozen=True, gc=False):
    """A record to produce."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


@dataclass(slots=True)
class Transaction:
    """One step of a partition's state, committed as a whole or not at all.

    Attributes:
        changes: state keys put or deleted, in the changelog and in RocksDB; the partition record is not among them.
        record: the partition record after the step.
        sends: records for other topics.
    """

    changes: Changes
    record: PartitionRecord
    sends: list[Send] = field(default_factory=list)

    def with_changes_of(self, other: Transaction) -> Transaction:
        """Return both as one step. They begin at the same state, change no key in common, and *other* leaves the
        partition record as it is."""
        return Transaction({**self.changes, **other.changes}, self.record, [*self.sends, *other.sends])
