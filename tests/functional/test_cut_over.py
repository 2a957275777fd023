"""From v2 and from Redis to this application, under traffic, with the beginning of the topic gone: all totals exact."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from benchmarks.architectures.contenders import REDIS, V2, Architecture
from benchmarks.architectures.cut_over import NotYet, adopt, boundary, drained, final_until, written
from benchmarks.architectures.fleet import Fleet
from benchmarks.architectures.judging import stored
from benchmarks.scale.beside import beside
from benchmarks.scale.live import Traffic
from feedback_app.provisioning import ensure_topics
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.verification.reading import TopicReader
from tests.services.workers import StartWorker, until

pytestmark = pytest.mark.slow

_SETTINGS: dict[str, Any] = {
    "partitions": 2,
    "batch_time_ms": 2_000,
    "grace_ms": 500,
    "idle_ms": 1_000,
    "retention_ms": 1_000,
    "max_future_ms": 1_000,
    "store_items": False,
}
_LATER_MS = 3_600_000


@pytest.mark.usefixtures("redis_url")
@pytest.mark.parametrize("old", [V2, REDIS], ids=lambda old: old.name)
def test_a_cut_over(
    old: Architecture, kafka: str, settings: Callable[..., Settings], start_worker: StartWorker, tmp_path: Path
) -> None:
    """
    time ->      .... gone from the topic ....|................ on the topic ................
    old service  [======================================== killed, batches in flight
    ours                                        [ starts ====================================]
    windows      ... the old service's ...........|T.... ours ................................
    """
    new = settings(kafka, **_SETTINGS)
    was = new.model_copy(
        update={"app_id": f"{new.app_id}-old", "mongodb_database": f"{new.app_id}-old", **old.settings}
    )
    topic = Topics.of(new).feedback
    ensure_topics(new, Topics.of(new).specs())
    traffic = Traffic(new.bootstrap_servers, topic, 20, new.batch_time_ms, 200)
    with Fleet(old, was, tmp_path) as fleet:
        fleet.wait_until_joined()
        with beside(traffic.send) as stop:
            until(lambda: fleet.now("consumed") > 800)
            _delete_what_was_read(new, fleet)
            before = boundary(new)
            assert before > 0
            assert not written(new, was.app_id, before + _LATER_MS, late_ms=500)

            worker = start_worker(new)
            with pytest.raises(NotYet):
                adopt(new, was.mongodb_database, before + _LATER_MS)
            until(lambda: written(new, was.app_id, before, late_ms=500))
            if fleet.redis is not None:
                url, now_ms = fleet.redis.url, time.time_ns() // 1_000_000
                until(lambda: drained(url, now_ms, was.batch_time_ms))
            until(lambda: not fleet.nothing_left())
            fleet.kill_first()
            until(lambda: final_until(new) >= before)
            totals = stop()
    until(lambda: _windows(stored(new), before) == _windows(totals, before))
    worker.check()

    halves = {window: count for window, count in stored(new).items() if window[1] >= before}
    assert halves == {window: count for window, count in totals.items() if window[1] >= before}
    assert stored(new) != totals, "nothing was missing from the topic: nothing was shown"
    assert stored(was) != totals, "nothing was in flight: nothing was shown"
    adopted = adopt(new, was.mongodb_database, before)
    assert adopted == len(totals) - len(halves)
    assert stored(new) == totals
    assert adopt(new, was.mongodb_database, before) == adopted
    assert stored(new) == totals


def test_everything_is_counted_anew_where_nothing_is_gone(kafka: str, settings: Callable[..., Settings]) -> None:
    new = settings(kafka, **_SETTINGS)
    ensure_topics(new, Topics.of(new).specs())
    assert boundary(new) == 0
    assert adopt(new, f"{new.mongodb_database}-old", 0) == 0


def _windows(counts: Any, since: int) -> set[tuple[str, int]]:
    return {window for window in counts if window[1] >= since}


def _delete_what_was_read(settings: Settings, fleet: Fleet) -> None:
    """Delete what is on the topic by now, as its retention does, once the old service has read it."""
    topic = Topics.of(settings).feedback
    with TopicReader(settings) as reader:
        ends = {partition: held.end for partition, held in reader.ranges(topic).items()}
    until(lambda: fleet.now("consumed") >= sum(ends.values()))
    admin = AdminClient({"bootstrap.servers": settings.bootstrap_servers})
    positions = [TopicPartition(topic, partition, end) for partition, end in ends.items()]
    for deleted in admin.delete_records(positions).values():
        deleted.result(30)
