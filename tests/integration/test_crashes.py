"""Workers that are killed, paused, wiped and cut off, on a real Kafka: every total is exact all the same.

Each test sends labelled traffic while something happens to the workers, waits until everything is read and closed, and
lets the verifier recount: each record in exactly one place, each aggregated event once for a reader of committed ones.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from feedback_app.embedded.database import EmbeddedDatabase
from feedback_app.embedded.worker import WorkerProcess
from feedback_app.provisioning import ensure_topics
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.traffic import Traffic, paced, scenario, send, spread
from feedback_app.verification import verify
from tests.services.workers import StartWorker, partitions_of, until

_PACE = 4_000
_SETTINGS = {
    "partitions": 4,
    "batch_time_ms": 2_000,
    "grace_ms": 1_000,
    "idle_ms": 2_000,
    "retention_ms": 15_000,
    "store_items": False,
    "batch_size": 50,
}


class Stream:
    """Labelled traffic, sent in the background."""

    def __init__(self, settings: Settings, seconds: float) -> None:
        ensure_topics(settings, Topics.of(settings).specs())
        self.traffic = Traffic()
        self.seed = random.SystemRandom().randrange(1 << 32)
        print(f"traffic seed {self.seed}")
        plan = scenario(settings, seed=self.seed, agents=60, late_share=0.01, invalid_share=0.01)
        self._thread = ThreadPoolExecutor(1)
        self._sent = self._thread.submit(send, settings, plan, paced(_PACE, seconds), self.traffic, lambda sent: None)

    def wait(self) -> None:
        self._sent.result()
        self._thread.shutdown()

    def wait_until_sent(self, records: int) -> None:
        deadline = time.monotonic() + 60
        while self.traffic.produced < records and not self._sent.done():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def assert_exact(settings: Settings, traffic: Traffic) -> None:
    """Wait until everything is counted and closed, and compare with a recount and with the labels."""
    verdict = verify(settings, 90, until_closed=True)
    assert verdict.verified, verdict
    assert verdict.open == 0
    assert (verdict.input, verdict.counted) == (traffic.produced, traffic.counted)
    assert (verdict.late, verdict.dead_lettered) == (traffic.late.total(), traffic.invalid.total())


def test_worker_killed_again_and_again(
    kafka: str, settings: Callable[..., Settings], start_worker: StartWorker
) -> None:
    """kill -9 at any moment, then a restart on the same data dir: all windows close, with the exact counts."""
    one = settings(kafka, **_SETTINGS)
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"kill seed {seed}")
    chance = random.Random(seed)
    stream = Stream(one, 16)
    worker = start_worker(one)
    for _ in range(4):
        time.sleep(chance.uniform(0.2, 3))  # the moment of the kill is what is tested
        worker.kill()
        worker.start()
        worker.wait_until_ready()
    stream.wait()
    assert_exact(one, stream.traffic)


def test_one_of_two_workers_killed_and_back_with_an_empty_disk(
    kafka: str, settings: Callable[..., Settings], start_worker: StartWorker
) -> None:
    one, two = settings(kafka, **_SETTINGS), settings(kafka, **_SETTINGS)
    stream = Stream(one, 25)
    first = start_worker(one)
    second = start_worker(two)
    until(lambda: partitions_of(first) and partitions_of(second))
    stream.wait_until_sent(30_000)
    first.kill()
    until(lambda: len(partitions_of(second)) == one.partitions)
    shutil.rmtree(one.data_dir)
    first.start()
    first.wait_until_ready()
    until(lambda: partitions_of(first))
    stream.wait()
    assert_exact(one, stream.traffic)
    assert not partitions_of(first) & partitions_of(second)


def test_a_zombie_wakes_up_and_does_no_harm(
    kafka: str, settings: Callable[..., Settings], start_worker: StartWorker
) -> None:
    """SIGSTOP past the session timeout, then SIGCONT: fenced, it joins again, and works on."""
    one, two = settings(kafka, **_SETTINGS), settings(kafka, **_SETTINGS)
    stream = Stream(one, 30)
    first = start_worker(one)
    second = start_worker(two)
    until(lambda: partitions_of(first) and partitions_of(second))
    stream.wait_until_sent(15_000)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        until(lambda: len(partitions_of(second)) == one.partitions)
    finally:
        os.kill(first.pid, signal.SIGCONT)
    until(lambda: partitions_of(first))
    stream.wait()
    assert_exact(one, stream.traffic)
    first.check()
    second.check()


def test_windows_wait_on_disk_while_the_database_is_away(
    kafka: str, settings: Callable[..., Settings], start_worker: StartWorker, tmp_path: Path
) -> None:
    """The database is killed, several windows become due meanwhile, the worker is killed too; nothing is lost."""
    with EmbeddedDatabase(tmp_path / "own-database") as database:
        one = settings(kafka, mongodb_url=database.url, **_SETTINGS)
        stream = Stream(one, 14)
        worker = start_worker(one)
        stream.wait_until_sent(12_000)
        database.kill()
        until(lambda: (worker.get("/health/ready")[1] or {}).get("status") == "degraded")
        stream.wait()
        assert worker.get("/health/ready")[0] == 200  # it goes on counting
        worker.kill()
        database.start()
        worker.start()
        assert_exact(one, stream.traffic)
        assert worker.get("/health/ready")[1]["status"] == "ready"


def test_an_agent_is_answered_by_its_owner_whoever_is_asked(
    kafka: str, settings: Callable[..., Settings], start_worker: StartWorker
) -> None:
    quiet = _SETTINGS | {"batch_time_ms": 3_600_000, "idle_ms": 3_600_000}
    one, two = settings(kafka, **quiet), settings(kafka, **quiet)
    ensure_topics(one, Topics.of(one).specs())
    traffic = Traffic()
    plan = scenario(one, seed=1, agents=12, late_share=0, invalid_share=0)
    send(one, plan, spread(600, 0), traffic, lambda sent: None)
    first, second = start_worker(one), start_worker(two)
    until(lambda: len(partitions_of(first)) == len(partitions_of(second)) == 2)
    agents = [f"agent-{number:04d}" for number in range(1, 13)]

    def counted(worker: WorkerProcess) -> list[int]:
        answers = [worker.get(f"/feedback/agents/{agent}") for agent in agents]
        return [sum(window["count"] for window in body["open"]) if status == 200 else -1 for status, body in answers]

    until(lambda: sum(counted(first)) == 600)
    assert counted(first) == counted(second)
