"""Slices of work, and turns of the event loop between them, so that a busy worker still answers.

One thread works on all partitions and answers probes and pages. The work is cut into slices of some milliseconds, with
a turn of the event loop between two of them. With many partitions that does not suffice by itself: each of them would
have its slice in every turn, and an answer takes seven turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

#: The fewer, the sooner an answer; but each turn lets go of the interpreter, and waits for it again. With two instead
#: of eight, a quarter of the throughput was lost.
_IN_A_TURN: Final = 8


class Pace:
    """Lets only a few slices run in one turn of the event loop, whatever the number of partitions; first come, first
    served."""

    def __init__(self, in_a_turn: int = _IN_A_TURN) -> None:
        self._places = asyncio.Semaphore(in_a_turn)

    @asynccontextmanager
    async def slice(self) -> AsyncIterator[None]:
        """Wait until there is a place in a turn for the block, which itself waits for nothing."""
        async with self._places:
            yield
            await asyncio.sleep(0)  # the place is taken until the turn is over
