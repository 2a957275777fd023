"""Which window size was in force where: a partition's records are counted by the size of their time, not of ours."""

from __future__ import annotations

from feedback_app.core.state import PartitionRecord


class WindowSizes:
    """The window sizes of all partitions, from the histories in their partition records."""

    def __init__(self, default: int) -> None:
        self._default = default
        self._records: dict[int, PartitionRecord] = {}
        self._only: dict[int, int | None] = {}

    def add(self, partition: int, record: PartitionRecord) -> None:
        """Take the history of one partition."""
        self._records[partition] = record
        sizes = {change.size for change in record.history}
        if sizes:
            self._only[partition] = sizes.pop() if len(sizes) == 1 else None

    @property
    def changed(self) -> bool:
        """Whether any partition has used more than one size."""
        return None in self._only.values()

    def only(self, partition: int) -> int | None:
        """Return the one size that *partition* has ever used; None when it has used several."""
        return self._only.get(partition, self._default)

    def at(self, partition: int, topic: str, offset: int) -> int:
        """Return the size by which *partition* counted the record at *offset* of *topic*."""
        in_force = self._default
        for start, _, size in self._ranges(partition, topic):
            if start <= offset:
                in_force = size
        return in_force

    def below(self, partition: int, topic: str, offset: int) -> set[int]:
        """Return the sizes by which *partition* counted whatever stood below *offset* of *topic*."""
        return {size for start, _, size in self._ranges(partition, topic) if start < offset}

    def _ranges(self, partition: int, topic: str) -> list[tuple[int, int | None, int]]:
        """Return where each size began and ended to be in force, less those that no record of *topic* saw."""
        record = self._records.get(partition)
        history = record.history if record else ()
        starts = [change.offsets.get(topic, 0) for change in history]
        ends: list[int | None] = [*starts[1:], None]
        return [
            (start, end, change.size)
            for start, end, change in zip(starts, ends, history, strict=False)
            if end is None or start < end
        ]
