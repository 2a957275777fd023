"""How the watermark and the floor of a partition move. All times are milliseconds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from feedback_app.core.state import PartitionRecord


@dataclass(frozen=True, slots=True)
class Lateness:
    """How much disorder is allowed, and how long a closed window can be amended.

    Attributes:
        grace_ms: the watermark follows the highest event time by this much.
        retention_ms: the floor follows the watermark by this much.
    """

    grace_ms: int
    retention_ms: int

    def seen(self, record: PartitionRecord, highest: int) -> PartitionRecord:
        """Return *record* after an event with time *highest* was counted; neither time goes back."""
        return self._at(record, highest - self.grace_ms)

    def silent(self, record: PartitionRecord, now_ms: int, newest_end: int | None) -> PartitionRecord:
        """Return *record* when the partition has been silent until *now_ms*.

        The wall clock takes over, at most to the end of the newest open window (*newest_end*, None if none is open):
        enough to close what is open, and never so far that events still on their way are late for no reason.
        """
        if newest_end is None:
            return record
        return self._at(record, min(now_ms - self.grace_ms, newest_end))

    def _at(self, record: PartitionRecord, watermark: int) -> PartitionRecord:
        if watermark <= record.watermark:
            return record
        floor = max(record.floor, watermark - self.retention_ms)
        return replace(record, watermark=watermark, floor=floor)
