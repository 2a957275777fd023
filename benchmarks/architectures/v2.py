"""v2: ``python -m benchmarks.architectures.v2``. Larger batches, bounded in number, and one bulk write a flush.

``FEEDBACK_BATCH_SIZE`` items or ``FEEDBACK_BATCH_TIME_MS`` fill a batch; at most ``FEEDBACK_MAX_BATCHES`` are kept, and
one periodic timer looks for those that have waited long enough. ``FEEDBACK_BATCHING_MODE``, which the seed names and
does not define, is read as this application reads it:

====== ===================================================================================
agent  a batch for each agent, and a bulk write for each batch
global one batch for all agents
hybrid a batch for each agent; those that go out at the same time share a bulk write
====== ===================================================================================

Offsets are committed after flushes, never beyond an item that is still in a batch. So an instance that is killed loses
nothing, and counts again what it had written beyond the lowest offset in its batches: with batches of many agents that
is most of what one batch time brings. Committing as v1 does would lose about as much instead. One instance by design.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from benchmarks.architectures.batches import Batch, Batches
from benchmarks.architectures.figures import Figures
from benchmarks.architectures.inflow import COMMIT_EVERY_S, Inflow
from benchmarks.architectures.outflow import Outflow
from benchmarks.architectures.service import run
from feedback_app.settings import Settings

#: How often the timer looks for batches that have waited long enough.
TICK_S: Final = 0.5


class Batcher:
    """Reads into batches and writes what goes out, one flush at a time."""

    def __init__(self, inflow: Inflow, outflow: Outflow, batches: Batches, figures: Figures) -> None:
        self._inflow = inflow
        self._outflow = outflow
        self._batches = batches
        self._figures = figures
        self._read: dict[int, int] = {}
        self._one_at_a_time = asyncio.Lock()
        self._committed_at = time.monotonic()

    async def read(self, stopping: asyncio.Event) -> None:
        """Read until told to stop, writing each batch as it fills up; then write the rest."""
        async for items in self._inflow.chunks(stopping):
            async with self._one_at_a_time:
                now = time.monotonic()
                for item in items:
                    self._batches.add(item, now)
                    self._read[item.partition] = item.offset + 1
                self._holds()
                await self._write(self._batches.take_out())
        async with self._one_at_a_time:
            await self._write(self._batches.take_all())
            await self._inflow.commit(self._read)

    async def look(self) -> None:
        """The one timer: write what has waited long enough, and commit, until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            async with self._one_at_a_time:
                now = time.monotonic()
                await self._write(self._batches.take_waited(now))
                if now - self._committed_at >= COMMIT_EVERY_S:
                    await self._inflow.commit(self._batches.committable(self._read))
                    self._committed_at = now

    async def _write(self, groups: list[list[Batch]]) -> None:
        for group in groups:
            await self._outflow.write_in_bulk([batch.items for batch in group])
        self._holds()

    def _holds(self) -> None:
        self._figures.holds(len(self._batches), self._batches.items, timers=1)
        self._figures.evicted = self._batches.evicted


async def work(settings: Settings, figures: Figures, stopping: asyncio.Event) -> None:
    """Read and batch; at the end write what is left."""
    batches = Batches(settings.batching_mode, settings.batch_size, settings.batch_time_ms / 1_000, settings.max_batches)
    async with (
        Outflow(settings, figures) as outflow,
        Inflow(settings, figures, auto_commit=False) as inflow,
        asyncio.TaskGroup() as tasks,
    ):
        batcher = Batcher(inflow, outflow, batches, figures)
        looking = tasks.create_task(batcher.look())
        await batcher.read(stopping)
        looking.cancel()


if __name__ == "__main__":
    run(work)
