"""Redis: ``python -m benchmarks.architectures.with_redis``. Several instances that share their batches.

Each reads its partitions into Redis, and has a worker that looks for batches that are ready, claims them, and writes
those that it got in one bulk write (``benchmarks.architectures.shared`` says how, and what expiry loses).

Offsets are committed once what they cover is in Redis, every five seconds, as a client that is told what is finished
does by itself. So an instance that is killed loses nothing, but what it had put into Redis since its last commit is
read and put there again: counted twice. Committing after every round trip would make that window short, and not close
it: Redis and Kafka can't be written to at once. The second window is that between a bulk write and the end of its
claim.

Redis itself is one more place to lose from: with ``appendfsync everysec`` its crash takes up to a second of items,
whose offsets may be committed.

``FEEDBACK_REDIS_URL`` says where it is; ``FEEDBACK_REDIS_LEASE_MS`` how long a claim lasts.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from typing import Final

import msgspec
from redis.asyncio import Redis

from benchmarks.architectures.figures import Figures
from benchmarks.architectures.inflow import COMMIT_EVERY_S, Inflow
from benchmarks.architectures.items import Item
from benchmarks.architectures.outflow import Outflow
from benchmarks.architectures.service import run
from benchmarks.architectures.shared import Claim, SharedBatches
from feedback_app.core.events import Event
from feedback_app.settings import BatchingMode, Settings

URL: Final = "FEEDBACK_REDIS_URL"
LEASE: Final = "FEEDBACK_REDIS_LEASE_MS"

_POLL_S: Final = 0.1
_CLAIMED_AT_ONCE: Final = 500

#: Later than anything becomes due: claims every batch that there is.
_EVERYTHING_MS: Final = 1 << 52

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Event).decode


class Instance:
    """One instance: what reads into Redis, and the worker."""

    def __init__(
        self, settings: Settings, inflow: Inflow, outflow: Outflow, shared: SharedBatches, figures: Figures
    ) -> None:
        self._shares_one = settings.batching_mode is BatchingMode.GLOBAL
        self._inflow = inflow
        self._outflow = outflow
        self._shared = shared
        self._figures = figures
        self._put: dict[int, int] = {}
        self._putting = asyncio.Lock()
        self._committed_at = time.monotonic()

    async def read(self, stopping: asyncio.Event) -> None:
        """Put what comes into Redis until told to stop, and commit it."""
        async for items in self._inflow.chunks(stopping):
            if items:
                async with self._putting:
                    await self._shared.put(map(self._encoded, items), _now_ms())
                    self._put |= {item.partition: item.offset + 1 for item in items}
            if time.monotonic() - self._committed_at >= COMMIT_EVERY_S:
                await self.commit()
        await self.commit()

    async def commit(self) -> None:
        """Commit all that is in Redis; also before partitions go to another instance."""
        async with self._putting:
            await self._inflow.commit(self._put)
            self._committed_at = time.monotonic()

    def forget_partitions(self) -> None:
        """Start anew with what is assigned next."""
        self._put = {}

    async def write(self, stopping: asyncio.Event) -> None:
        """The worker: write what is ready, until told to stop."""
        while not stopping.is_set():
            waiting, _ = await self._shared.waiting()
            self._figures.holds(waiting, self._figures.items, timers=1)
            taken = await self._shared.take_over(_now_ms(), _CLAIMED_AT_ONCE)
            self._figures.taken_over += len(taken)
            if not await self._finish(taken) + await self._finish(
                await self._shared.claim(_now_ms(), _CLAIMED_AT_ONCE)
            ):
                await asyncio.sleep(_POLL_S)

    async def write_all(self) -> None:
        """Write the batches that are there, ready or not: an instance that is stopped in order leaves none behind."""
        left, _ = await self._shared.waiting()
        while left > 0:
            claims = await self._shared.claim(_EVERYTHING_MS, _CLAIMED_AT_ONCE)
            left = left - len(claims) if claims else 0
            await self._finish(claims)

    async def _finish(self, claims: Sequence[Claim]) -> int:
        there = [claim for claim in claims if claim.items]
        self._figures.expired += len(claims) - len(there)
        self._figures.holds(self._figures.batches, sum(len(claim.items) for claim in there), timers=1)
        if there:
            await self._outflow.write_in_bulk([[_item(item) for item in claim.items] for claim in there])
            await self._shared.finish(there)
        self._figures.holds(self._figures.batches, 0, timers=1)
        return len(claims)

    def _encoded(self, item: Item) -> tuple[str | None, bytes]:
        agent_id = None if self._shares_one else item.event.agent_id
        return agent_id, b"%d:%d:%b" % (item.partition, item.offset, _encode(item.event))


def _item(data: bytes) -> Item:
    partition, offset, event = data.split(b":", 2)
    return Item(_decode(event), int(partition), int(offset))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def work(settings: Settings, figures: Figures, stopping: asyncio.Event) -> None:
    """Read and write; at the end write what is left."""
    instance: Instance | None = None

    async def revoked() -> None:
        if instance is not None:
            await instance.commit()
            instance.forget_partitions()

    redis = Redis.from_url(os.environ[URL])
    shared = SharedBatches(
        redis,
        size=settings.batch_size,
        batch_ms=settings.batch_time_ms,
        lease_ms=int(os.environ.get(LEASE, "30000")),
    )
    async with (
        redis,
        Outflow(settings, figures) as outflow,
        Inflow(settings, figures, auto_commit=False, revoked=revoked) as inflow,
    ):
        instance = Instance(settings, inflow, outflow, shared, figures)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(instance.read(stopping))
            tasks.create_task(instance.write(stopping))
        await instance.write_all()


if __name__ == "__main__":
    run(work)
