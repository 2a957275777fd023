"""Batches that several instances share, in Redis.

=========================== ============ =========================================================================
key                         type         holds
=========================== ============ =========================================================================
``feedback:batch:{agentId}`` list        the batch's items; ``feedback:batch:global`` in mode ``global``
``feedback:due``            sorted set   each batch, by when it has to be written (ms): at once, when it is full
``feedback:claim:{number}`` list         a batch that a worker has taken to write it
``feedback:claims``         sorted set   each claim, by when its worker counts as dead (ms)
``feedback:numbers``        integer      the number of the last claim
=========================== ============ =========================================================================

A batch is claimed by renaming it, in one script with taking it off ``feedback:due``: so no two workers get it, and what
comes meanwhile begins a new batch. A claim that is not finished in time is taken over by whoever looks next.

What that does not give: the write and the end of the claim are two steps in two systems. A worker that dies between
them, or is only slower than its claim lasts, has its batch written twice, and nothing tells.

Batches and claims expire, as the seed has it, so that nothing stays behind for ever. What has expired is lost: its
offsets were committed when it was put here. It takes *expiry_ms* without a new item of that batch and without a worker
that looks: a database that is away for so long, or workers that are down, or a batch time as long as the expiry, in
which case a batch expires in the moment in which it becomes due. (The seed's own settings have five minutes for both.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis

#: How long a batch, or a claim, is kept after its last item has come.
EXPIRY_MS: Final = 300_000

_PREFIX: Final = "feedback:"
_GLOBAL: Final = f"{_PREFIX}batch:global"
DUE: Final = f"{_PREFIX}due"
CLAIMS: Final = f"{_PREFIX}claims"

# KEYS: the batch, due. ARGV: when it becomes due by time, now, size, expiry, items.
_PUT: Final = """
local held = redis.call('RPUSH', KEYS[1], unpack(ARGV, 5))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
if held >= tonumber(ARGV[3]) then
    redis.call('ZADD', KEYS[2], ARGV[2], KEYS[1])
else
    redis.call('ZADD', KEYS[2], 'NX', ARGV[1], KEYS[1])
end
return held
"""

# KEYS: due, claims, numbers. ARGV: now, until when a claim lasts, how many, the prefix of claims.
_CLAIM: Final = """
local taken = {}
for _, batch in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])) do
    redis.call('ZREM', KEYS[1], batch)
    if redis.call('EXISTS', batch) == 1 then
        local claim = ARGV[4] .. redis.call('INCR', KEYS[3])
        redis.call('RENAME', batch, claim)
        redis.call('ZADD', KEYS[2], ARGV[2], claim)
        taken[#taken + 1] = {claim, redis.call('LRANGE', claim, 0, -1)}
    else
        taken[#taken + 1] = {batch, {}}
    end
end
return taken
"""

# KEYS: claims. ARGV: now, until when a claim lasts, how many.
_TAKE_OVER: Final = """
local taken = {}
for _, claim in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])) do
    local items = redis.call('LRANGE', claim, 0, -1)
    if #items > 0 then
        redis.call('ZADD', KEYS[1], ARGV[2], claim)
    else
        redis.call('ZREM', KEYS[1], claim)
    end
    taken[#taken + 1] = {claim, items}
end
return taken
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """A batch that is ours to write; without items, one that has expired before that."""

    key: str
    items: Sequence[bytes]


class SharedBatches:
    """The batches in Redis, as one instance sees them.

    Args:
        redis: a client that leaves what it reads as bytes.
        size: how many items fill a batch.
        batch_ms: how long a batch waits for that.
        lease_ms: how long a worker may take over a claim before another takes it.
    """

    def __init__(self, redis: Redis, *, size: int, batch_ms: int, lease_ms: int, expiry_ms: int = EXPIRY_MS) -> None:
        self._redis = redis
        self._size = size
        self._batch_ms = batch_ms
        self._lease_ms = lease_ms
        self._expiry_ms = expiry_ms
        self._put = redis.register_script(_PUT)
        self._claim = redis.register_script(_CLAIM)
        self._take_over = redis.register_script(_TAKE_OVER)

    async def put(self, items: Iterable[tuple[str | None, bytes]], now_ms: int) -> None:
        """Add items, each to the batch of its agent, or to the common one where that is None; in one round trip.

        Not all at once: an instance that dies has put some of them.
        """
        by_batch: dict[str, list[bytes]] = {}
        for agent_id, item in items:
            by_batch.setdefault(_GLOBAL if agent_id is None else f"{_PREFIX}batch:{agent_id}", []).append(item)
        pipeline = self._redis.pipeline(transaction=False)
        for key, added in by_batch.items():
            arguments: list[Any] = [now_ms + self._batch_ms, now_ms, self._size, self._expiry_ms, *added]
            await self._put(keys=[key, DUE], args=arguments, client=pipeline)
        await pipeline.execute()

    async def claim(self, now_ms: int, at_most: int) -> list[Claim]:
        """Take up to *at_most* batches that are full, or have waited long enough."""
        keys = [DUE, CLAIMS, f"{_PREFIX}numbers"]
        taken = await self._claim(keys=keys, args=[now_ms, now_ms + self._lease_ms, at_most, f"{_PREFIX}claim:"])
        return [Claim(key.decode(), items) for key, items in taken]

    async def take_over(self, now_ms: int, at_most: int) -> list[Claim]:
        """Take up to *at_most* claims whose workers have not finished in time."""
        taken = await self._take_over(keys=[CLAIMS], args=[now_ms, now_ms + self._lease_ms, at_most])
        return [Claim(key.decode(), items) for key, items in taken]

    async def finish(self, claims: Iterable[Claim]) -> None:
        """Let go of claims that are written."""
        keys = [claim.key for claim in claims if claim.items]
        if keys:
            async with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.delete(*keys)
                pipeline.zrem(CLAIMS, *keys)
                await pipeline.execute()

    async def waiting(self) -> tuple[int, int]:
        """Return how many batches wait to be written, and how many claims to be finished."""
        return await self._redis.zcard(DUE), await self._redis.zcard(CLAIMS)
