"""v2's batches: what is collected, and what has to go out. No IO, and no clock of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile
from typing import Final

from benchmarks.architectures.items import Item
from feedback_app.settings import BatchingMode

#: The key of the batch that all agents share, in mode ``global``.
GLOBAL: Final = ""
#: Batches in one bulk write at most, where it may hold several.
BULK: Final = 500


@dataclass(slots=True)
class Batch:
    """Items that are written together.

    Attributes:
        since: when the first of them came, in the caller's seconds.
        lowest: of each partition, the lowest offset that is in here.
    """

    since: float
    items: list[Item] = field(default_factory=list)
    lowest: dict[int, int] = field(default_factory=dict)


class Batches:
    """The batches in memory: one for each agent, or one for all in mode ``global``.

    A batch goes out when it holds *size* items, when its first item has waited for *seconds*, or when one batch more
    than *most* would be there: then the oldest goes out early. What goes out is to be written; nothing is dropped.
    """

    def __init__(self, mode: BatchingMode, size: int, seconds: float, most: int) -> None:
        self._mode = mode
        self._size = size
        self._seconds = seconds
        self._most = most
        #: In the order in which they were begun: the first is the oldest.
        self._collecting: dict[str, Batch] = {}
        self._out: list[Batch] = []
        self.items = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._collecting)

    def add(self, item: Item, now: float) -> None:
        """Put *item* into its batch."""
        key = GLOBAL if self._mode is BatchingMode.GLOBAL else item.event.agent_id
        batch = self._collecting.get(key)
        if batch is None:
            if len(self._collecting) >= self._most:
                self._put_out(next(iter(self._collecting)))
                self.evicted += 1
            batch = self._collecting[key] = Batch(now)
        batch.items.append(item)
        batch.lowest.setdefault(item.partition, item.offset)  # offsets of a partition only rise
        self.items += 1
        if len(batch.items) >= self._size:
            self._put_out(key)

    def take_out(self) -> list[list[Batch]]:
        """Take what has been filled or evicted; each list is to be one bulk write."""
        out, self._out = self._out, []
        if self._mode is BatchingMode.AGENT:
            return [[batch] for batch in out]
        return [out[first : first + BULK] for first in range(0, len(out), BULK)]

    def take_waited(self, now: float) -> list[list[Batch]]:
        """Take also what has waited long enough by *now*."""
        since = now - self._seconds
        for key in [key for key, _ in takewhile(lambda kept: kept[1].since <= since, self._collecting.items())]:
            self._put_out(key)
        return self.take_out()

    def take_all(self) -> list[list[Batch]]:
        """Take everything, as at the end."""
        for key in list(self._collecting):
            self._put_out(key)
        return self.take_out()

    def committable(self, read: dict[int, int]) -> dict[int, int]:
        """Return how far the offsets may be committed, if nothing is being written now: of each partition, not beyond
        the lowest that is still in a batch.

        Args:
            read: the next offset to read of each partition.
        """
        offsets = dict(read)
        for batch in self._collecting.values():
            for partition, offset in batch.lowest.items():
                offsets[partition] = min(offset, offsets.get(partition, offset))
        return offsets

    def _put_out(self, key: str) -> None:
        batch = self._collecting.pop(key)
        self.items -= len(batch.items)
        self._out.append(batch)
