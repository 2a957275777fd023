"""What a worker holds does not grow with the backlog, nor with rebalances. ``make bench-memory`` has the figures."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks.bench import Bench
from benchmarks.workload import PARTITIONS, Workload
from feedback_app.embedded.worker import WorkerProcess
from feedback_app.provisioning import ensure_topics
from feedback_app.settings import Settings
from feedback_app.topics import Topics

MakeSettings = Callable[..., Settings]

pytestmark = [pytest.mark.timeout(400), pytest.mark.slow]

_DEADLINE_S = 150.0
_MOST_RATIO = 1.4


def test_memory_does_not_grow_with_the_backlog(kafka: str, tmp_path: Path) -> None:
    """Six times the backlog takes about the same memory; the records alone would be 200 MB more."""
    bench = Bench(kafka.removeprefix("kafka://"), f"t{uuid.uuid4().hex[:12]}-", tmp_path, _DEADLINE_S)
    small = bench.backlog("small", Workload.just_over(100_000, 1_000, 1))
    large = bench.backlog("large", Workload.just_over(600_000, 1_000, 6))
    assert small.failure == large.failure == ""
    assert large.peak_mb < _MOST_RATIO * small.peak_mb


# rebalances   1 .. 3 warm up | 4 .. 6 the most that is seen | 7 .. 15 | 16 .. 18 the least
def test_nothing_is_left_of_former_assignments(kafka: str, settings: MakeSettings, tmp_path: Path) -> None:
    """However often its partitions were taken over, a worker has the threads and open files of one assignment."""
    ours = settings(kafka, mongodb_url="mongodb://127.0.0.1:1", partitions=PARTITIONS, store_items=False)
    topics = Topics.of(ours)
    ensure_topics(ours, topics.specs())
    Workload.just_over(2_000, 100, 1).send(ours.bootstrap_servers, topics.feedback)
    log = tmp_path / "worker.log"
    with WorkerProcess(ours, log, app="tests.services.rejoining_worker") as worker:
        list(_held(worker, log, 3))
        before = list(_held(worker, log, 6))
        list(_held(worker, log, 15))
        after = list(_held(worker, log, 18))
    assert min(held.threads for held in after) <= max(held.threads for held in before)
    assert min(held.files for held in after) <= max(held.files for held in before)


class Held(NamedTuple):
    """How much of each a process has."""

    threads: int
    files: int


def _held(worker: WorkerProcess, log: Path, rebalances: int) -> Iterator[Held]:
    """Yield what *worker* holds, again and again, until all partitions were taken over so often."""
    deadline = time.monotonic() + _DEADLINE_S
    process = Path(f"/proc/{worker.pid}")
    while not log.exists() or log.read_text().count("is taken over") < rebalances * PARTITIONS:
        yield Held(len(list((process / "task").iterdir())), len(list((process / "fd").iterdir())))
        worker.check()
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)
