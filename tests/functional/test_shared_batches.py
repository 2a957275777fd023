"""Batches that workers share in Redis: who gets one, who gets it again, and what expires."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from benchmarks.architectures.shared import CLAIMS, SharedBatches

_NOW = 1_000_000
_BATCH_MS = 5_000
_LEASE_MS = 2_000


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        await client.flushdb()
        yield client


def _shared(redis: Redis, **changes: int) -> SharedBatches:
    return SharedBatches(redis, **{"size": 3, "batch_ms": _BATCH_MS, "lease_ms": _LEASE_MS, **changes})


async def _put(shared: SharedBatches, agent_id: str | None, *items: bytes, now_ms: int = _NOW) -> None:
    await shared.put([(agent_id, item) for item in items], now_ms)


async def test_a_batch_is_ready_when_it_is_full_or_has_waited(redis: Redis) -> None:
    shared = _shared(redis)
    await _put(shared, "full", b"1", b"2")
    await _put(shared, "waits", b"4", now_ms=_NOW + 1)
    assert await shared.claim(_NOW + 1, 10) == []
    await _put(shared, "full", b"3", now_ms=_NOW + 2)
    assert [list(claim.items) for claim in await shared.claim(_NOW + 2, 10)] == [[b"1", b"2", b"3"]]
    assert await shared.claim(_NOW + _BATCH_MS, 10) == []
    assert [list(claim.items) for claim in await shared.claim(_NOW + _BATCH_MS + 1, 10)] == [[b"4"]]


async def test_what_comes_after_a_claim_is_another_batch(redis: Redis) -> None:
    shared = _shared(redis)
    await _put(shared, "a", b"1", b"2", b"3")
    (first,) = await shared.claim(_NOW, 10)
    await _put(shared, "a", b"4", b"5", b"6")
    (second,) = await shared.claim(_NOW, 10)
    assert (list(first.items), list(second.items)) == ([b"1", b"2", b"3"], [b"4", b"5", b"6"])
    await shared.finish([first])
    assert await shared.waiting() == (0, 1)
    await shared.finish([second])
    assert await shared.waiting() == (0, 0)


async def test_agents_have_a_batch_each_or_one_for_all(redis: Redis) -> None:
    shared = _shared(redis)
    await shared.put([("a", b"1"), ("b", b"2")], _NOW)
    assert await redis.keys("feedback:batch:*") != []
    assert sorted(await redis.keys("feedback:batch:*")) == [b"feedback:batch:a", b"feedback:batch:b"]
    await shared.put([(None, b"3"), (None, b"4")], _NOW)
    assert await redis.lrange("feedback:batch:global", 0, -1) == [b"3", b"4"]


async def test_no_two_workers_get_one_batch(redis: Redis, redis_url: str) -> None:
    """Ten workers at once, each with a connection of its own: every item is in exactly one claim."""
    items = [(f"agent-{number % 50}", b"%d" % number) for number in range(3_000)]
    await _shared(redis).put(items, _NOW)

    async def work() -> list[bytes]:
        got: list[bytes] = []
        async with Redis.from_url(redis_url) as own:
            shared = _shared(own)
            while claims := await shared.claim(_NOW + _BATCH_MS, 3):
                got += [item for claim in claims for item in claim.items]
                await shared.finish(claims)
        return got

    shares = await asyncio.gather(*(work() for _ in range(10)))
    assert sorted(item for share in shares for item in share) == sorted(item for _, item in items)
    assert sum(bool(share) for share in shares) > 1, "one worker got all: nothing was shown"
    assert await redis.keys("feedback:claim*") == []


# claimed at 0, until 2,000; taken over at 2,000, until 4,000
async def test_a_dead_workers_claim_is_taken_over_once(redis: Redis) -> None:
    shared = _shared(redis)
    await _put(shared, "a", b"1", b"2", b"3")
    (dead,) = await shared.claim(_NOW, 10)
    assert await shared.take_over(_NOW + _LEASE_MS - 1, 10) == []
    (taken,) = await shared.take_over(_NOW + _LEASE_MS, 10)
    assert taken == dead
    assert await shared.take_over(_NOW + _LEASE_MS, 10) == [], "it is another's now"
    assert await shared.take_over(_NOW + 2 * _LEASE_MS - 1, 10) == []
    await shared.finish([taken])
    assert await shared.take_over(_NOW + 9 * _LEASE_MS, 10) == []


async def test_what_expires_is_lost_and_told(redis: Redis) -> None:
    """Nobody has looked for as long as a batch is kept: what is left of it is its place in the queue."""
    shared = _shared(redis, expiry_ms=60_000)
    await _put(shared, "a", b"1", b"2", b"3")
    assert 50_000 < await redis.pttl("feedback:batch:a") <= 60_000
    await redis.delete("feedback:batch:a")  # as its expiry does
    (claim,) = await shared.claim(_NOW, 10)
    assert not claim.items
    assert await shared.waiting() == (0, 0)


async def test_a_claim_expires_with_its_batch(redis: Redis) -> None:
    shared = _shared(redis, expiry_ms=60_000)
    await _put(shared, "a", b"1", b"2", b"3")
    (claim,) = await shared.claim(_NOW, 10)
    assert 50_000 < await redis.pttl(claim.key) <= 60_000
    await redis.delete(claim.key)  # as its expiry does
    (taken,) = await shared.take_over(_NOW + _LEASE_MS, 10)
    assert not taken.items
    assert await redis.zcard(CLAIMS) == 0
