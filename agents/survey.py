"""Counting open windows now and then, for the metrics."""

from __future__ import annotations

import asyncio
from typing import Final

from feedback_app.core.state import OPEN, ends_after
from tables.partition import OwnedPartition

_EVERY_S: Final = 15.0
#: Counted at most, of due ones and of others: some 30 ms every time. More are told as so many.
MOST: Final = 100_000
#: Counted at once: a transaction that is about to begin waits for so many, a millisecond.
_SLICE: Final = 2_000


async def survey(owned: OwnedPartition) -> None:
    """Count the open windows of *owned* again and again, until cancelled."""
    while True:
        watermark = owned.state.record.watermark
        waiting = await _count(owned, owned.state.cursor, watermark)
        not_due = await _count(owned, ends_after(OPEN, watermark), None)
        owned.schedule.surveyed(waiting=waiting, not_due=not_due)
        await asyncio.sleep(_EVERY_S)


async def _count(owned: OwnedPartition, after: bytes, until_end: int | None) -> int:
    total = 0
    while total < MOST:
        count, after = await owned.count_open(after, until_end, _SLICE)
        total += count
        if count < _SLICE:
            break
    return total
