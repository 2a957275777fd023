"""The four architectures on one small input: the same documents, whoever writes them, and what a kill does to each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from benchmarks.architectures.contenders import (
    ARCHITECTURES,
    OURS_2,
    REDIS_2,
    V1,
    V2,
    V2_AGENT,
    V2_GLOBAL,
    Architecture,
)
from benchmarks.architectures.fleet import Fleet
from benchmarks.architectures.judging import documents, judge, stored
from benchmarks.architectures.shared import SharedBatches
from benchmarks.architectures.sustained import wait_until_read
from benchmarks.bench import Input
from benchmarks.measuring import Watcher
from benchmarks.workload import Workload
from feedback_app.provisioning import ensure_topics
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.verification.reading import TopicReader
from tests.services.workers import until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("redis_url")]

_SETTINGS: dict[str, Any] = {
    "partitions": 2,
    "batch_time_ms": 60_000,
    "grace_ms": 5_000,
    "idle_ms": 3_600_000,
    "store_items": False,
}
#: Written by each as it pleases, and no part of what a document says.
_NOT_COMPARED = {"closedAt", "revision"}


def _own(settings: Settings, architecture: Architecture, tmp_path: Path) -> Settings:
    """Return the settings of *architecture* on the topics of *settings*: a group and a database of its own."""
    unique = f"{settings.app_id}-{architecture.name}".replace("_", "-")
    own = {"app_id": unique, "mongodb_database": unique, "data_dir": tmp_path / unique}
    return settings.model_copy(update=own | dict(architecture.settings))


def _comparable(settings: Settings) -> dict[str, dict[str, Any]]:
    found = {}
    for document in documents(settings):
        kept = {name: value for name, value in document.items() if value is not None and name not in _NOT_COMPARED}
        kept["tags"] = {entry["tag"]: entry["count"] for entry in kept["tags"]}
        found[document["_id"]] = kept
    return found


def test_all_give_the_same_documents(kafka: str, settings: Callable[..., Settings], tmp_path: Path) -> None:
    """On one topic, with scores, tags and disorder; the batches are cut off by size, at the end, and by eviction."""
    common = settings(kafka, **_SETTINGS)
    given = Input.send(common, Workload.just_over(1_500, 12, 2, partitions=2))
    written: dict[str, dict[str, dict[str, Any]]] = {}
    for architecture in (*ARCHITECTURES, V2_GLOBAL, V2_AGENT):
        own = _own(common, architecture, tmp_path)
        if architecture is V2_AGENT:
            own = own.model_copy(update={"max_batches": 3})
        with (
            Watcher(own.bootstrap_servers, given.job(group=own.app_id)) as watcher,
            Fleet(architecture, own, tmp_path) as fleet,
        ):
            if architecture.ours:
                until(partial(_counted_and_closed, watcher, own, given))
            else:
                wait_until_read(fleet, given.records, 60)
                fleet.stop_in_order(60)
                assert fleet.total("flushed") == given.records
                assert (fleet.total("evicted") > 0) is (architecture is V2_AGENT)
                if architecture is V1:
                    assert fleet.total("calls") == 2 * given.records
                elif architecture is not V2_AGENT:
                    assert fleet.total("calls") < given.records / 5
            if architecture is not OURS_2:  # the aggregated events of one are on the topic already
                loss = judge(own, given.totals, ours=architecture.ours, wait_s=60)
                assert loss.none, f"{architecture.name}: {loss}"
        due = {f"{agent_id}|{start}|60000" for agent_id, start in given.totals}
        written[architecture.name] = {key: kept for key, kept in _comparable(own).items() if key in due}
    first = written.pop(V1.name)
    assert len(first) == len(given.totals)
    for name, other in written.items():
        assert other == first, name


def _counted_and_closed(watcher: Watcher, own: Settings, given: Input) -> bool:
    return watcher.counted() == given.records and len(stored(own)) == len(given.totals)


def test_a_killed_v2_counts_twice_what_it_had_not_committed(
    kafka: str, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """Its batches hold it back from committing: nothing in them is lost, and what was written beyond them is read, and
    added, again."""
    own = _own(settings(kafka, **_SETTINGS), V2, tmp_path).model_copy(update={"batch_size": 20})
    given = Input.send(own, Workload.just_over(1_000, 5, 1, partitions=2))
    topic = Topics.of(own).feedback
    with TopicReader(own) as reader, Fleet(V2, own, tmp_path) as fleet:
        wait_until_read(fleet, given.records, 60)
        until(lambda: len(reader.group_offsets(topic)) == own.partitions)
        held = fleet.now("items")
        assert sum(reader.group_offsets(topic).values()) <= given.records - held
        fleet.kill_and_restart_first()
        until(lambda: fleet.now("consumed") > 0)
        _wait_until_quiet(fleet)
        fleet.stop_in_order(60)
    loss = judge(own, given.totals, ours=False)
    assert loss.lost == 0
    assert loss.doubled > 0


def test_a_killed_v1_loses_what_was_committed_and_not_written(
    kafka: str, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """The client commits by the clock, whatever is still in a batch."""
    own = _own(settings(kafka, **_SETTINGS), V1, tmp_path)
    given = Input.send(own, Workload.just_over(60, 30, 1, partitions=2))
    with Watcher(own.bootstrap_servers, given.job(group=own.app_id)) as watcher, Fleet(V1, own, tmp_path) as fleet:
        until(lambda: watcher.counted() == given.records)
        held = fleet.now("items")
        assert held > 0
        fleet.kill_and_restart_first()
        fleet.wait_until_joined()
        fleet.stop_in_order(60)
    loss = judge(own, given.totals, ours=False)
    assert loss.doubled == 0
    # The ticks are in batches too, and no part of what is due.
    assert held - 2 <= loss.lost <= held


def test_a_dead_workers_claim_is_written_by_another(
    kafka: str, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    own = _own(settings(kafka, **_SETTINGS), REDIS_2, tmp_path)
    ensure_topics(own, Topics.of(own).specs())
    item = b'0:7:{"feedbackId":"f","agentId":"a","userId":"u","rating":"positive","timestamp":60000}'

    async def claim_and_die(url: str) -> None:
        async with Redis.from_url(url) as redis:
            shared = SharedBatches(redis, size=1, batch_ms=60_000, lease_ms=1)
            await shared.put([("a", item)], 0)
            assert await shared.claim(0, 1)

    with Fleet(REDIS_2, own, tmp_path) as fleet:
        assert fleet.redis is not None
        asyncio.run(claim_and_die(fleet.redis.url))
        until(lambda: fleet.now("taken_over") == 1 and fleet.nothing_left())
        fleet.stop_in_order(60)
        assert (fleet.total("taken_over"), fleet.total("flushed")) == (1, 1)
    assert stored(own) == {("a", 60_000): 1}


def test_what_a_dead_instance_had_read_is_written_by_the_other(
    kafka: str, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """Two instances, one of which is killed for good: what it had read is in Redis, and the other writes it."""
    own = _own(settings(kafka, **_SETTINGS), REDIS_2, tmp_path)
    given = Input.send(own, Workload.just_over(600, 30, 1, partitions=2))
    with (
        Watcher(own.bootstrap_servers, given.job(group=own.app_id, members=2)) as watcher,
        Fleet(REDIS_2, own, tmp_path) as fleet,
    ):
        until(lambda: watcher.counted() == given.records)  # all is in Redis, and committed
        fleet.kill_first()
        fleet.stop_in_order(60)
        assert fleet.nothing_left()
    loss = judge(own, given.totals, ours=False)
    assert loss.none, loss


def _wait_until_quiet(fleet: Fleet, seconds: float = 1.5) -> None:
    """Wait until the members have read nothing for *seconds*."""
    read, since, deadline = -1.0, time.monotonic(), time.monotonic() + 60
    while time.monotonic() - since < seconds:
        assert time.monotonic() < deadline
        if (now := fleet.now("consumed")) != read:
            read, since = now, time.monotonic()
        time.sleep(0.05)
