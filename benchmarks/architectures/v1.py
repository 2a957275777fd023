"""v1: ``python -m benchmarks.architectures.v1``. Batches of ten for each agent, in memory, and a timer for each.

A flush looks for the window's document and then writes it, for every item: two calls an item, whatever the batch's
size. The items of an agent are written one after the other, those of different agents at the same time.

Offsets are committed by the client, every five seconds, as it does unless told otherwise. They know nothing of batches:
an instance that is killed loses what was in a batch and committed, and counts again what was written and not yet
committed. Stopped in order it writes all of its batches first, and so loses nothing. It is one instance by design: two
would each have a batch, and a timer, of the same agent after a rebalance.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Final

from benchmarks.architectures.figures import Figures
from benchmarks.architectures.inflow import Inflow
from benchmarks.architectures.items import Item
from benchmarks.architectures.outflow import Outflow
from benchmarks.architectures.service import run
from feedback_app.settings import Settings

BATCH: Final = 10


class Batcher:
    """The batches of all agents, each with the timer that flushes it if it does not fill up."""

    def __init__(self, outflow: Outflow, figures: Figures, seconds: float, flushing: asyncio.TaskGroup) -> None:
        self._outflow = outflow
        self._figures = figures
        self._seconds = seconds
        self._flushing = flushing
        self._batches: dict[str, list[Item]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._items = 0

    async def add(self, items: list[Item]) -> None:
        """Put *items* into batches; return once those that are full by now are written."""
        full = []
        for item in items:
            agent_id = item.event.agent_id
            batch = self._batches.get(agent_id)
            if batch is None:
                batch = self._batches[agent_id] = []
                self._timers[agent_id] = asyncio.get_running_loop().call_later(self._seconds, self._expire, agent_id)
            batch.append(item)
            self._items += 1
            if len(batch) >= BATCH:
                full.append((agent_id, self._take(agent_id)))
        self._holds()
        await asyncio.gather(*(self._flush(agent_id, batch) for agent_id, batch in full))

    async def flush_all(self) -> None:
        """Write every batch that there is."""
        taken = [(agent_id, self._take(agent_id)) for agent_id in list(self._batches)]
        await asyncio.gather(*(self._flush(agent_id, batch) for agent_id, batch in taken))

    def _expire(self, agent_id: str) -> None:
        self._flushing.create_task(self._flush(agent_id, self._take(agent_id)))

    def _take(self, agent_id: str) -> list[Item]:
        self._timers.pop(agent_id).cancel()
        return self._batches.pop(agent_id)

    async def _flush(self, agent_id: str, batch: list[Item]) -> None:
        async with self._locks[agent_id]:  # or two batches of an agent would make the same document
            await self._outflow.write_one_by_one(batch)
        self._items -= len(batch)
        self._holds()

    def _holds(self) -> None:
        self._figures.holds(len(self._batches), self._items, len(self._timers))


async def work(settings: Settings, figures: Figures, stopping: asyncio.Event) -> None:
    """Read and batch; at the end write what is left."""
    async with (
        Outflow(settings, figures) as outflow,
        Inflow(settings, figures, auto_commit=True) as inflow,
        asyncio.TaskGroup() as flushing,
    ):
        batcher = Batcher(outflow, figures, settings.batch_time_ms / 1_000, flushing)
        async for items in inflow.chunks(stopping):
            await batcher.add(items)
        await batcher.flush_all()


if __name__ == "__main__":
    run(work)
